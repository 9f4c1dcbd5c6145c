"""An MUPDATE client on asyncio, for tools, followers and tests.

Rule: every wait has a deadline.  One command at a time; a client whose wait was cut short by a deadline or a
cancellation is closed, since what comes next on its connection can not be told.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from cyrusext.errors import LocalProtocolError, MupdateRefused, MupdateUnavailable, RemoteProtocolError
from cyrusext.mupdate.connection import LIMITS, ClientConnection
from cyrusext.mupdate.types import (
    PAUSED,
    Activate,
    Authenticate,
    Bad,
    Banner,
    Begins,
    Bye,
    Challenge,
    Command,
    Deactivate,
    Delete,
    Find,
    Follow,
    FollowLine,
    Forward,
    Line,
    List,
    Logout,
    Mailbox,
    No,
    Noop,
    Ok,
    Reply,
    Reserve,
    Signal,
    Starttls,
    Update,
)
from cyrusext.wire.framer import Limits
from cyrusext.wire.sasl import Secret, build_plain

READ_SIZE = 1 << 18


class Client:
    """One connection to an MUPDATE server; `connect` makes it, `async with` closes it.

    Commands raise MupdateRefused for NO and BAD, MupdateUnavailable when the server does not answer within
    `timeout_s` seconds or is gone, RemoteProtocolError when it does not speak MUPDATE.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        timeout_s: float,
        peer: str,
        limits: Limits = LIMITS,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout_s = timeout_s
        self._peer = peer
        self._connection = ClientConnection(limits=limits)
        self._sent = 0

    @classmethod
    async def connect(cls, host: str, port: int, *, timeout_s: float = 10.0, limits: Limits = LIMITS) -> Self:
        """Connect and read the banner."""
        peer = f"{host}:{port}"
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(host, port, limit=READ_SIZE)
        except (OSError, TimeoutError) as error:
            raise MupdateUnavailable(f"{peer}: {error or 'connection timed out'}") from error
        client = cls(reader, writer, timeout_s=timeout_s, peer=peer, limits=limits)
        try:
            await client._greeting()
        except BaseException:
            client.abort()
            raise
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    @property
    def banner(self) -> Banner:
        """What the server said of itself."""
        assert self._connection.banner is not None
        return self._connection.banner

    def abort(self) -> None:
        """Close the connection at once."""
        self._writer.transport.abort()

    async def _greeting(self) -> None:
        event = await self._event(self._timeout_s)
        if not isinstance(event, Banner):
            raise MupdateUnavailable(f"{self._peer}: server greets with {_words(event)}")

    def _buffered(self) -> Banner | Reply | None:
        """Return the next event that needs no more bytes."""
        try:
            event = self._connection.next_event()
        except RemoteProtocolError:
            self.abort()
            raise
        if event is PAUSED:
            raise MupdateUnavailable(f"{self._peer}: the connection is over")
        return None if isinstance(event, Signal) else event

    async def _poll(self, wait_s: float) -> Banner | Reply | None:
        """Return the next event, None when none came in time."""
        event = self._buffered()
        if event is not None:
            return event
        try:
            async with asyncio.timeout(wait_s):
                while event is None:
                    data = await self._reader.read(READ_SIZE)
                    if not data:
                        raise MupdateUnavailable(f"{self._peer}: server closed the connection")
                    self._connection.receive_data(data)
                    event = self._buffered()
        except TimeoutError:
            return None
        except OSError as error:
            self.abort()
            raise MupdateUnavailable(f"{self._peer}: {error}") from error
        return event

    async def _event(self, wait_s: float) -> Banner | Reply:
        """Return the next event; the connection is closed when there is none in time."""
        try:
            event = await self._poll(wait_s)
        except BaseException:
            self.abort()
            raise
        if event is None:
            self.abort()
            raise MupdateUnavailable(f"{self._peer}: no answer in {wait_s:g} s")
        return event

    def _tag(self, letter: str) -> bytes:
        self._sent += 1
        return f"{letter}{self._sent}".encode()

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            self.abort()
            raise MupdateUnavailable(f"{self._peer}: {error or 'server does not read'}") from error

    async def _lines(self, command: Command) -> AsyncIterator[Line]:
        """Send `command` and give out the lines of its answer up to its OK."""
        await self._send(self._connection.send(command))
        while True:
            event = await self._event(self._timeout_s)
            if isinstance(event, Mailbox | Reserve | Delete):
                yield event
                continue
            _check(event, self._peer)
            return

    async def _run(self, command: Command) -> None:
        async for _ in self._lines(command):
            raise RemoteProtocolError(f"{self._peer}: server answers {type(command).__name__} with a mailbox")

    async def starttls(self, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        """Go on under TLS; raises MupdateUnavailable where the handshake fails."""
        await self._run(Starttls(self._tag("S")))
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._writer.start_tls(context, server_hostname=server_hostname)
        except (OSError, TimeoutError) as error:
            self.abort()
            raise MupdateUnavailable(f"{self._peer}: TLS: {error or 'handshake timed out'}") from error
        await self._greeting()

    async def login(self, user: str, password: Secret, *, authzid: str = "") -> None:
        """Authenticate with PLAIN as Cyrus' own client does: the message comes with the command.

        Raises LocalProtocolError where the server does not offer PLAIN.
        """
        if "PLAIN" not in self.banner.mechanisms:
            raise LocalProtocolError(f"{self._peer} does not offer PLAIN")
        command = Authenticate(self._tag("A"), "PLAIN", build_plain(user, password, authzid))
        await self._send(self._connection.send(command))
        event = await self._event(self._timeout_s)
        if isinstance(event, Challenge):
            self.abort()
            raise RemoteProtocolError(f"{self._peer}: a challenge to PLAIN")
        _check(event, self._peer)

    async def find(self, name: bytes) -> Mailbox | Reserve | None:
        """Return the record of `name`, None if there is none."""
        found: Mailbox | Reserve | None = None
        async for line in self._lines(Find(self._tag("F"), name)):
            if isinstance(line, Mailbox | Reserve):
                found = line
        return found

    async def list(self, prefix: bytes = b"") -> AsyncIterator[Line]:
        """Give out all records, or those whose location begins with `prefix`, in the server's order."""
        async for line in self._lines(List(self._tag("L"), prefix)):
            yield line

    async def reserve(self, name: bytes, location: bytes) -> None:
        """RESERVE."""
        await self._run(Reserve(self._tag("X"), name, location))

    async def activate(self, name: bytes, location: bytes, acl: bytes) -> None:
        """ACTIVATE."""
        await self._run(Activate(self._tag("X"), name, location, acl))

    async def deactivate(self, name: bytes, location: bytes) -> None:
        """DEACTIVATE."""
        await self._run(Deactivate(self._tag("X"), name, location))

    async def delete(self, name: bytes) -> None:
        """DELETE."""
        await self._run(Delete(self._tag("X"), name))

    async def noop(self) -> None:
        """NOOP."""
        await self._run(Noop(self._tag("N")))

    async def update(self, *hosts: str, keepalive_s: float = 20.0) -> Stream:
        """Subscribe to all records (of `hosts`) and all changes; this client then belongs to the stream."""
        command = Update(self._tag("U"), hosts)
        await self._send(self._connection.send(command))
        return Stream(self, command.tag, keepalive_s)

    # Following another node: whoever does it reads all events himself.

    @property
    def host(self) -> str:
        """The address at the other end."""
        peername = self._writer.get_extra_info("peername")
        return str(peername[0]) if peername else ""

    async def follow(self, command: Follow) -> Begins:
        """Begin to follow; `command` needs no tag.  Then take what comes with `next_event`."""
        await self._send(self._connection.send(replace(command, tag=self._tag("F"))))
        begins = await self._event(self._timeout_s)
        if not isinstance(begins, Begins):
            _check(begins, self._peer)
            raise RemoteProtocolError(f"{self._peer}: unexpected {_words(begins)}")
        _check(await self._event(self._timeout_s), self._peer)
        return begins

    async def next_event(self, wait_s: float) -> FollowLine | Ok | No:
        """Return what the leader says next; raises MupdateUnavailable when it says nothing for so long."""
        event = await self._event(wait_s)
        if isinstance(event, FollowLine | Ok | No):
            return event
        _check(event, self._peer)
        raise RemoteProtocolError(f"{self._peer}: unexpected {_words(event)}")

    def post(self, command: Noop | Forward) -> bytes:
        """Send a command, whatever its tag, without waiting for anything; return its tag.

        Raises LocalProtocolError or MupdateUnavailable where it can not be sent any more.
        """
        if self._writer.transport.is_closing():
            raise MupdateUnavailable(f"{self._peer}: the connection is over")
        tag = self._tag("W" if isinstance(command, Forward) else "N")
        self._writer.write(self._connection.send(replace(command, tag=tag)))
        return tag

    async def logout(self) -> None:
        """Say LOGOUT, wait for its OK, close."""
        await self._run(Logout(self._tag("Q")))
        self.abort()


class Stream:
    """What UPDATE brings: the records, then its Ok, then every change.

    When nothing comes for `keepalive_s` seconds a NOOP asks whether the server is still there.
    """

    def __init__(self, client: Client, tag: bytes, keepalive_s: float) -> None:
        self._client = client
        self._tag = tag
        self._keepalive_s = keepalive_s
        self._noop: bytes | None = None
        self.synced = False
        """True once the Ok was given out."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Line | Ok:
        while True:
            event = await self._next()
            if isinstance(event, Mailbox | Reserve | Delete):
                return event
            _check(event, self._client._peer)
            assert isinstance(event, Ok)
            if event.tag == self._tag:
                self.synced = True
                return event
            self._noop = None

    async def _next(self) -> Banner | Reply:
        client = self._client
        if self.synced and self._noop is None:
            event = await client._poll(self._keepalive_s)
            if event is not None:
                return event
            await self._ask()
        return await client._event(client._timeout_s)

    async def _ask(self) -> None:
        client = self._client
        self._noop = client._tag("N")
        await client._send(client._connection.send(Noop(self._noop)))

    async def barrier(self) -> list[Line]:
        """Send NOOP and return the changes that came before its OK: all that were acknowledged by now are in."""
        if not self.synced:
            raise LocalProtocolError("the stream's list is not complete yet")
        lines: list[Line] = []
        if self._noop is not None:
            await self._until_noop(lines)
        await self._ask()
        await self._until_noop(lines)
        return lines

    async def _until_noop(self, lines: list[Line]) -> None:
        event = await self._client._event(self._client._timeout_s)
        while isinstance(event, Mailbox | Reserve | Delete):
            lines.append(event)
            event = await self._client._event(self._client._timeout_s)
        _check(event, self._client._peer)
        self._noop = None


def _words(event: Banner | Reply) -> str:
    return f"{type(event).__name__.upper()} {event.text}" if isinstance(event, Ok | No | Bad | Bye) else str(event)


def _check(event: Banner | Reply, peer: str) -> None:
    """Return for an Ok; raise what anything else that ends a command means."""
    if isinstance(event, Ok):
        return
    if isinstance(event, No | Bad):
        raise MupdateRefused(f"{peer}: {_words(event)}", public=event.text)
    if isinstance(event, Bye):
        raise MupdateUnavailable(f"{peer}: {_words(event)}")
    raise RemoteProtocolError(f"{peer}: unexpected {_words(event)}")
