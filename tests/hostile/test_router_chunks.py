"""BDAT to backends that know DATA only: counted, stuffed, and never a command."""

from __future__ import annotations

import pytest

from cyrusext.runtime.config_schema import Timeouts
from lmtp_router.protocol.server import Limits
from tests.harness.lmtp_peer import LmtpClient, RouterUnderTest, Script, ScriptedBackend, play, wait_until

A, B, NOBODY = b"<u0@example.org>", b"<u1@example.org>", b"<nobody@example.org>"
EVIL = b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<u1@example.org>\r\nDATA\r\nevil\r\n.\r\n"


def pair(a: Script | None = None, b: Script | None = None) -> dict[str, ScriptedBackend]:
    return {"a": ScriptedBackend(a), "b": ScriptedBackend(b)}


def bdat(octets: bytes, *, last: bool = False) -> bytes:
    return b"BDAT %d%b\r\n%b" % (len(octets), b" LAST" if last else b"", octets)


@pytest.mark.parametrize(
    ("chunks", "body"),
    [
        ([b"Subject: x\r\n\r\nhello\r\n"], b"Subject: x\r\n\r\nhello\r\n"),
        ([b"Subject: x\r\n\r\n", b".\r", b"\n..\r\n.", b""], b"Subject: x\r\n\r\n..\r\n...\r\n..\r\n"),
        ([b""], b""),
        ([b"", b"", b"x"], b"x\r\n"),
        ([b"\r\n.\r\n" + EVIL], b"\r\n..\r\n" + EVIL[:-3] + b"..\r\n"),
        ([b"z" * 300_000, b"\r\n" * 50_000], b"z" * 300_000 + b"\r\n" * 50_000),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_one_message_in_chunks(chunks: list[bytes], body: bytes, together: bool) -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client(lhlo=False)
            assert b"250-CHUNKING\r\n" in await client.ask(b"LHLO c")
            envelope = b"MAIL FROM:<f@example.org>\r\nRCPT TO:%b\r\nRCPT TO:%b\r\nRCPT TO:%b\r\n" % (A, NOBODY, B)
            commands = [envelope, *map(bdat, chunks[:-1]), bdat(chunks[-1], last=True) + b"NOOP\r\n"]
            codes = [[b"250", b"250", b"550", b"250"], *[[b"250"]] * (len(chunks) - 1), [b"250", b"250", b"250"]]
            for group in [range(len(commands))] if together else [range(n, n + 1) for n in range(len(commands))]:
                client.send(b"".join(commands[number] for number in group))
                for number in group:
                    replies = await client.replies(len(codes[number]))
                    assert [reply[:3] for reply in replies] == codes[number]
            assert replies == [b"250 2.1.5 %b delivered\r\n" % path for path in (A, B)] + [b"250 2.0.0 OK\r\n"]
            for backend in router.backends.values():
                assert [message.body for message in backend.messages] == [body]

    play(test)


def test_chunks_of_a_message_that_nobody_takes_are_no_commands() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client()
            client.send(b"MAIL FROM:<f@example.org>\r\nRCPT TO:%b\r\n" % NOBODY)
            client.send(bdat(EVIL) * 30 + bdat(EVIL, last=True) + b"RSET\r\n")
            assert await client.codes(2) == [b"250", b"550"]
            assert await client.codes(31) == [b"554"] + [b"503"] * 30
            assert await client.reply() == b"250 2.0.0 OK\r\n"
            assert (await client.message(b"after\r\n", A))[0].startswith(b"250")
            assert [len(backend.messages) for backend in router.backends.values()] == [1, 0]

    play(test)


async def send_half(client: LmtpClient) -> None:
    await client.envelope(A)
    client.send(bdat(b"half\r\n"))
    assert (await client.reply()).startswith(b"250 2.0.0")


@pytest.mark.parametrize("step", [b"RSET", b"LHLO c"])
def test_a_message_is_given_up_between_chunks(step: bytes) -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client()
            backend = router.backends["a"]
            for verb in (b"MAIL FROM:<>", b"RCPT TO:" + A, b"DATA"):
                await send_half(client)
                assert (await client.ask(verb)).startswith(b"503 5.5.1")
                assert (await client.ask(step)).startswith(b"250")
                await wait_until(lambda: backend.live == 0, "the half message ends nowhere")
            assert not backend.messages
            assert (await client.message(b"after\r\n", A))[0].startswith(b"250")
            assert [message.body for message in backend.messages] == [b"after\r\n"]

    play(test)


@pytest.mark.parametrize("end", ["gone", "in a chunk", "silent", "quit"])
def test_a_client_that_ends_between_chunks_delivers_nothing(end: str) -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(), timeouts=Timeouts(data=0.3, idle=30.0)) as router:
            client = await router.client()
            await send_half(client)
            if end == "gone":
                client.writer.transport.abort()
            elif end == "in a chunk":
                client.send(b"BDAT 100 LAST\r\nnot all of it")
                assert (await client.at_end()).startswith(b"421 4.4.2")
            elif end == "silent":
                assert (await client.at_end()).startswith(b"421 4.4.2")
            else:
                assert (await client.ask(b"QUIT")).startswith(b"221")
            backend = router.backends["a"]
            await wait_until(lambda: backend.live == 0, "the backend's connection is closed")
            assert backend.messages == []

    play(test)


def test_each_recipient_hears_of_a_spoiled_message_once_and_at_its_end() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(), limits=Limits(max_size=1000)) as router:
            client = await router.client()
            for chunk, code in ((b"bare\nnewline\r\n", b"554 5.6.11"), (b"x" * 1001, b"552 5.3.4 ")):
                await client.envelope(A, B)
                client.send(bdat(chunk) + bdat(b"more\r\n") + bdat(b"", last=True) + b"NOOP\r\n")
                assert await client.codes(2) == [b"250", b"250"]
                assert [reply[:10] for reply in await client.replies(2)] == [code, code]
                assert await client.reply() == b"250 2.0.0 OK\r\n"
            assert not any(backend.messages for backend in router.backends.values())
            assert (await client.message(b"after\r\n", A))[0].startswith(b"250")

    play(test)


