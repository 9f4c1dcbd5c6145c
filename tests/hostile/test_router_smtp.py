"""SMTP has one reply for a message: it says what became of the one recipient, or there is one for each (PRDR)."""

from __future__ import annotations

import pytest

from cyrusext.runtime.config_schema import Timeouts
from tests.harness.lmtp_peer import RouterUnderTest, Script, ScriptedBackend, play

A, B, A2 = b"<u0@example.org>", b"<u1@example.org>", b"<u2@example.org>"
NOBODY = b"<nobody@example.org>"
BODY = b"Subject: x\r\n\r\nhello\r\n"
QUICK = Timeouts(connect=0.4, greeting=0.4, envelope=0.4, data=0.4, final=0.4, idle=30.0)


def pair(a: Script | None = None, b: Script | None = None) -> dict[str, ScriptedBackend]:
    return {"a": ScriptedBackend(a), "b": ScriptedBackend(b)}


def test_a_message_to_one_recipient() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            for hello in (b"EHLO c", b"HELO c"):
                client = await router.client(lhlo=False, smtp=True)
                assert (await client.ask(b"LHLO c")).startswith(b"500 5.5.1")
                assert (await client.ask(b"MAIL FROM:<>")).startswith(b"503 5.5.1")
                assert (await client.ask(hello)).startswith(b"250")
                assert await client.message(BODY, A) == [b"250 2.1.5 %b delivered\r\n" % A]
                assert await client.message(BODY, B) == [b"250 2.1.5 %b delivered\r\n" % B]
            assert [len(backend.messages) for backend in router.backends.values()] == [2, 2]
            lmtp = await router.client(lhlo=False)
            assert (await lmtp.ask(b"EHLO c")).startswith(b"500 5.5.1")
            assert (await lmtp.ask(b"HELO c")).startswith(b"500 5.5.1")

    play(test)


@pytest.mark.parametrize("together", [True, False])
def test_further_recipients_are_for_a_transaction_of_their_own(together: bool) -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client(smtp=True)
            if together:
                replies = await client.envelope(A, B, A2, A)
            else:
                assert (await client.ask(b"MAIL FROM:<f@example.org>")).startswith(b"250")
                replies = [await client.ask(b"RCPT TO:" + path) for path in (A, B, A2, A)]
            assert [reply[:9] for reply in replies] == [b"250 2.1.5", *[b"452 4.5.3"] * 3]
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\nNOOP\r\n")
            assert await client.reply() == b"250 2.1.5 %b delivered\r\n" % A
            assert await client.reply() == b"250 2.0.0 OK\r\n", "one reply and no more"
            assert [len(backend.messages) for backend in router.backends.values()] == [1, 0]

    play(test)


def test_a_recipient_that_was_refused_leaves_its_place_to_the_next() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(rcpt={A2: b"452 4.2.2 full\r\n"}))) as router:
            client = await router.client(smtp=True)
            assert (await client.ask(b"MAIL FROM:<f@example.org>")).startswith(b"250")
            replies = [await client.ask(b"RCPT TO:" + path) for path in (NOBODY, A2, B, A)]
            assert [reply[:9] for reply in replies] == [b"550 5.1.1", b"452 4.2.2", b"250 2.1.5", b"452 4.5.3"]
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\n")
            assert await client.reply() == b"250 2.1.5 %b delivered\r\n" % B

    play(test)


def test_the_reply_is_the_backends_own() -> None:
    full = b"552-5.2.2 Over quota,\r\n552 5.2.2 really\r\n"

    async def test() -> None:
        async with RouterUnderTest(pair(Script(final={A: full}), Script(drop_after="dot"))) as router:
            client = await router.client(smtp=True)
            assert await client.message(BODY, A) == [full]
            assert (await client.message(BODY, B))[0].startswith(b"451 4.4.2")

    play(test)


async def prdr(router: RouterUnderTest, *rcpts: bytes, count: int) -> list[bytes]:
    """Send a message with PRDR; the `count` replies after it, and nothing else comes."""
    client = await router.client(smtp=True)
    replies = await client.envelope(*rcpts, mail=b"<f@example.org> PRDR")
    assert (await client.ask(b"DATA")).startswith(b"354"), replies
    client.send(BODY + b".\r\nNOOP\r\n")
    finals = await client.replies(count)
    assert await client.reply() == b"250 2.0.0 OK\r\n"
    return finals


def test_prdr_all_take_it() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            replies = await prdr(router, B, A, A2, A, count=6)
            assert replies[0].startswith(b"353 ")
            assert replies[1:5] == [b"250 2.1.5 %b delivered\r\n" % path for path in (B, A, A2, A)]
            assert replies[5].startswith(b"250 2.0.0")
            assert [len(backend.messages) for backend in router.backends.values()] == [1, 1]
            assert not [c for backend in router.backends.values() for c in backend.commands if b"PRDR" in c]

    play(test)


def test_prdr_with_one_recipient_is_as_without() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            assert await prdr(router, NOBODY, A, count=1) == [b"250 2.1.5 %b delivered\r\n" % A]

    play(test)


@pytest.mark.parametrize(
    ("a", "b", "codes"),
    [
        (b"552 5.2.2 full\r\n", b"250 2.1.5 ok\r\n", [b"353", b"552", b"250", b"250"]),
        (b"452 4.2.2 full\r\n", b"250 2.1.5 ok\r\n", [b"353", b"452", b"250", b"250"]),
        (b"552 5.2.2 full\r\n", b"452 4.2.2 full\r\n", [b"353", b"552", b"452", b"451"]),
        (b"552 5.2.2 full\r\n", b"554 5.3.0 no\r\n", [b"353", b"552", b"554", b"554"]),
        (b"452 4.2.2 full\r\n", b"451 4.3.0 no\r\n", [b"353", b"452", b"451", b"451"]),
    ],
)
def test_the_last_reply_of_prdr_is_not_worse_than_any(a: bytes, b: bytes, codes: list[bytes]) -> None:
    """A client takes a negative one for all recipients: never a 5xx over somebody's 4xx, nor any over a 250."""

    async def test() -> None:
        async with RouterUnderTest(pair(Script(final={A: a}), Script(final={B: b}))) as router:
            assert [reply[:3] for reply in await prdr(router, A, B, count=4)] == codes

    play(test)


def test_prdr_of_a_message_that_reaches_nobody() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(drop_after="dot"), Script(hang_at="dot")), timeouts=QUICK) as router:
            assert [reply[:3] for reply in await prdr(router, A, B, count=4)] == [b"353", b"451", b"451", b"451"]
            client = await router.client(smtp=True)
            await client.envelope(A, B, mail=b"<> PRDR")
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(b"bare\nnewline\r\n.\r\n")
            assert await client.codes(4) == [b"353", b"554", b"554", b"554"]

    play(test)
