"""Takes LMTP from clients: one `Session` per connection, all of a worker's sessions in one `Frontend`.

Rule: commands are answered in order; a command that ends a transaction waits for the replies of those before it; and a
client is read only as fast as the slowest of its backends takes what it sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import Sequence
from typing import cast

from cyrusext.runtime import logging
from lmtp_router.backends import BackendPools, LinkSettings
from lmtp_router.protocol.connection import ServerConnection
from lmtp_router.protocol.state import ServerState
from lmtp_router.protocol.types import (
    BodyData,
    BodyEnd,
    BodySpoiled,
    Data,
    Lhlo,
    Mail,
    NeedData,
    Noop,
    Quit,
    Rcpt,
    Refused,
    Reply,
    Rset,
    ServerEvent,
    Vrfy,
    reply,
)
from lmtp_router.recipient import Recipient
from lmtp_router.results import Replies
from lmtp_router.routing import Routing
from lmtp_router.settings import Settings
from lmtp_router.transaction import Transaction

MAX_BUFFERED = 64 << 10
"""Octets of commands that may wait while a decision is due."""
MAX_OWED = 1000
"""Replies that may be due before the client is read again."""
MAX_SESSIONS = 20_000
DRAIN_S = 25.0
"""How long transactions may go on after SIGTERM."""

OK = reply(250, "2.0.0 OK")
SENDER_OK = reply(250, "2.1.0 OK")
GO_AHEAD = reply(354, "End data with <CR><LF>.<CR><LF>")
NOBODY = reply(554, "5.5.1 No valid recipients")
EARLY = reply(421, "4.7.0 Text came before DATA was answered, closing connection")
BYE = reply(221, "2.0.0 Bye")
CANNOT_VRFY = reply(252, "2.5.2 Cannot VRFY, try RCPT")
STOPPING = reply(421, "4.3.2 Service is stopping, try again later")
SILENT = reply(421, "4.4.2 Timeout, closing connection")
CROWDED = reply(421, "4.3.2 Too many connections, try again later")
STRANGER = reply(421, "4.7.1 This server does not know you")
"""Not a 5xx: a network that is missing in the configuration must not bounce mail."""

log = logging.get()


class Session(asyncio.Protocol):
    """One client."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._settings = frontend.settings
        self._connection = ServerConnection(
            self._settings.limits, replace_bare_newlines=self._settings.replace_bare_newlines
        )
        self._replies = Replies()
        self._transaction: Transaction | None = None
        self._held: Rset | Lhlo | Quit | None = None
        self._transport: asyncio.Transport | None = None
        self._id = ""
        self._closing = False
        self._advancing = False
        self._reading = True
        self._unread = False
        self._heard = 0.0
        self._mail_from = b""

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._id = self._frontend.next_id()
        self._heard = self._frontend.now()
        peer = transport.get_extra_info("peername")
        admitted = self._settings.admits(peer)
        if not admitted or len(self._frontend.sessions) >= MAX_SESSIONS:
            log.warning("lmtp.refused", session=self._id, peer=peer, reason="crowded" if admitted else "not trusted")
            self._transport.write((CROWDED if admitted else STRANGER).raw)
            self._transport.close()
            self._transport = None
            return
        self._frontend.sessions.add(self)
        self._transport.write(self._frontend.greeting)

    def data_received(self, data: bytes) -> None:
        self._heard = self._frontend.now()
        self._connection.receive_data(data)
        self._advance()

    def pause_writing(self) -> None:
        self._unread = True
        self._regulate()

    def resume_writing(self) -> None:
        self._unread = False
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.cancel()
        self._frontend.forget(self, transaction)

    # What the transaction tells.

    def data_decided(self, accepted: bool) -> None:
        if accepted:
            self._connection.accept_data()
            self._replies.add(GO_AHEAD.raw)
            return
        self._transaction = None
        self._replies.add(NOBODY.raw)
        if self._connection.buffered:
            # Pipelined text of a refused message must never be read as commands.
            self._replies.add(EARLY.raw)
            self._closing = True
        self._connection.refuse_data()

    def transaction_moved(self) -> None:
        """Taken up by the `flush` that follows."""

    def recipient_done(self, recipient: Recipient, final: Reply, size: int) -> None:
        took_ms = (self._frontend.now() - recipient.started) * 1000
        disclosure = self._settings.disclosure
        log.info(
            "lmtp.recipient",
            session=self._id,
            **disclosure.fields(self._mail_from, recipient.rcpt.path),
            backend=recipient.server,
            size=size,
            reply=final.text,
            took_ms=round(took_ms, 1),
        )

    def flush(self) -> None:
        self._advance()

    # What the session does.

    def _advance(self) -> None:
        """Take up what became possible, and write what became known."""
        if self._advancing or self._transport is None:
            return
        self._advancing = True
        try:
            while not self._closing and self._step():
                pass
        finally:
            self._advancing = False
        ready = self._replies.ready()
        if ready:
            self._transport.write(ready)
        if self._closing and not self._replies.owed:
            self._transport.close()
        else:
            self._regulate()

    def _step(self) -> bool:
        """Do one thing; False when there is nothing to do now."""
        transaction = self._transaction
        if transaction is not None and transaction.over:
            self._transaction = None
            self._connection.replied()
        if self._frontend.draining and self._transaction is None:
            self._close(STOPPING)
            return False
        if self._held is not None:
            if transaction is not None and transaction.unanswered:
                return False
            held, self._held = self._held, None
            self._obey(held)
            return True
        if self._unread or self._replies.owed > MAX_OWED:
            return False
        event = self._connection.next_event()
        if isinstance(event, NeedData):
            return False
        self._take(event)
        return True

    def _take(self, event: ServerEvent) -> None:
        transaction = self._transaction
        match event:
            case BodyData():
                assert transaction is not None
                transaction.feed(event.chunk)
            case BodyEnd():
                assert transaction is not None
                transaction.end(event.size)
            case BodySpoiled():
                assert transaction is not None
                transaction.spoil(event.verdict)
            case Rcpt():
                assert transaction is not None
                transaction.rcpt(event)
            case Mail():
                self._mail_from = event.path
                self._transaction = self._frontend.transaction(event, self, self._replies)
                self._replies.add(SENDER_OK.raw, patient=True)
            case Data():
                assert transaction is not None
                transaction.data()
            case Refused():
                self._replies.add(event.reply.raw)
                self._closing = self._closing or event.close
            case Noop():
                self._replies.add(OK.raw)
            case Vrfy():
                self._replies.add(CANNOT_VRFY.raw)
            case Lhlo() | Rset() | Quit():
                self._held = event

    def _obey(self, command: Lhlo | Rset | Quit) -> None:
        """A command that ends the transaction, if there is one."""
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.cancel()
        if isinstance(command, Lhlo):
            self._replies.add(self._frontend.extensions(self._connection))
        elif isinstance(command, Rset):
            self._replies.add(OK.raw)
        else:
            self._close(BYE)

    def _close(self, last: Reply) -> None:
        self._replies.add(last.raw)
        self._closing = True

    def _regulate(self) -> None:
        """Read the client, or not."""
        transaction = self._transaction
        wait = (
            self._unread
            or self._connection.buffered > MAX_BUFFERED
            or (transaction is not None and transaction.blocked)
        )
        if wait is self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = not wait
            if wait:
                self._transport.pause_reading()
            else:
                self._heard = self._frontend.now()
                self._transport.resume_reading()

    def drain(self) -> None:
        """End as soon as no transaction is open."""
        self._advance()

    def abort(self) -> None:
        """End now."""
        if self._transport is not None:
            self._transport.abort()

    def expire(self, now: float) -> None:
        """Look after the deadlines: the transaction's, and the client's silence."""
        transaction = self._transaction
        if transaction is not None:
            transaction.expire(now)
        if self._transport is None:
            return
        silent_s = now - self._heard
        if self._unread:
            if silent_s > self._settings.deadlines.data:
                self.abort()
        elif self._connection.state is ServerState.BODY:
            if self._reading and silent_s > self._settings.deadlines.data:
                self._hang_up()
        elif not self._replies.owed and silent_s > self._settings.idle_s:
            self._hang_up()

    def _hang_up(self) -> None:
        """The client is silent.  What it had begun to send goes nowhere."""
        if self._transport is None:
            return
        if self._transaction is not None:
            self._transaction.cancel()
            self._transaction = None
        self._close(SILENT)
        self._advance()


