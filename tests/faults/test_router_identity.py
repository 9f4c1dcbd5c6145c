"""Who sends: by PROXY header, XCLIENT and XFORWARD, believed of some and of nobody else, and told to backends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from email.parser import BytesHeaderParser
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from cyrusext.net.tls import ServerTls
from cyrusext.runtime.config_schema import Timeouts
from lmtp_router.doors import Door
from tests.harness.certificates import Authority
from tests.harness.lmtp_peer import (
    LmtpClient,
    RouterUnderTest,
    Script,
    ScriptedBackend,
    listening_socket,
    play,
    wait_until,
)
from tests.harness.router_daemon import Daemon

pytestmark = pytest.mark.faults

U = b"<u0@example.org>"
BODY = b"Subject: x\r\n\r\nhello\r\n"
LOCAL = {"trusted": (ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"))}
HEARS = b"250-b\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n"
PROXIED = Door(proxied=True)


async def connect(router: RouterUnderTest, octets: bytes) -> LmtpClient:
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(octets)
    return LmtpClient(reader, writer)


def told(backend: ScriptedBackend) -> list[bytes]:
    return [line for line in backend.commands if line.startswith(b"XFORWARD")]


def test_a_balancer_says_who_comes(capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        backend = ScriptedBackend(Script(lhlo=HEARS))
        async with RouterUnderTest({"a": backend}, settings=LOCAL, door=PROXIED) as router:
            for header in (
                b"PROXY TCP4 10.1.2.3 127.0.0.1 4321 24\r\n",
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\x01\x02\x03\x7f\0\0\x01\x10\xe1\0\x18",
            ):
                client = await connect(router, header + b"LHLO c\r\n")
                assert (await client.reply()).startswith(b"220")
                await client.reply()
                await client.message(BODY, U)
                client.close()
            # Octet by octet, with the first command right behind.
            client = await connect(router, b"")
            for octet in b"PROXY TCP4 10.1.2.3 127.0.0.1 4321 24\r\nLHLO c\r\n":
                client.send(bytes([octet]))
                await client.writer.drain()
                await asyncio.sleep(0)
            assert (await client.reply()).startswith(b"220")
            assert (await client.reply()).startswith(b"250")
            await client.message(BODY, U)
            client.close()
            lines = told(backend)
            assert len(lines) == 3
            assert all(b" ADDR=10.1.2.3 PORT=4321 PROTO=LMTP HELO=c IDENT=" in line for line in lines)

    play(test)
    assert capfd.readouterr().err.count("event=lmtp.client ") == 3


@pytest.mark.parametrize("octets", [b"LHLO c\r\n", b"PROXY TCP4 10.1.2.3 4321 24\r\n", b"\x16\x03\x01\0\x05hello"])
def test_who_sends_no_header_is_cut_off(octets: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        async with RouterUnderTest({"a": ScriptedBackend()}, settings=LOCAL, door=PROXIED) as router:
            client = await connect(router, octets)
            with contextlib.suppress(ConnectionResetError):  # for there may be more that was not read
                assert await client.at_end() == b""
            client.close()

    play(test)
    assert 'reason="PROXY protocol: ' in capfd.readouterr().err


def test_a_header_that_does_not_come_in_time(capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        short = Timeouts(greeting=0.2)
        async with RouterUnderTest({"a": ScriptedBackend()}, settings=LOCAL, timeouts=short, door=PROXIED) as router:
            clients = [await connect(router, octets) for octets in (b"", b"PROXY TCP4 10.")]
            for client in clients:
                assert await client.at_end() == b""
                client.close()
            gone = await connect(router, b"PROXY")
            gone.close()

    play(test)
    assert "no header in time" in capfd.readouterr().err


def test_a_balancer_is_believed_only_from_trusted_networks(capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        settings = {"trusted": (ip_network("10.0.0.0/8"),)}
        async with RouterUnderTest({"a": ScriptedBackend()}, settings=settings, door=PROXIED) as router:
            client = await connect(router, b"")
            assert await client.at_end() == b""
            client.close()

    play(test)
    assert "event=lmtp.refused" in capfd.readouterr().err


@pytest.mark.parametrize("source", [b"192.0.2.1", b"127.0.0.2"])
def test_who_may_deliver_is_judged_by_the_address_in_the_header(source: bytes) -> None:
    """A loopback there is the balancer's, not ours."""

    async def test() -> None:
        settings = {"trusted": (ip_network("127.0.0.1/32"), ip_network("10.0.0.0/8"))}
        async with RouterUnderTest({"a": ScriptedBackend()}, settings=settings, door=PROXIED) as router:
            client = await connect(router, b"PROXY TCP4 " + source + b" 127.0.0.1 4321 24\r\n")
            assert (await client.at_end()).startswith(b"421 4.7.1")
            client.close()
            health = await connect(router, b"PROXY UNKNOWN\r\n")
            assert (await health.reply()).startswith(b"220")
            health.close()

    play(test)


