"""A stale location is not a bounce: asked again, followed once, else deferred."""

from __future__ import annotations

import pytest

from cyrusext.lookup import Answer, Verdict
from tests.harness.lmtp_peer import RouterUnderTest, Script, ScriptedBackend, play

pytestmark = pytest.mark.faults

A, B = b"<u0@example.org>", b"<u1@example.org>"
BODY = b"Subject: x\r\n\r\nhello\r\n"


def pair(a: Script | None = None, b: Script | None = None) -> dict[str, ScriptedBackend]:
    return {"a": ScriptedBackend(a), "b": ScriptedBackend(b)}


def test_stale_location_is_followed_once() -> None:
    unknown = b"550-Mailbox unknown.\r\n550 5.1.1 User unknown\r\n"

    async def test() -> None:
        async with RouterUnderTest(pair(Script(rcpt={A: unknown}))) as router:
            router.lookup.next[A[1:-1]] = ["a", "b"]
            client = await router.client()
            replies = await client.message(BODY, A, B)
            assert [reply[:3] for reply in replies] == [b"250", b"250"]
            assert router.backends["b"].messages[0].rcpts == [B, A]
            assert router.backends["a"].messages == []

    play(test)


def test_stale_location_after_data_was_pipelined() -> None:
    unknown = b"550 5.1.1 User unknown\r\n"

    async def test() -> None:
        async with RouterUnderTest(pair(Script(rcpt={A: unknown}))) as router:
            router.lookup.next[A[1:-1]] = ["a", "b"]
            client = await router.client()
            client.send(b"MAIL FROM:<f@example.org>\r\nRCPT TO:%b\r\nRCPT TO:%b\r\nDATA\r\n" % (A, B))
            assert await client.codes(4) == [b"250", b"250", b"250", b"354"]
            client.send(BODY + b".\r\n")
            assert await client.replies(2) == [b"250 2.1.5 %b delivered\r\n" % path for path in (A, B)]
            assert sorted(m.rcpts[0] for m in router.backends["b"].messages) == [A, B]

    play(test)


@pytest.mark.parametrize(
    ("second", "reply"),
    [
        ("a", b"451 4.4.3"),
        (Answer(Verdict.ABSENT), b"550 5.1.1 its own words"),
        (Answer(Verdict.TEMPORARY), b"451 4.4.3"),
        (Answer(Verdict.TEMPORARY, unsettled=True), b"451 4.2.1"),
    ],
)
def test_unknown_at_the_backend_is_a_bounce_only_when_the_index_says_so_too(second: str | Answer, reply: bytes) -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(rcpt={A: b"550 5.1.1 its own words\r\n"}))) as router:
            router.lookup.next[A[1:-1]] = ["a", second]
            client = await router.client()
            replies = await client.envelope(A, B)
            assert replies[0].startswith(reply)
            assert replies[1].startswith(b"250")

    play(test)


def test_unknown_at_both_places_is_deferred() -> None:
    unknown = Script(rcpt={A: b"550 5.1.1 User unknown\r\n"})

    async def test() -> None:
        async with RouterUnderTest(pair(unknown, unknown)) as router:
            router.lookup.next[A[1:-1]] = ["a", "b", "a", "b"]
            client = await router.client()
            assert (await client.envelope(A))[0].startswith(b"451 4.4.3")

    play(test)


@pytest.mark.parametrize(
    ("now", "reply"),
    [
        ("a", b"451 4.4.3"),
        ("b", b"451 4.4.3"),
        (Answer(Verdict.ABSENT), b"550-its own words\r\n550 5.1.1 User unknown\r\n"),
        (Answer(Verdict.TEMPORARY, unsettled=True), b"451 4.2.1"),
    ],
)
def test_mailbox_that_leaves_between_rcpt_and_delivery_is_no_bounce(now: str | Answer, reply: bytes) -> None:
    gone = Script(final={A: b"550-its own words\r\n550 5.1.1 User unknown\r\n"})

    async def test() -> None:
        async with RouterUnderTest(pair(gone)) as router:
            router.lookup.next[A[1:-1]] = ["a", now]
            client = await router.client()
            replies = await client.message(BODY, A, B)
            assert replies[0].startswith(reply)
            assert replies[1].startswith(b"250")

    play(test)


DELETED_THERE = Answer(Verdict.ABSENT, b"user.u0", "a", "default", "mailbox was deleted")


def test_a_rename_that_was_torn_long_ago_bounces_nothing_either() -> None:
    """The node has its DELETE and no more, and a minute has passed: the backend has the mailbox, and takes its mail."""

    async def test() -> None:
        async with RouterUnderTest(pair(), {A[1:-1]: DELETED_THERE}) as router:
            client = await router.client()
            assert [reply[:3] for reply in await client.message(BODY, A, B)] == [b"250", b"250"]
            assert router.backends["a"].messages[0].rcpts == [A]

    play(test)


def test_who_is_deleted_by_all_accounts_is_refused_by_the_backend() -> None:
    async def test() -> None:
        unknown = Script(rcpt={A: b"550-its own words\r\n550 5.1.1 User unknown\r\n"})
        async with RouterUnderTest(pair(unknown), {A[1:-1]: DELETED_THERE}) as router:
            client = await router.client()
            replies = await client.envelope(A, B)
            assert replies[0] == b"550-its own words\r\n550 5.1.1 User unknown\r\n"
            await router.backends["a"].stop()
            await client.ask(b"RSET")
            assert (await client.envelope(A))[0].startswith(b"451 4.4.1"), "a no is proved by nobody"

    play(test)