class Frontend:
    """All sessions of a worker; a service of its lifecycle."""

    name = "lmtp"

    def __init__(self, settings: Settings, routing: Routing, sockets: Sequence[socket.socket]) -> None:
        self.settings = settings
        self.sessions: set[Session] = set()
        self.orphans: set[Transaction] = set()
        self.draining = False
        self.greeting = reply(220, f"{settings.hostname} LMTP cyrusext ready").raw
        self._routing = routing
        self._sockets = sockets
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.pools = BackendPools(
            LinkSettings(settings.hostname, settings.credentials, settings.deadlines, settings.body_buffer), self._loop
        )
        self._ids = itertools.count(1)
        self._prefix = f"{os.getpid():x}{int(time.time()) & 0xFFFFFF:06x}"
        self._sweeper: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()

    def forget(self, session: Session, transaction: Transaction | None) -> None:
        """`session` is gone.  Where a backend has the whole message, its reply is still worth a line in the log."""
        self.sessions.discard(session)
        if transaction is not None and transaction.live:
            self.orphans.add(transaction)
        self._note_empty()

    def _note_empty(self) -> None:
        if self.draining and not self.sessions and not self.orphans:
            self._empty.set()

    def next_id(self) -> str:
        """The name of a session in the log: unique among the workers that live."""
        return f"{self._prefix}-{next(self._ids):x}"

    def extensions(self, connection: ServerConnection) -> bytes:
        """The reply to LHLO."""
        return connection.extensions(self.settings.hostname).raw

    def transaction(self, mail: Mail, client: Session, replies: Replies) -> Transaction:
        """Begin a transaction."""
        settings = self.settings
        return Transaction(
            mail, client, replies, self._routing, self.pools, settings.deadlines, self.now, settings.body_buffer
        )

    async def start(self) -> None:
        for sock in self._sockets:
            if sock.family == socket.AF_UNIX:
                server = await self._loop.create_unix_server(lambda: Session(self), sock=sock)
            else:
                server = await self._loop.create_server(lambda: Session(self), sock=sock)
            self._servers.append(server)
        self._sweeper = self._loop.create_task(self._sweep())

    async def stop(self) -> None:
        """Take no more clients, let transactions end for `DRAIN_S`, then cut."""
        for server in self._servers:
            server.close()
        self.draining = True
        for session in list(self.sessions):
            session.drain()
        self._note_empty()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), DRAIN_S)
        log.info("lmtp.drained", cut=len(self.sessions))
        for session in list(self.sessions):
            session.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.pools.close()

    async def _sweep(self) -> None:
        """Look after all deadlines: a sweep costs less than a timer for each step of each message."""
        deadlines = self.settings.deadlines
        shortest_s = min(deadlines.connect, deadlines.greeting, deadlines.envelope, deadlines.data, deadlines.final)
        period_s = min(0.5, shortest_s / 4, self.settings.idle_s / 4)
        while True:
            await asyncio.sleep(period_s)
            now = self.now()
            for session in list(self.sessions):
                session.expire(now)
            for transaction in list(self.orphans):
                transaction.expire(now)
                if not transaction.live:
                    self.orphans.discard(transaction)
                    self._note_empty()
            self.pools.expire(now)
