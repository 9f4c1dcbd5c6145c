"""The connections to a backend: how many, for how long, whether they live, and that nothing waits for Nagle."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from cyrusext.backends import Backend, Backends
from cyrusext.net import address
from cyrusext.runtime.config_schema import Timeouts
from lmtp_router.doors import Door
from lmtp_router.frontend import Frontend
from lmtp_router.routing import Routing
from lmtp_router.settings import PoolLimits
from tests.harness.lmtp_peer import LmtpClient, RouterUnderTest, Script, ScriptedBackend, play, wait_until

pytestmark = pytest.mark.faults

U = b"<u0@example.org>"
BODY = b"Subject: x\r\n\r\nhello\r\n"
QUICK = Timeouts(envelope=1.0)


def limited(**limits: Any) -> dict[str, Any]:
    return {"pool": PoolLimits(**limits)}


def test_no_more_connections_than_allowed_and_the_others_wait() -> None:
    async def test() -> None:
        backend = ScriptedBackend(Script(hang_at="dot"))
        async with RouterUnderTest({"a": backend}, settings=limited(connections=2, waiting=3)) as router:
            clients = [await router.client() for _ in range(6)]
            for client in clients[:2]:
                await client.envelope(U)
                await client.ask(b"DATA")
                client.send(BODY + b".\r\n")
            await wait_until(lambda: len(backend.messages) == 2, "two are under way")
            for client in clients[2:5]:
                client.send(b"MAIL FROM:<>\r\nRCPT TO:" + U + b"\r\n")
            assert router.frontend is not None
            pools = router.frontend.pools
            await wait_until(lambda: [pool.state().waiting for pool in pools] == [3], "three wait")
            assert [reply[:9] for reply in await clients[5].envelope(U)] == [b"451 4.3.2"]
            assert backend.connections == 2
            backend.script.hang_at = ""
            backend.released.set()
            for client in clients[2:5]:
                assert await client.codes(2) == [b"250", b"250"]
                await client.ask(b"RSET")
            assert backend.connections == 2

    play(test)


def test_an_unused_connection_is_asked_and_then_ended() -> None:
    async def test() -> None:
        backend = ScriptedBackend()
        settings = limited(idle_s=1.0, noop_s=0.2)
        async with RouterUnderTest({"a": backend}, timeouts=QUICK, settings=settings) as router:
            client = await router.client()
            await client.message(BODY, U)
            await wait_until(lambda: backend.commands.count(b"NOOP\r\n") >= 2, "it is asked")
            await client.message(BODY, U)
            assert backend.connections == 1
            await wait_until(lambda: backend.commands[-1] == b"QUIT\r\n" and not backend.live, "it is ended")

    play(test)


def test_one_that_does_not_answer_is_closed() -> None:
    async def test() -> None:
        backend = ScriptedBackend(Script(noop=b""))
        settings = limited(idle_s=30.0, noop_s=0.2)
        async with RouterUnderTest({"a": backend}, timeouts=Timeouts(envelope=0.4), settings=settings) as router:
            client = await router.client()
            await client.message(BODY, U)
            await wait_until(lambda: not backend.live, "it is closed")
            await client.message(BODY, U)
            assert backend.connections == 2

    play(test)


@pytest.mark.parametrize("door", [Door(), Door(proxied=True)])
def test_no_socket_waits_for_more_to_send(door: Door) -> None:
    """TCP_NODELAY at both sides: a stall of 40 ms for each message is what it costs without."""

    async def test() -> None:
        settings = {"trusted": (ip_network("127.0.0.0/8"),)}
        async with RouterUnderTest({"a": ScriptedBackend()}, settings=settings, door=door) as router:
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            if door.proxied:
                writer.write(b"PROXY UNKNOWN\r\n")
            await reader.readline()
            writer.write(b"LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:" + U + b"\r\n")
            while not (line := await reader.readline()).startswith(b"250 2.1.5"):
                assert line, "the router closed"
            assert router.frontend is not None
            (session,) = router.frontend.sessions
            (pool,) = router.frontend.pools
            (link,) = pool.links
            for transport in (session._transport, link._transport):
                assert transport is not None
                sock: socket.socket = transport.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()

    play(test)


def test_a_unix_socket_works_from_end_to_end(tmp_path: Path) -> None:
    async def test() -> None:
        backend = ScriptedBackend()
        async with RouterUnderTest({"a": backend}) as router:
            places = Backends({"a": Backend("a", host="127.0.0.1", lmtp=backend.port)})
            place = str(tmp_path / "lmtp")
            sockets = address.bind(address.UnixAddress(place))
            frontend = Frontend(router.settings, Routing(router.lookup, places), sockets)
            await frontend.start()
            client = LmtpClient(*await asyncio.open_unix_connection(place))
            assert (await client.reply()).startswith(b"220")
            await client.ask(b"LHLO c")
            large = b"x" * 98 + b"\r\n"
            await client.message(large * 50_000, U)
            assert backend.messages[0].body == large * 50_000
            client.close()
            await frontend.stop()

    play(test)
