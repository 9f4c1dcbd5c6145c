"""The asyncio client against the master in memory, over a socket pair; and against servers that break off."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from cyrusext.errors import LocalProtocolError, MupdateRefused, MupdateUnavailable, RemoteProtocolError
from cyrusext.mupdate.client import Client
from cyrusext.mupdate.types import Delete, Mailbox, Ok, Reserve
from cyrusext.wire.sasl import Secret
from tests.dialogues.memory import MemoryMaster

PASSWORD = Secret(b"murderpw")


class Door:
    """A listening socket on loopback before a MemoryMaster, or before a server that only says `script`."""

    def __init__(self, master: MemoryMaster, script: list[bytes] | None = None, *, silent: bool = False) -> None:
        self.master = master
        self._script = script
        self._silent = silent
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._open:
            with suppress(OSError):  # its thread may have closed it
                peer.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            peer.settimeout(10)
            self._open.append(peer)
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        # a client that left with replies on their way is none of this side's business
        with peer, suppress(OSError):
            self._talk(peer)

    def _talk(self, peer: socket.socket) -> None:
        if self._script is not None:
            for piece in self._script:
                peer.sendall(piece)
            while self._silent and peer.recv(65536):
                pass
            return
        with self._lock:
            wire = self.master.connect()
        while True:
            with self._lock:
                while True:
                    try:
                        line = wire.line(time.monotonic())
                    except TimeoutError:
                        break
                    if line is None:
                        return
                    peer.sendall(line)
            if not select.select([peer], [], [], 0.01)[0]:
                continue
            data = peer.recv(65536)
            with self._lock:
                if not data:
                    wire.close()
                    return
                wire.send(data)


@contextmanager
def door(script: list[bytes] | None = None, *, silent: bool = False) -> Iterator[Door]:
    opened = Door(MemoryMaster(), script, silent=silent)
    try:
        yield opened
    finally:
        opened.close()


def with_client(use: Callable[[Client], Awaitable[None]]) -> None:
    async def go() -> None:
        async with await Client.connect("127.0.0.1", opened.port, timeout_s=5) as client:
            await client.login("murder", PASSWORD, authzid="murder")
            await use(client)

    with door() as opened:
        asyncio.run(go())


def test_all_commands() -> None:
    async def use(client: Client) -> None:
        assert client.banner.hostname == "memory"
        assert await client.find(b"user.a") is None
        await client.reserve(b"user.a", b"be1!p")
        found = await client.find(b"user.a")
        assert isinstance(found, Reserve)
        assert found.location == b"be1!p"
        await client.activate(b"user.a", b"be1!p", b"a\tlrs\t")
        found = await client.find(b"user.a")
        assert isinstance(found, Mailbox)
        assert (found.name, found.location, found.acl) == (b"user.a", b"be1!p", b"a\tlrs\t")
        await client.activate(b"user.b", b"be2!p", b"")
        assert [line.name async for line in client.list()] == [b"user.a", b"user.b"]
        await client.deactivate(b"user.b", b"be2!p")
        assert isinstance(await client.find(b"user.b"), Reserve)
        assert [line.name async for line in client.list(b"be2!")] == [b"user.b"]  # after this FIND is careful
        await client.delete(b"user.b")
        await client.noop()
        assert await client.find(b"user.b") is None
        await client.logout()
        with pytest.raises((MupdateUnavailable, LocalProtocolError)):
            await client.noop()

    with_client(use)


def test_a_refusal_says_what_the_server_said_and_the_client_goes_on() -> None:
    async def use(client: Client) -> None:
        await client.activate(b"user.a", b"be1!p", b"")
        with pytest.raises(MupdateRefused, match="NO mailbox is held by be1"):
            await client.activate(b"user.a", b"be2!p", b"")
        with pytest.raises(MupdateRefused) as caught:
            await client.deactivate(b"user.nobody", b"be2!p")
        assert caught.value.public == "mailbox does not exist"
        with pytest.raises(LocalProtocolError):
            await client.find(b"a\0b")
        await client.noop()

    with_client(use)


def test_a_wrong_password() -> None:
    async def go() -> None:
        async with await Client.connect("127.0.0.1", opened.port, timeout_s=5) as client:
            with pytest.raises(MupdateRefused, match="undefined error"):
                await client.login("murder", Secret(b"wrong"))
            with pytest.raises(LocalProtocolError, match="login first"):
                await client.find(b"x")
            await client.login("murder", PASSWORD)
            await client.noop()

    with door() as opened:
        asyncio.run(go())


def test_a_stream_brings_the_records_and_then_every_change() -> None:
    async def use(client: Client) -> None:
        async with await Client.connect("127.0.0.1", opened_port[0], timeout_s=5) as writer:
            await writer.login("murder", PASSWORD)
            await writer.activate(b"user.a", b"be1!p", b"a\tl\t")
            stream = await client.update()
            with pytest.raises(LocalProtocolError, match="not complete"):
                await stream.barrier()
            first, done = await anext(stream), await anext(stream)
            assert isinstance(first, Mailbox)
            assert first.name == b"user.a"
            assert isinstance(done, Ok)
            assert stream.synced
            await writer.reserve(b"user.b", b"be2!p")
            assert isinstance(pushed := await anext(stream), Reserve)
            assert pushed.name == b"user.b"
            await writer.delete(b"user.b")
            await writer.delete(b"user.a")
            lines = await stream.barrier()
            assert [type(line) for line in lines] == [Delete, Delete]
            assert await stream.barrier() == []

    async def go() -> None:
        async with await Client.connect("127.0.0.1", opened.port, timeout_s=5) as client:
            await client.login("murder", PASSWORD)
            await use(client)

    with door() as opened:
        opened_port = [opened.port]
        asyncio.run(go())


def test_a_quiet_stream_asks_whether_the_server_is_there_and_goes_on() -> None:
    async def go() -> None:
        async with (
            await Client.connect("127.0.0.1", opened.port, timeout_s=5) as client,
            await Client.connect("127.0.0.1", opened.port, timeout_s=5) as writer,
        ):
            await client.login("murder", PASSWORD)
            await writer.login("murder", PASSWORD)
            stream = await client.update(keepalive_s=0.02)
            assert isinstance(await anext(stream), Ok)
            sent = client._sent
            waiting = asyncio.ensure_future(anext(stream))
            assert not (await asyncio.wait({waiting}, timeout=0.3))[0]
            assert client._sent > sent
            await writer.reserve(b"user.late", b"be1!p")
            async with asyncio.timeout(5):
                assert isinstance(await waiting, Reserve)

    with door() as opened:
        asyncio.run(go())


GREETING = b'* AUTH "PLAIN"\r\n* OK MUPDATE "a" "b" "c" "d"\r\n'


def connect_to(script: list[bytes], *, silent: bool = False, timeout_s: float = 5.0) -> None:
    async def go() -> None:
        async with await Client.connect("127.0.0.1", opened.port, timeout_s=timeout_s) as client:
            await client.login("murder", PASSWORD)

    with door(script, silent=silent) as opened:
        asyncio.run(go())


@pytest.mark.parametrize(
    ("script", "silent", "error", "words"),
    [
        ([], False, MupdateUnavailable, "closed|reset"),
        ([GREETING[:20]], False, MupdateUnavailable, "closed|reset"),
        ([b'* BYE "Server Unable"\r\n'], False, MupdateUnavailable, "greets with BYE Server Unable"),
        ([b"220 smtp\r\n"], False, RemoteProtocolError, "no MUPDATE banner"),
        ([GREETING, b"AAAA\r\n"], True, RemoteProtocolError, "challenge"),
        ([GREETING, b'A1 OK "a" "b"\r\n'], True, RemoteProtocolError, "text"),
        ([GREETING, b'* BYE "later"\r\n'], True, MupdateUnavailable, "later"),
        ([GREETING.replace(b"PLAIN", b"GSSAPI")], True, LocalProtocolError, "PLAIN"),
    ],
)
def test_servers_that_break_off(script: list[bytes], silent: bool, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        connect_to(script, silent=silent)


@pytest.mark.parametrize("script", [[], [b'* AUTH "PLAIN"\r\n'], [GREETING]])
def test_a_server_that_says_no_more_is_not_waited_for(script: list[bytes]) -> None:
    with pytest.raises(MupdateUnavailable, match=r"no answer in 0\.2 s"):
        connect_to(script, silent=True, timeout_s=0.2)


def test_a_stream_whose_server_does_not_answer_a_noop_is_over() -> None:
    async def go() -> None:
        async with await Client.connect("127.0.0.1", opened.port, timeout_s=0.2) as client:
            await client.login("murder", PASSWORD)
            stream = await client.update(keepalive_s=0.05)
            assert isinstance(await anext(stream), Ok)
            with pytest.raises(MupdateUnavailable, match=r"no answer in 0\.2 s"):
                await anext(stream)

    with door([GREETING, b'A1 OK "x"\r\nU2 OK "x"\r\n'], silent=True) as opened:
        asyncio.run(go())


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    async def go() -> None:
        await Client.connect("127.0.0.1", port, timeout_s=2)

    with pytest.raises(MupdateUnavailable, match=f"127.0.0.1:{port}"):
        asyncio.run(go())