def test_a_header_before_tls_at_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    made = authority.issue("router", "/CN=router.example.org", "DNS:router.example.org")
    tls = ServerTls(str(made.cert), str(made.key))
    context = ssl.create_default_context(cafile=str(authority.ca))

    def speak(port: int) -> bytes:
        """Header and the beginning of the handshake in one segment."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secure = context.wrap_bio(incoming, outgoing, server_hostname="router.example.org")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            first = b"PROXY TCP4 10.1.2.3 127.0.0.1 4321 24\r\n"
            while True:
                try:
                    return secure.read(100)
                except ssl.SSLWantReadError:
                    sock.sendall(first + outgoing.read())
                    first = b""
                    incoming.write(sock.recv(1 << 16))

    async def test() -> None:
        settings: dict[str, Any] = {**LOCAL, "tls": tls}
        async with RouterUnderTest({"a": ScriptedBackend()}, settings=settings, door=Door(False, True, True)) as router:
            assert (await asyncio.to_thread(speak, router.port)).startswith(b"220 ")

    play(test)


def test_xclient_begins_the_session_anew(capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        backend = ScriptedBackend(Script(lhlo=HEARS))
        async with RouterUnderTest({"a": backend}, settings=LOCAL) as router:
            client = await router.client(lhlo=False)
            assert b"250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n" in await client.ask(b"LHLO c")
            assert (await client.ask(b"XCLIENT NAME=real.example.org ADDR=192.0.2.7 LOGIN=alice")).startswith(b"220 ")
            assert (await client.ask(b"MAIL FROM:<>")).startswith(b"503")
            assert (await client.ask(b"XCLIENT HELO=said.example.org PORT=77")).startswith(b"220 ")
            await client.ask(b"LHLO proxy")
            await client.message(BODY, U)
            assert b"NAME=real.example.org ADDR=192.0.2.7 PORT=77 PROTO=LMTP HELO=said.example.org" in told(backend)[0]
            await client.envelope(U)
            assert (await client.ask(b"XCLIENT NAME=x")).startswith(b"503")

    play(test)
    assert "event=lmtp.client session=" in capfd.readouterr().err


def test_xforward_is_for_the_next_message_only() -> None:
    async def test() -> None:
        backend = ScriptedBackend(Script(lhlo=HEARS))
        async with RouterUnderTest({"a": backend}, settings=LOCAL) as router:
            client = await router.client()
            client.send(b"XFORWARD NAME=one.example.org ADDR=192.0.2.1\r\nXFORWARD IDENT=4Xq SOURCE=REMOTE\r\n")
            assert await client.codes(2) == [b"250", b"250"]
            await client.message(BODY, U)
            await client.message(BODY, U)
            await client.ask(b"XFORWARD NAME=gone.example.org")
            await client.ask(b"RSET")
            await client.message(BODY, U)
            first, second, third = told(backend)
            assert b"NAME=one.example.org ADDR=192.0.2.1" in first
            assert b"IDENT=4Xq SOURCE=REMOTE" in first
            assert b"NAME=[UNAVAILABLE] ADDR=127.0.0.1" in second
            assert b"gone" not in third

    play(test)


def test_nobody_else_is_believed() -> None:
    async def test() -> None:
        async with RouterUnderTest({"a": ScriptedBackend()}) as router:
            client = await router.client(lhlo=False)
            assert b"XCLIENT" not in await client.ask(b"LHLO c")
            assert (await client.ask(b"XCLIENT ADDR=10.0.0.1")).startswith(b"550 5.7.0")
            assert (await client.ask(b"XFORWARD ADDR=10.0.0.1")).startswith(b"550 5.7.0")
            await client.message(BODY, U)

    play(test)


@pytest.mark.parametrize("answer", [b"250 2.0.0 ok\r\n", b"501 5.5.4 no\r\n", b"421 4.3.2 bye\r\n"])
@pytest.mark.parametrize("pipelining", [True, False])
def test_a_backend_that_does_not_want_to_hear_it_after_all(answer: bytes, pipelining: bool) -> None:
    async def test() -> None:
        backend = ScriptedBackend(Script(lhlo=HEARS if pipelining else HEARS.replace(b"250-PIPELINING\r\n", b"")))
        backend.script.xforward = answer
        async with RouterUnderTest({"a": backend}) as router:
            client = await router.client()
            if answer.startswith(b"421"):
                assert [reply[:3] for reply in await client.envelope(U)] == [b"451"]
                return
            for _ in range(3):
                await client.message(BODY, U)
            assert len(told(backend)) == 3
            assert backend.connections == 1

    play(test)


def test_a_received_field_is_written_where_it_is_wanted() -> None:
    async def test() -> None:
        backend = ScriptedBackend()
        async with RouterUnderTest({"a": backend}, settings={"received": True, **LOCAL}) as router:
            client = await router.client()
            await client.message(b".dot\r\n" + BODY, U)
            await client.ask(b"XFORWARD NAME=one.example.org ADDR=IPV6:2001:db8::1 HELO=two")
            await client.message(BODY, U)
            smtp = await router.client(smtp=True)
            await smtp.envelope(U)
            await smtp.ask(b"DATA")
            smtp.send(BODY + b".\r\n")
            await smtp.reply()
        first, second, third = [message.body for message in backend.messages]
        by = b"\tby router.example.org (cyrusext) with LMTP id "
        assert first.startswith(b"Received: from client.example.org ([127.0.0.1])\r\n" + by)
        assert first.endswith(b"\r\n.dot\r\n" + BODY)
        field = BytesHeaderParser().parsebytes(second)["Received"]
        assert "from two (one.example.org [IPv6:2001:db8::1])" in field
        assert "with LMTP id " in field
        assert "with ESMTP id " in BytesHeaderParser().parsebytes(third)["Received"]
        assert second.endswith(b"\r\n" + BODY)

    play(test)


def test_messages_in_chunks_are_no_exception() -> None:
    circles = b"Received: from a by b;\r\n\tsometime\r\n" * 4

    async def test() -> None:
        backend = ScriptedBackend()
        async with RouterUnderTest({"a": backend}, settings={"received": True, "max_hops": 3}) as router:
            client = await router.client()
            for body in (circles[:-9] + b"\r\n" + BODY, circles + BODY):
                await client.envelope(U)
                client.send(b"BDAT 20\r\n%bBDAT %d LAST\r\n%b" % (body[:20], len(body) - 20, body[20:]))
                replies = await client.replies(2)
                assert replies[0].startswith((b"250", b"554"))
                assert replies[1].startswith(b"554 5.4.6")
            await client.envelope(U)
            client.send(b"BDAT %d LAST\r\n%b" % (len(BODY), BODY))
            assert (await client.reply()).startswith(b"250")
        (message,) = backend.messages
        assert message.body.startswith(b"Received: from client.example.org ([127.0.0.1])\r\n")
        assert message.body.endswith(b"\r\n" + BODY)

    play(test)


def test_without_it_not_an_octet_is_added() -> None:
    async def test() -> None:
        backend = ScriptedBackend()
        async with RouterUnderTest({"a": backend}) as router:
            client = await router.client()
            await client.message(BODY, U)
            assert backend.messages[0].body == BODY
            assert told(backend) == []

    play(test)


def test_a_loop_is_ended() -> None:
    received = b"Received: from a by b;\r\n\tsometime\r\n"

    async def test() -> None:
        backends = {"a": ScriptedBackend(), "b": ScriptedBackend()}
        async with RouterUnderTest(backends, settings={"max_hops": 3}) as router:
            client = await router.client()
            await client.message(received * 3 + BODY + received * 9, U)
            for tail in (b"\r\nbody\r\n", b"\r\n" + b"x" * 98 + b"\r\n" * 5000):
                replies = await client.message(received * 4 + b"Subject: x\r\n" + tail, U, b"<u1@example.org>")
                assert [reply[:9] for reply in replies] == [b"554 5.4.6"] * 2
            await client.message(BODY, U)
            assert len(backends["a"].messages) == 2
            assert len(backends["b"].messages) == 0

    play(test)


def test_the_daemon_has_doors_of_every_kind(tmp_path: Path) -> None:
    with listening_socket() as sock:
        port = sock.getsockname()[1]

    async def test() -> None:
        extra = f'proxy_protocol = ["127.0.0.1:{port}"]\ntrusted = ["127.0.0.0/8", "unix"]\nreceived = true\n'
        router = Daemon(tmp_path, extra)
        router.more = [f"127.0.0.1:{port}"]
        beating = asyncio.create_task(router.beat())
        try:
            await router.start()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            client = LmtpClient(reader, writer)
            client.send(b"PROXY TCP4 127.0.0.9 127.0.0.1 4321 24\r\n")
            assert (await client.reply()).startswith(b"220")
            await client.ask(b"LHLO c")
            await client.message(BODY, b"<alice@example.org>")
            client.close()
            unix = LmtpClient(*await asyncio.open_unix_connection(f"{tmp_path}/run/lmtp"))
            assert (await unix.reply()).startswith(b"220")
            assert b"XCLIENT" in await unix.ask(b"LHLO c")
            await unix.message(BODY, b"<alice@example.org>")
            unix.close()
            bodies = [message.body for message in router.backends["a"].messages]
            assert b"from c ([127.0.0.9])" in bodies[0]
            assert b"from c (local)" in bodies[1]
            await wait_until(lambda: router.events("lmtp.recipient") == 2, "both are in the log")
        finally:
            beating.cancel()
            await router.stop()

    play(test)


TAKES = b"250-b\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 XCLIENT ADDR PORT HELO LOGIN SESSION TTL TIMEOUT\r\n"


def introduced(backend: ScriptedBackend) -> list[bytes]:
    return [line.partition(b" SESSION")[0] for line in backend.commands if line.startswith(b"XCLIENT")]


@pytest.mark.parametrize("pipelining", [True, False])
def test_who_sends_is_said_by_xclient_once_for_each_client(pipelining: bool) -> None:
    async def test() -> None:
        backend = ScriptedBackend(Script(lhlo=TAKES if pipelining else TAKES.replace(b"250-PIPELINING\r\n", b"")))
        async with RouterUnderTest({"a": backend}, settings={"backend_xclient": True, **LOCAL}) as router:
            client = await router.client()
            for address in (b"192.0.2.1", b"192.0.2.1", b"192.0.2.2"):
                await client.ask(b"XFORWARD PORT=77 ADDR=" + address)
                await client.message(BODY, U)
            expected = [b"XCLIENT ADDR=%b PORT=77 HELO=client.example.org LOGIN=[UNAVAILABLE]" % address
                        for address in (b"192.0.2.1", b"192.0.2.2")]  # fmt: skip
            assert introduced(backend) == expected
            assert backend.connections == 1
            said = [line[:4] for line in backend.commands]
            assert said[1:6] == [b"XCLI", b"LHLO", b"MAIL", b"RCPT", b"DATA"]
            assert len(backend.messages) == 3

    play(test)


@pytest.mark.parametrize(("lhlo", "settings"), [(TAKES, LOCAL), (HEARS, {"backend_xclient": True, **LOCAL})])
def test_xclient_is_not_said_unasked_nor_beside_xforward(lhlo: bytes, settings: dict[str, Any]) -> None:
    async def test() -> None:
        backend = ScriptedBackend(Script(lhlo=lhlo))
        async with RouterUnderTest({"a": backend}, settings=settings) as router:
            client = await router.client()
            await client.message(BODY, U)
            assert introduced(backend) == []

    play(test)


def test_a_message_does_not_go_under_the_client_of_before() -> None:
    """A refused XCLIENT leaves the one before in force: then another connection, on which nobody was said."""

    async def test() -> None:
        backend = ScriptedBackend(Script(lhlo=TAKES))
        async with RouterUnderTest({"a": backend}, settings={"backend_xclient": True, **LOCAL}) as router:
            client = await router.client()
            await client.message(BODY, U)
            backend.script.xclient = b"501 5.5.4 no\r\n"
            await client.message(BODY, U)
            assert backend.connections == 1, "the same client"
            await client.ask(b"XFORWARD ADDR=192.0.2.2")
            await client.message(BODY, U)
            assert backend.connections == 2
            assert len(backend.messages) == 3

    play(test)
