"""What a backend or a client does wrong costs its own recipients and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from cyrusext.runtime.config_schema import Timeouts
from tests.harness.lmtp_peer import RouterUnderTest, Script, ScriptedBackend, play, wait_until

pytestmark = pytest.mark.faults

A, B, A2, B2 = b"<u0@example.org>", b"<u1@example.org>", b"<u2@example.org>", b"<u3@example.org>"
BODY = b"Subject: x\r\n\r\nhello\r\n"
QUICK = Timeouts(connect=0.4, greeting=0.4, envelope=0.4, data=0.4, final=0.4, idle=30.0)


def pair(a: Script | None = None, b: Script | None = None) -> dict[str, ScriptedBackend]:
    return {"a": ScriptedBackend(a), "b": ScriptedBackend(b)}


def test_a_lost_backend_does_not_change_what_another_answered() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(drop_after="dot"))) as router:
            client = await router.client()
            replies = await client.message(BODY, A, B, A2)
            assert [reply[:9] for reply in replies] == [b"451 4.4.2", b"250 2.1.5", b"451 4.4.2"]
            assert [message.body for message in router.backends["b"].messages] == [BODY]

    play(test)


def test_replies_already_received_count() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(drop_after_finals=1))) as router:
            client = await router.client()
            replies = await client.message(BODY, A, A2, B)
            assert [reply[:9] for reply in replies] == [b"250 2.1.5", b"451 4.4.2", b"250 2.1.5"]

    play(test)


def test_no_body_without_354_and_no_250_either() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(data=b"554-5.3.0 no\r\n554 5.3.0 data\r\n"))) as router:
            client = await router.client()
            replies = await client.message(BODY, A, B, A2)
            assert replies[0] == replies[2] == b"554-5.3.0 no\r\n554 5.3.0 data\r\n"
            assert replies[1].startswith(b"250 ")
            assert not router.backends["a"].messages
            assert not router.backends["a"].partial
            assert not [c for c in router.backends["a"].commands if b"Subject" in c]
            again = await client.message(BODY, A, B)
            assert [reply[:3] for reply in again] == [b"554", b"250"]
            assert router.backends["a"].connections == 1

    play(test)


def test_all_backends_refuse_data() -> None:
    async def test() -> None:
        async with RouterUnderTest(
            pair(Script(data=b"452 4.3.1 full\r\n"), Script(data=b"554 5.3.0 no\r\n"))
        ) as router:
            client = await router.client()
            assert await client.message(BODY, A, B) == [b"452 4.3.1 full\r\n", b"554 5.3.0 no\r\n"]

    play(test)


def test_multi_line_replies_stay_whole() -> None:
    lines = b"550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three\r\n"

    async def test() -> None:
        script = Script(rcpt={A2: lines}, final={A: lines.replace(b"550", b"452")})
        async with RouterUnderTest(pair(script)) as router:
            client = await router.client()
            replies = await client.envelope(A, A2, B)
            assert replies[1] == lines
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\nNOOP\r\n")
            replies = await client.replies(3)
            assert replies[0] == lines.replace(b"550", b"452")
            assert replies[1].startswith(b"250 2.1.5 <u1")
            assert replies[2] == b"250 2.0.0 OK\r\n"

    play(test)


@pytest.mark.parametrize("place", ["mail", "rcpt", "data", "354", "body", "dot"])
def test_a_backend_that_drops(place: str) -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(drop_after=place))) as router:
            client = await router.client()
            client.send(b"MAIL FROM:<f@example.org>\r\nRCPT TO:%b\r\nRCPT TO:%b\r\n" % (A, B))
            _, a, b = await client.replies(3)
            accepted = [reply.startswith(b"250") for reply in (a, b)]
            assert b.startswith(b"250")
            assert accepted[0] or a.startswith(b"451 4.4.2")
            assert accepted[0] is (place not in ("mail", "rcpt"))
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\n")
            replies = await client.replies(sum(accepted))
            assert replies[-1].startswith(b"250 2.1.5 <u1")
            assert all(reply.startswith(b"451 4.4.2") for reply in replies[:-1])
            assert len(router.backends["b"].messages) == 1
            assert len(router.backends["a"].messages) == (1 if place == "dot" else 0)

    play(test)


@pytest.mark.parametrize("place", ["greeting", "mail", "rcpt", "data", "dot"])
def test_a_backend_that_hangs(place: str) -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(hang_at=place)), timeouts=QUICK) as router:
            client = await router.client()
            client.send(b"MAIL FROM:<f@example.org>\r\nRCPT TO:%b\r\nRCPT TO:%b\r\n" % (A, B))
            _, a, b = await client.replies(3)
            assert b.startswith(b"250")
            accepted = a.startswith(b"250")
            assert accepted is (place in ("data", "dot"))
            assert accepted or a[:9] in (b"451 4.4.1", b"451 4.4.2")
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\n")
            replies = await client.replies(1 + accepted)
            assert replies[-1].startswith(b"250 2.1.5 <u1")
            assert all(reply.startswith(b"451 4.4.2") for reply in replies[:-1])

    play(test)


@pytest.mark.parametrize(
    "answers",
    [
        Script(mail=b"250 2.1.0 ok\r\n250 2.1.0 twice\r\n"),
        Script(rcpt={A: b"354 what\r\n"}),
        Script(rcpt={A: b"250 ok\n"}),
        Script(rcpt={A: b"250-half\r\n251 other\r\n"}),
        Script(data=b"250 2.0.0 already\r\n"),
        Script(final={A: b"354 more\r\n"}),
        Script(final={A: b"nonsense\r\n"}),
        Script(data=b"354 go\r\n250 2.0.0 early\r\n"),
    ],
)
def test_a_backend_that_makes_no_sense_never_makes_a_250(answers: Script) -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(answers), timeouts=QUICK) as router:
            client = await router.client()
            client.send(b"MAIL FROM:<f@example.org>\r\nRCPT TO:%b\r\nRCPT TO:%b\r\n" % (A, B))
            _, a, b = await client.replies(3)
            assert b.startswith(b"250")
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\n")
            replies = await client.replies(1 + a.startswith(b"250"))
            assert replies[-1].startswith(b"250 2.1.5 <u1")
            assert all(reply.startswith(b"4") for reply in replies[:-1])

    play(test)


def test_extra_replies_cost_the_connection_not_the_message() -> None:
    async def test() -> None:
        script = Script(final={A: b"250 2.1.5 one\r\n250 2.1.5 two\r\n"})
        async with RouterUnderTest(pair(script)) as router:
            client = await router.client()
            assert await client.message(BODY, A) == [b"250 2.1.5 one\r\n"]
            await wait_until(lambda: router.backends["a"].live == 0, "the connection is not kept")
            assert await client.message(BODY, A) == [b"250 2.1.5 one\r\n"]

    play(test)


def test_421_of_a_backend_does_not_end_our_client() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(rcpt={A: b"421 4.3.2 going down\r\n"}))) as router:
            client = await router.client()
            replies = await client.envelope(A, B)
            assert [reply[:9] for reply in replies] == [b"451 4.4.2", b"250 2.1.5"]
            assert await client.ask(b"RSET") == b"250 2.0.0 OK\r\n"

    play(test)


def test_mail_refused_is_the_answer_of_its_recipients() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(mail=b"452 4.3.1 Insufficient storage\r\n"))) as router:
            client = await router.client()
            replies = await client.envelope(A, B, A2)
            assert replies[0] == replies[2] == b"452 4.3.1 Insufficient storage\r\n"
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\n")
            assert (await client.reply()).startswith(b"250 2.1.5 <u1")

    play(test)


def test_a_stale_pooled_connection_is_replaced_before_the_body() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client()
            assert (await client.message(BODY, A, B))[0].startswith(b"250")
            backend = router.backends["a"]
            # The backend closes as soon as it hears MAIL on the kept connection, and only there.
            seen = 0

            async def step(place: str) -> None:
                nonlocal seen
                if place == "mail":
                    seen += 1
                    if seen == 1:
                        raise ConnectionResetError

            backend.script.step = step
            replies = await client.message(BODY, A, B)
            assert [reply[:3] for reply in replies] == [b"250", b"250"]
            assert (backend.connections, len(backend.messages)) == (2, 2)

    play(test)


def test_a_pooled_connection_lost_with_the_body_is_not_tried_again() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client()
            await client.message(BODY, A)
            router.backends["a"].script.drop_after = "body"
            assert (await client.message(BODY, A))[0].startswith(b"451 4.4.2")
            assert router.backends["a"].connections == 1

    play(test)


def test_refused_on_the_replacement_after_250_on_the_stale_one() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client()
            await client.message(BODY, A)
            backend = router.backends["a"]
            assert (await client.envelope(A))[0].startswith(b"250")
            backend.script.rcpt = {A: b"452 4.2.2 Over quota\r\n"}
            backend.drop_all()
            await wait_until(lambda: backend.connections == 2, "a new connection")
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\n")
            assert await client.reply() == b"452 4.2.2 Over quota\r\n"
            assert len(backend.messages) == 1

    play(test)


def test_backend_down_then_up() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(), timeouts=QUICK) as router:
            client = await router.client()
            backend = router.backends["a"]
            await backend.stop()
            for _ in range(5):
                replies = await client.envelope(A, B)
                assert [reply[:9] for reply in replies] == [b"451 4.4.1", b"250 2.1.5"]
                await client.ask(b"RSET")
            backend.released = asyncio.Event()
            await backend.start()

            async def delivered() -> bool:
                good = (await client.envelope(A))[0].startswith(b"250")
                await client.ask(b"RSET")
                return good

            loop = asyncio.get_running_loop()
            until = loop.time() + 10
            while not await delivered():
                assert loop.time() < until, "the backend is up and not used"
                await asyncio.sleep(0.05)
            assert (await client.message(BODY, A))[0].startswith(b"250")

    play(test)


def test_a_slow_backend_is_dropped_and_the_others_go_on() -> None:
    async def test() -> None:
        backends = {"a": ScriptedBackend(Script(hang_at="body"), receive_buffer=1 << 12), "b": ScriptedBackend()}
        timeouts = Timeouts(data=0.5)
        body = b"x" * 98 + b"\r\n"
        body *= 200_000
        async with RouterUnderTest(backends, timeouts=timeouts, body_buffer=1 << 20) as router:
            client = await router.client()
            replies = await client.message(body, A, B)
            assert [reply[:9] for reply in replies] == [b"451 4.4.2", b"250 2.1.5"]
            assert backends["b"].messages[0].body == body
            assert backends["a"].messages == []

    play(test)


def test_a_backend_that_withholds_354_holds_the_client_within_the_buffer() -> None:
    async def test() -> None:
        body = b"x" * 98 + b"\r\n"
        body *= 100_000
        async with RouterUnderTest(pair(Script(hang_at="data")), timeouts=QUICK, body_buffer=1 << 18) as router:
            client = await router.client()
            replies = await client.message(body, A, B)
            assert [reply[:9] for reply in replies] == [b"451 4.4.2", b"250 2.1.5"]
            assert router.backends["b"].messages[0].body == body

    play(test)


def test_authentication_to_the_backend() -> None:
    lhlo = b"250-backend\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n"

    async def test() -> None:
        async with RouterUnderTest(pair(Script(lhlo=lhlo)), credentials=("murder", "secret")) as router:
            client = await router.client()
            assert (await client.message(BODY, A, B))[0].startswith(b"250")
            assert b"AUTH PLAIN AG11cmRlcgBzZWNyZXQ=\r\n" in router.backends["a"].commands
            assert not [c for c in router.backends["b"].commands if c.startswith(b"AUTH")], "it offers none"

    play(test)


def test_a_backend_without_pipelining_is_spoken_to_in_turns() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(lhlo=b"250 backend\r\n"))) as router:
            client = await router.client()
            replies = await client.message(BODY, A, A2, B)
            assert [reply[:3] for reply in replies] == [b"250"] * 3

    play(test)


def test_8bit_is_refused_for_a_backend_that_does_not_take_it() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(lhlo=b"250-backend\r\n250 PIPELINING\r\n"))) as router:
            client = await router.client()
            client.send(b"MAIL FROM:<f@example.org> BODY=8BITMIME\r\nRCPT TO:%b\r\nRCPT TO:%b\r\n" % (A, B))
            replies = await client.replies(3)
            assert [reply[:9] for reply in replies] == [b"250 2.1.0", b"451 4.3.3", b"250 2.1.5"]

    play(test)


def test_a_backend_that_refuses_the_connection_is_not_tried_for_each_message() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(greeting=b"421 4.3.2 too busy\r\n"))) as router:
            client = await router.client()
            for _ in range(20):
                assert (await client.envelope(A))[0].startswith(b"451 4.4.1")
                await client.ask(b"RSET")
            assert router.backends["a"].connections <= 5

    play(test)
