"""Peers of the router whose every step a test decides: a backend by script, a client line by line, a lookup by table.

Rule: only for faults that no real server shows on demand; what a real Cyrus does is tested with a real Cyrus.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvloop

from cyrusext.backends import Backend, Backends
from cyrusext.lookup import Answer, Verdict
from cyrusext.runtime.config_schema import Timeouts
from lmtp_router.doors import OPEN, Door
from lmtp_router.frontend import Frontend
from lmtp_router.privacy import Disclosure
from lmtp_router.protocol.server import Limits
from lmtp_router.routing import Routing
from lmtp_router.settings import Settings

PATIENCE_S = 10.0


async def wait_until(claim: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait until `claim` holds; fail saying `what` did not come."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    while not claim():
        assert loop.time() < until, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.005)


class FakeLookup:
    """Answers from a table: address → server, or a whole answer.  What is not in it is absent."""

    def __init__(self, table: Mapping[bytes, str | Answer]) -> None:
        self.table = dict(table)
        self.asked: list[bytes] = []
        self.next: dict[bytes, list[str | Answer]] = {}
        self.hot = False
        """It has a hot table, too, with all that is FOUND."""
        self.hits = 0

    def server_of(self, address: bytes) -> str | None:
        found = self.table.get(address) if self.hot and not self.next.get(address) else None
        if not isinstance(found, str):
            return None
        self.hits += 1
        return found

    def servers_of(self, addresses: list[bytes]) -> list[str] | None:
        servers = [server for address in addresses if (server := self.server_of(address)) is not None]
        return servers if len(servers) == len(addresses) else None

    def recipient(self, address: bytes) -> Answer:
        self.asked.append(address)
        queue = self.next.get(address)
        found = queue.pop(0) if queue else self.table.get(address)
        if isinstance(found, Answer):
            return found
        if found is None:
            return Answer(Verdict.ABSENT, b"user." + address.partition(b"@")[0], "", "", "absent")
        return Answer(Verdict.FOUND, b"user." + address.partition(b"@")[0], found, "default", "")


@dataclass
class Message:
    """What a backend got whole."""

    mail: bytes
    rcpts: list[bytes]
    body: bytes


@dataclass
class Script:
    """What a backend says and does; by default it takes everything.  Replies are whole, with their CRLF."""

    greeting: bytes = b"220 backend LMTP\r\n"
    lhlo: bytes = b"250-backend\r\n250-8BITMIME\r\n250-PIPELINING\r\n250-SIZE\r\n250 ENHANCEDSTATUSCODES\r\n"
    mail: bytes = b"250 2.1.0 ok\r\n"
    rcpt: dict[bytes, bytes] = field(default_factory=dict)
    data: bytes = b"354 go\r\n"
    final: dict[bytes, bytes] = field(default_factory=dict)
    drop_after: str = ""
    """Close the connection instead of the next step: greeting mail rcpt data 354 body (at its first octets) dot."""
    drop_after_finals: int = -1
    hang_at: str = ""
    """Never answer: greeting mail rcpt data dot; or never read: body."""
    step: Callable[[str], Awaitable[None]] | None = None
    noop: bytes = b"250 2.0.0 ok\r\n"
    xforward: bytes = b"250 2.0.0 ok\r\n"
    xclient: bytes = b"220 backend LMTP\r\n"
    flaw: str = ""
    """What is wrong with one reply, made of: ``half`` (only its first half is sent), ``twice``, ``slow`` (octet by
    octet); then ``gone`` (the connection is closed behind it) or ``silent`` (nothing more is ever said)."""
    flaw_at: str = ""
    """Which reply: greeting lhlo mail rcpt data final."""
    starttls: bytes = b"220 2.0.0 go\r\n"
    tls: ssl.SSLContext | None = None
    """For STARTTLS, which is offered by `lhlo` only; None: the connection is closed behind the reply."""
    secure_lhlo: bytes = b"250-backend\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 SIZE\r\n"
    """The reply to LHLO under TLS."""


class ScriptedBackend:
    """An LMTP server on a loopback port; it speaks by `script`, which may be changed at any time."""

    def __init__(self, script: Script | None = None, receive_buffer: int = 1 << 18) -> None:
        self.script = script or Script()
        self.messages: list[Message] = []
        self.partial: list[bytes] = []
        """Bodies that ended without their end of data."""
        self.received = 0
        """Octets of bodies, whole or not."""
        self.connections = 0
        self.live = 0
        self.commands: list[bytes] = []
        self.released = asyncio.Event()
        self.port = 0
        self._receive_buffer = receive_buffer
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=self._receive_buffer, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def drop_all(self) -> None:
        """Close every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    def close_all(self) -> None:
        """Close every connection in good manners."""
        for writer in list(self._writers):
            writer.close()

    async def stop(self) -> None:
        self.released.set()
        if self._server is not None:
            self._server.close()
            self.drop_all()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        self.live += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._speak(reader, writer)
        finally:
            self.live -= 1
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _at(self, place: str) -> None:
        if self.script.step is not None:
            await self.script.step(place)
        if self.script.hang_at == place:
            await self.released.wait()
        if self.script.drop_after == place:
            raise ConnectionResetError

    async def _say(self, writer: asyncio.StreamWriter, place: str, answer: bytes) -> None:
        """Send a reply, with its flaw if the script wants one here."""
        flaw = self.script.flaw if self.script.flaw_at == place else ""
        if "half" in flaw:
            answer = answer[: len(answer) // 2]
        for piece in [answer[at : at + 1] for at in range(len(answer))] if "slow" in flaw else [answer]:
            writer.write(piece * 2 if "twice" in flaw else piece)
            if flaw:
                await writer.drain()
                await asyncio.sleep(0)
        if "gone" in flaw:
            raise ConnectionResetError
        if "silent" in flaw:
            await self.released.wait()

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._at("greeting")
        await self._say(writer, "greeting", self.script.greeting)
        mail = b""
        rcpts: list[bytes] = []
        secure = False
        while line := await reader.readline():
            self.commands.append(line)
            verb = line[:4].upper()
            if verb == b"LHLO":
                await self._say(writer, "lhlo", self.script.secure_lhlo if secure else self.script.lhlo)
            elif verb == b"NOOP":
                writer.write(self.script.noop)
            elif verb == b"XFOR":
                writer.write(self.script.xforward)
                if self.script.xforward.startswith(b"421"):
                    return
            elif verb == b"XCLI":
                writer.write(self.script.xclient)
            elif verb == b"STAR":
                writer.write(self.script.starttls)
                if self.script.starttls.startswith(b"220"):
                    if self.script.tls is None:
                        return
                    await writer.drain()
                    await writer.start_tls(self.script.tls)
                    secure = True
            elif verb == b"AUTH":
                writer.write(b"235 2.0.0 ok\r\n")
            elif verb == b"MAIL":
                await self._at("mail")
                mail, rcpts = line[10:].strip(), []
                await self._say(writer, "mail", self.script.mail)
            elif verb == b"RCPT":
                await self._at("rcpt")
                path = line[8:].strip()
                reply = self.script.rcpt.get(path, b"250 2.1.5 ok\r\n")
                if reply.startswith(b"2") and self.script.mail.startswith(b"2"):
                    rcpts.append(path)
                answer = reply if self.script.mail.startswith(b"2") else b"503 5.5.1 no MAIL\r\n"
                await self._say(writer, "rcpt", answer)
            elif verb == b"DATA":
                await self._at("data")
                if rcpts:
                    await self._say(writer, "data", self.script.data)
                if rcpts and self.script.data.startswith(b"354"):
                    await self._message(reader, writer, mail, rcpts)
                    mail, rcpts = b"", []
                elif not rcpts:
                    writer.write(b"503 5.5.1 no recipients\r\n")
            elif verb == b"RSET":
                mail, rcpts = b"", []
                writer.write(b"250 2.0.0 ok\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                return
            else:
                writer.write(b"500 5.5.1 what\r\n")
            await writer.drain()

    async def _message(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mail: bytes, rcpts: list[bytes]
    ) -> None:
        await writer.drain()
        body = bytearray(b"\r\n")
        try:
            await self._at("body" if self.script.hang_at == "body" else "354")
            while not body.endswith(b"\r\n.\r\n"):
                chunk = await reader.read(1 << 16)
                if not chunk:
                    raise ConnectionResetError
                body += chunk
                self.received += len(chunk)
                if self.script.drop_after == "body":
                    raise ConnectionResetError
        except (ConnectionError, asyncio.CancelledError):
            self.partial.append(bytes(body[2:]))
            raise
        self.messages.append(Message(mail, list(rcpts), bytes(body[2:-3])))
        await self._at("dot")
        for index, path in enumerate(rcpts):
            if index == self.script.drop_after_finals:
                raise ConnectionResetError
            await self._say(writer, "final", self.script.final.get(path, b"250 2.1.5 %b delivered\r\n" % path))
            await writer.drain()


class LmtpClient:
    """One connection to the router."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def reply(self) -> bytes:
        """One whole reply."""
        lines: list[bytes] = []
        while True:
            line = await asyncio.wait_for(self.reader.readline(), PATIENCE_S)
            assert line.endswith(b"\r\n"), f"the router closed after {b''.join(lines)!r} {line!r}"
            lines.append(line)
            if line[3:4] != b"-":
                return b"".join(lines)

    async def replies(self, count: int) -> list[bytes]:
        return [await self.reply() for _ in range(count)]

    async def codes(self, count: int) -> list[bytes]:
        return [reply[:3] for reply in await self.replies(count)]

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, line: bytes) -> bytes:
        self.send(line + b"\r\n")
        return await self.reply()

    async def envelope(self, *rcpts: bytes, mail: bytes = b"<from@example.org>") -> list[bytes]:
        """MAIL and RCPTs, pipelined; the replies to the RCPTs."""
        self.send(b"MAIL FROM:%b\r\n" % mail + b"".join(b"RCPT TO:%b\r\n" % rcpt for rcpt in rcpts))
        assert (await self.reply()).startswith(b"250")
        return await self.replies(len(rcpts))

    async def message(self, body: bytes, *rcpts: bytes) -> list[bytes]:
        """A whole transaction whose RCPTs are all accepted; the replies after the message."""
        assert all(reply.startswith(b"250") for reply in await self.envelope(*rcpts))
        assert (await self.ask(b"DATA")).startswith(b"354")
        self.send(body + b".\r\n")
        return await self.replies(len(rcpts))

    async def at_end(self) -> bytes:
        """What still comes until the router closes."""
        return await asyncio.wait_for(self.reader.read(), PATIENCE_S)

    def close(self) -> None:
        self.writer.close()


class RouterUnderTest:
    """The router's frontend in this loop, on a loopback port, between `backends` and a fake lookup."""

    def __init__(
        self,
        backends: Mapping[str, ScriptedBackend],
        table: Mapping[bytes, str | Answer] | None = None,
        *,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        replace: bool = False,
        body_buffer: int = 1 << 20,
        credentials: tuple[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        door: Door = OPEN,
    ) -> None:
        """`settings` are further fields of Settings, `door` is how clients come in."""
        users = {b"u%d@example.org" % n: sorted(backends)[n % len(backends)] for n in range(1000)} if backends else {}
        self.backends = dict(backends)
        self.lookup = FakeLookup({**users, **(table or {})})
        self.settings = Settings(
            hostname="router.example.org",
            limits=limits or Limits(),
            replace_bare_newlines=replace,
            body_buffer=body_buffer,
            deadlines=timeouts or Timeouts(),
            idle_s=(timeouts or Timeouts()).idle,
            credentials=credentials,
            disclosure=Disclosure.FULL,
        )._replace(**(settings or {}))
        self.door = door
        self.port = self.smtp_port = 0
        self.frontend: Frontend | None = None
        self._clients: list[LmtpClient] = []

    async def __aenter__(self) -> RouterUnderTest:
        for backend in self.backends.values():
            if not backend.port:
                await backend.start()
        places = Backends(
            {name: Backend(name=name, host="127.0.0.1", lmtp=backend.port) for name, backend in self.backends.items()}
        )
        sock, smtp = listening_socket(), listening_socket()
        self.port, self.smtp_port = sock.getsockname()[1], smtp.getsockname()[1]
        doors = {sock.fileno(): self.door, smtp.fileno(): Door(smtp=True)}
        self.frontend = Frontend(self.settings, Routing(self.lookup, places), [sock, smtp], doors)
        await self.frontend.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        assert self.frontend is not None
        for backend in self.backends.values():
            await backend.stop()
        await self.frontend.stop()

    async def client(self, *, lhlo: bool = True, smtp: bool = False, tls: ssl.SSLContext | None = None) -> LmtpClient:
        name = "router.example.org" if tls is not None else None
        port = self.smtp_port if smtp else self.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
        client = LmtpClient(reader, writer)
        self._clients.append(client)
        assert (await client.reply()).startswith(b"220 ")
        if lhlo:
            hello = b"EHLO" if smtp else b"LHLO"
            assert (await client.ask(hello + b" client.example.org")).startswith(b"250-")
        return client


def listening_socket() -> socket.socket:
    """A listening socket on a free loopback port."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    sock.setblocking(False)
    return sock


def play(test: Callable[[], Awaitable[None]]) -> None:
    """Run an asynchronous test on the loop that the router runs on."""

    async def bounded() -> None:
        await asyncio.wait_for(test(), 90)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())
