"""What a client does wrong, or merely oddly: nothing is smuggled, nothing half delivered, nobody else is disturbed."""

from __future__ import annotations

import asyncio

import pytest

from cyrusext.runtime.config_schema import Timeouts
from lmtp_router.protocol.server import Limits
from tests.harness.lmtp_peer import RouterUnderTest, Script, ScriptedBackend, play, wait_until

A, B, A2 = b"<u0@example.org>", b"<u1@example.org>", b"<u2@example.org>"
BODY = b"Subject: x\r\n\r\nhello\r\n"


def pair(a: Script | None = None, b: Script | None = None) -> dict[str, ScriptedBackend]:
    return {"a": ScriptedBackend(a), "b": ScriptedBackend(b)}


@pytest.mark.parametrize("sequence", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\n.\r"])
@pytest.mark.parametrize("pieces", [1, 100])
def test_smuggling(sequence: bytes, pieces: int) -> None:
    evil = b"one" + sequence + b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<u1@example.org>\r\nDATA\r\nevil\r\n.\r\n"

    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client()
            await client.envelope(A)
            assert (await client.ask(b"DATA")).startswith(b"354")
            for at in range(0, len(evil), pieces):
                client.send(evil[at : at + pieces])
                await asyncio.sleep(0)
            assert (await client.reply()).startswith(b"554 5.6.11")
            assert await client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
            backend = router.backends["a"]
            await wait_until(lambda: backend.live == 0, "the connection with the spoiled body is closed")
            assert backend.messages == router.backends["b"].messages == []
            assert all(b"\n" not in body.replace(b"\r\n", b"") for body in backend.partial)

    play(test)


def test_smuggling_with_replace_is_one_message() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(), replace=True) as router:
            client = await router.client()
            assert (await client.message(b"one\n.\nMAIL FROM:<>\r\n.\n\r\n", A))[0].startswith(b"250")
            assert [m.body for m in router.backends["a"].messages] == [b"one\r\n..\r\nMAIL FROM:<>\r\n\r\n\r\n"]

    play(test)


def test_a_client_cut_in_mid_data_delivers_nothing() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client()
            await client.envelope(A, B)
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".")
            await client.writer.drain()
            client.writer.transport.abort()
            for backend in router.backends.values():
                await wait_until(lambda backend=backend: backend.live == 0, "the backend's connection is closed")  # type: ignore[misc]
                assert backend.messages == []
                assert len(backend.partial) == 1
                assert BODY.startswith(backend.partial[0])

    play(test)


def test_a_client_gone_after_the_dot_is_not_called_back() -> None:
    async def test() -> None:
        hold = asyncio.Event()

        async def step(place: str) -> None:
            if place == "dot":
                await hold.wait()

        async with RouterUnderTest(pair(Script(step=step))) as router:
            client = await router.client()
            await client.envelope(A)
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\n")
            backend = router.backends["a"]
            await wait_until(lambda: len(backend.messages) == 1, "the message is at the backend")
            client.writer.transport.abort()
            assert router.frontend is not None
            frontend = router.frontend
            await wait_until(lambda: bool(frontend.orphans), "the router knows that the client is gone")
            hold.set()
            await wait_until(lambda: not frontend.orphans, "the transaction ends")
            assert backend.live == 1, "the connection is clean and kept"

    play(test)


def test_idle_and_stalled_clients_are_let_go() -> None:
    async def test() -> None:
        timeouts = Timeouts(idle=0.3, data=0.3)
        async with RouterUnderTest(pair(), timeouts=timeouts) as router:
            client = await router.client()
            assert (await client.at_end()).startswith(b"421 4.4.2")
            client = await router.client()
            await client.envelope(A)
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(b"half a mess")
            assert (await client.at_end()).startswith(b"421 4.4.2")
            backend = router.backends["a"]
            await wait_until(lambda: backend.live == 0, "the backend's connection is closed")
            assert backend.messages == []

    play(test)


def test_a_message_too_large_reaches_nobody() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(), limits=Limits(max_size=1000)) as router:
            client = await router.client()
            assert (await client.ask(b"MAIL FROM:<f@example.org> SIZE=1001")).startswith(b"552 5.3.4")
            replies = await client.message(b"x" * 2000 + b"\r\n", A, B)
            assert [reply[:9] for reply in replies] == [b"552 5.3.4"] * 2
            assert not router.backends["a"].messages
            assert not router.backends["b"].messages

    play(test)