def test_with_replace_bare_newlines_in_chunks_are_lines() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(), replace=True) as router:
            client = await router.client()
            await client.envelope(A)
            client.send(bdat(b"one\n.\nMAIL FROM:<>\r") + bdat(b".\r", last=True))
            assert await client.codes(2) == [b"250", b"250"]
            body = b"one\r\n..\r\nMAIL FROM:<>\r\n..\r\n"
            assert [message.body for message in router.backends["a"].messages] == [body]

    play(test)


def test_without_a_size_nothing_more_is_understood() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair()) as router:
            client = await router.client()
            await client.envelope(A)
            client.send(b"BDAT many\r\n" + EVIL)
            assert (await client.at_end()).startswith(b"501 5.5.4")
            assert not any(backend.messages for backend in router.backends.values())

    play(test)


def test_a_slow_backend_holds_up_the_chunks_of_a_client() -> None:
    async def test() -> None:
        backends = {"a": ScriptedBackend(Script(hang_at="body"), receive_buffer=1 << 12), "b": ScriptedBackend()}
        async with RouterUnderTest(backends, timeouts=Timeouts(data=1.0, idle=30.0), body_buffer=1 << 16) as router:
            client = await router.client()
            await client.envelope(A, B)
            for _ in range(200):
                client.send(bdat(b"x" * 99_998 + b"\r\n"))
            client.send(bdat(b"", last=True))
            assert set(await client.codes(200)) == {b"250"}
            assert [reply[:9] for reply in await client.replies(2)] == [b"451 4.4.2", b"250 2.1.5"]
            assert len(backends["b"].messages[0].body) == 20_000_000

    play(test)


def test_prdr_after_the_last_chunk() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(Script(final={A: b"552 5.2.2 full\r\n"}))) as router:
            client = await router.client(smtp=True)
            await client.envelope(A, B, mail=b"<f@example.org> PRDR")
            client.send(bdat(b"one\r\n") + bdat(b"two\r\n", last=True) + b"NOOP\r\n")
            assert await client.codes(6) == [b"250", b"353", b"552", b"250", b"250", b"250"]

    play(test)
