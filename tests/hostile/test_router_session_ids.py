"""What fails in the router's own words names the session; what a backend says stays as it is, and so does a success."""

from __future__ import annotations

import asyncio
import re
from ipaddress import ip_network

import pytest

from cyrusext.runtime.config_schema import Timeouts
from lmtp_router.doors import Door
from lmtp_router.protocol.server import Limits
from tests.harness.lmtp_peer import LmtpClient, RouterUnderTest, Script, ScriptedBackend, play

A, B, NOBODY = b"<u0@example.org>", b"<u1@example.org>", b"<nobody@example.org>"
BODY = b"Subject: x\r\n\r\nhello\r\n"
NAMED = re.compile(rb"[45][0-9][0-9] [45]\.[0-9]+\.[0-9]+ [^\r\n]+ \[([0-9a-f]+-[0-9a-f]+)\]\r\n\Z")


def session_of(reply: bytes) -> str:
    match = NAMED.match(reply)
    assert match is not None, reply
    return match[1].decode("ascii")


def test_a_failure_names_the_session_that_the_log_names(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[bytes] = []

    async def test() -> None:
        backends = {"a": ScriptedBackend(Script(drop_after="dot")), "b": ScriptedBackend()}
        async with RouterUnderTest(backends) as router:
            client = await router.client()
            *_, nobody = await client.envelope(A, B, NOBODY)
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\n")
            told.extend([nobody, *await client.replies(2)])

    play(test)
    nobody, lost, delivered = told
    session = session_of(nobody)
    assert nobody == b"550 5.1.1 User unknown [%b]\r\n" % session.encode()
    assert session_of(lost) == session
    assert delivered == b"250 2.1.5 %b delivered\r\n" % B
    lines = [line for line in capfd.readouterr().err.splitlines() if "event=lmtp.recipient " in line]
    assert len(lines) == 3
    assert all(f" session={session} " in line for line in lines)
    assert f"[{session}]" not in "".join(lines), "the reply as it is written in the log has no name twice"


def test_backends_words_stay_as_they_are() -> None:
    own = b"550-5.7.1 not\r\n550 5.7.1 you\r\n"

    async def test() -> None:
        for script in (Script(rcpt={A: own}), Script(mail=own), Script(rcpt={A: b"452 4.2.2 full\r\n"})):
            async with RouterUnderTest({"a": ScriptedBackend(script)}) as router:
                client = await router.client()
                assert (await client.envelope(A))[0] in (own, b"452 4.2.2 full\r\n")
        async with RouterUnderTest({"a": ScriptedBackend(Script(final={A: own}))}) as router:
            client = await router.client()
            assert await client.message(BODY, A) == [own]
        async with RouterUnderTest({"a": ScriptedBackend(Script(data=own))}) as router:
            client = await router.client()
            assert await client.message(BODY, A) == [own]

    play(test)


@pytest.mark.parametrize(
    "command",
    [
        b"RCPT TO:<u0@example.org>",
        b"DATA",
        b"EHLO c",
        b"WHAT",
        b"MAIL FROM:<>  X",
        b"MAIL FROM:<> SIZE=999999999",
        b"AUTH PLAIN",
        b"XCLIENT ADDR=10.0.0.1",
        b"x" * 3000,
    ],
)
def test_refused_commands(command: bytes) -> None:
    async def test() -> None:
        async with RouterUnderTest({"a": ScriptedBackend()}) as router:
            client, other = await router.client(), await router.client()
            session = session_of(await client.ask(command))
            assert session_of(await client.ask(b"WHAT")) == session
            assert session_of(await other.ask(b"WHAT")) != session
            for fine in (b"NOOP", b"VRFY x", b"RSET", b"MAIL FROM:<>", b"QUIT"):
                assert b"[" not in await client.ask(fine)

    play(test)


def test_last_words() -> None:
    async def test() -> None:
        backends = {"a": ScriptedBackend()}
        async with RouterUnderTest(backends, limits=Limits(max_errors=1)) as router:
            client = await router.client()
            client.send(b"WHAT\r\nWHAT\r\n")
            refused, closed = await client.replies(2)
            assert session_of(refused) == session_of(closed)
            assert closed.startswith(b"421 4.7.0")
        async with RouterUnderTest(backends, timeouts=Timeouts(idle=0.2)) as router:
            session_of(await (await router.client()).at_end())
        settings = {"trusted": (ip_network("127.0.0.1/32"),)}
        async with RouterUnderTest(backends, settings=settings, door=Door(proxied=True)) as router:
            client = LmtpClient(*await asyncio.open_connection("127.0.0.1", router.port))
            client.send(b"PROXY TCP4 192.0.2.1 127.0.0.1 4321 24\r\n")
            assert (await client.at_end()).startswith(b"421 4.7.1 This server does not know you [")
            client.close()

    play(test)