SESSION = (
    b"LHLO c\r\nMAIL FROM:<f@example.org> BODY=8BITMIME SIZE=100\r\nRCPT TO:<u0@example.org>\r\n"
    b"RCPT TO:<nobody@example.org>\r\nRCPT TO:<u1@example.org> ORCPT=rfc822;x\r\nRCPT TO:<u0@example.org>\r\nDATA\r\n"
    b"Subject: x\r\n\r\n..dot\r\n.\r\nNOOP\r\nQUIT\r\n"
)
CODES = [b"250"] * 3 + [b"550"] + [b"250"] * 2 + [b"354"] + [b"250"] * 3 + [b"250", b"221"]


@pytest.mark.parametrize("pieces", [1, 2, 7, 1000])
def test_a_whole_session_in_pieces_without_waiting(pieces: int) -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client(lhlo=False)
            for at in range(0, len(SESSION), pieces):
                client.send(SESSION[at : at + pieces])
                await client.writer.drain()
            assert await client.codes(len(CODES)) == CODES
            assert await client.at_end() == b""
            a, b = (router.backends[name] for name in "ab")
            assert [(m.mail, m.rcpts, m.body) for m in a.messages] == [
                (b"<f@example.org> SIZE=100 BODY=8BITMIME", [A, A], b"Subject: x\r\n\r\n..dot\r\n")
            ]
            assert [m.rcpts for m in b.messages] == [[B]]

    play(test)


def test_text_sent_before_a_refused_data_is_answered_is_no_command() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client()
            client.send(b"MAIL FROM:<>\r\nRCPT TO:<nobody@example.org>\r\nDATA\r\n")
            client.send(b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<u0@example.org>\r\nDATA\r\nevil\r\n.\r\n")
            assert await client.codes(4) == [b"250", b"550", b"554", b"421"]
            assert await client.at_end() == b""
            assert not router.backends["a"].messages

    play(test)


def test_rset_in_mid_transaction() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client()
            client.send(b"MAIL FROM:<f@example.org>\r\nRCPT TO:%b\r\nRSET\r\nRCPT TO:%b\r\n" % (A, A))
            assert await client.codes(4) == [b"250", b"250", b"250", b"503"]
            assert (await client.message(BODY, B, A2))[1].startswith(b"250")
            a = router.backends["a"]
            assert [m.rcpts for m in a.messages] == [[A2]]
            assert a.connections == 1, "the connection was reset and kept"
            assert b"RSET\r\n" in a.commands

    play(test)


def test_five_hundred_recipients_in_one_write() -> None:
    rcpts = [b"<u%d@example.org>" % number for number in range(500)]

    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client()
            replies = await client.message(BODY, *rcpts)
            assert [reply.split()[2] for reply in replies] == rcpts
            assert [len(router.backends[name].messages[0].rcpts) for name in "ab"] == [250, 250]

    play(test)


def test_fifteen_megabytes_to_two_backends_are_the_same_octets() -> None:
    line = bytes(range(128, 256)) + b".\0 x" * 20
    body = b"".join(b"%d " % n + line + b"\r\n..\r\n" for n in range(70_000)) + b"y" * 100_000 + b"\r\n"

    async def test() -> None:
        async with RouterUnderTest(pair(), body_buffer=1 << 18) as router:
            client = await router.client()
            assert [reply[:3] for reply in await client.message(body, A, B)] == [b"250", b"250"]
            assert router.backends["a"].messages[0].body == body
            assert router.backends["b"].messages[0].body == body

    assert len(body) > 15_000_000
    play(test)


def test_other_sessions_go_on_beside_junk() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(), limits=Limits(max_errors=5)) as router:
            good = await router.client()
            junk = await router.client(lhlo=False)
            junk.send(bytes(range(256)) * 4000 + b"\r\n" * 20)
            assert b"421 4.7.0" in await junk.at_end()
            assert (await good.message(BODY, A))[0].startswith(b"250")

    play(test)


def test_a_client_that_never_reads_is_not_read_either() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(), timeouts=Timeouts(data=0.3)) as router:
            client = await router.client()
            client.reader._limit = 1  # type: ignore[attr-defined]
            assert router.frontend is not None
            sessions = router.frontend.sessions
            try:
                for _ in range(3000):
                    client.send(b"NOOP\r\n" * 2000)
                    await asyncio.wait_for(client.writer.drain(), 0.2)
            except (TimeoutError, ConnectionError):
                pass
            await wait_until(lambda: not sessions, "the session is ended")

    play(test)
