"""One client of the router, from its greeting to its end.

Rule: commands are answered in order; a command that ends a transaction waits for the replies of those before it; and a
client is read only as fast as the slowest of its backends takes what it sends.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from cyrusext.runtime import logging
from lmtp_router._express import Express
from lmtp_router._passed import Taken
from lmtp_router.bulk import Bulk
from lmtp_router.channel import GO_AHEAD, OK, SENDER_OK, Channel, Reception
from lmtp_router.doors import OPEN, Door
from lmtp_router.journal import Done
from lmtp_router.protocol._tuples import record
from lmtp_router.protocol.hops import Hops
from lmtp_router.protocol.proxy import Endpoint
from lmtp_router.protocol.state import ServerState
from lmtp_router.protocol.types import (
    Auth,
    AuthResponse,
    Bdat,
    BodyData,
    BodyEnd,
    BodySpoiled,
    ChunkEnd,
    Data,
    Ehlo,
    Helo,
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
    Starttls,
    Verdict,
    Vrfy,
    Xclient,
    Xforward,
    reply,
)
from lmtp_router.recipient import Recipient
from lmtp_router.results import Replies
from lmtp_router.routing import Route
from lmtp_router.transaction import Transaction
from lmtp_router.turn import Outlet

MAX_BUFFERED = 64 << 10
"""Octets of commands that may wait while a decision is due."""
MAX_OWED = 1000
"""Replies that may be due before the client is read again."""
LINGER_S = 2.0
"""How long a client is listened to, unheard, after the reply that ends its connection."""

NOBODY = reply(554, "5.5.1 No valid recipients")
EARLY = reply(421, "4.7.0 Text came before DATA was answered, closing connection")
BYE = reply(221, "2.0.0 Bye")
CANNOT_VRFY = reply(252, "2.5.2 Cannot VRFY, try RCPT")
STOPPING = reply(421, "4.3.2 Service is stopping, try again later")
SILENT = reply(421, "4.4.2 Timeout, closing connection")
CROWDED = reply(421, "4.3.2 Too many connections, try again later")
STRANGER = reply(421, "4.7.1 This server does not know you")
"""Not a 5xx: a network that is missing in the configuration must not bounce mail."""

_SENDING = frozenset({ServerState.BODY, ServerState.CHUNK, ServerState.CHUNKS})
"""States in which backends wait for more of a message."""

log = logging.get()


class Host(Reception, Protocol):
    """What a session asks of the frontend that it belongs to."""

    @property
    def draining(self) -> bool: ...

    @property
    def shared_extensions(self) -> frozenset[bytes]:
        """What all backends can do that a client may ask for."""

    def admit(self, session: Session) -> bool:
        """Take the session up; False when there are too many."""

    def logged_in(self, session: Session) -> None:
        """The session has logged in."""

    def forget(self, session: Session, transaction: Transaction | None) -> None:
        """The session is gone; a backend may still have to answer for its transaction."""

    def transaction(self, mail: Mail, client: Session, replies: Replies) -> Transaction:
        """Begin a transaction."""

    def express(self, session: Session) -> Express:
        """The short way for what is common."""


class Session(Channel):
    """One client, who came in by `door`."""

    def __init__(self, frontend: Host, door: Door = OPEN, source: Endpoint | None = None) -> None:
        super().__init__(frontend, door, source)
        self._frontend = frontend
        self._transaction: Transaction | None = None
        self._held: Rset | Lhlo | Ehlo | Helo | Quit | Starttls | Xclient | Xforward | None = None
        self._hops = Hops(self._settings.max_hops) if self._settings.max_hops else None
        self._polite = False
        self._linger_until = 0.0
        self._advancing = False
        self._reading = True
        self._unread = False
        self._heard = 0.0
        self._mail_from = b""
        self._done: list[Done] = []
        self._bulk: Bulk | None = None
        """There from the first message on that goes the long way; not under TLS, which has buffers of its own."""
        self._express: Express | None = None
        self._routes: list[Route] | None = None
        """Where the recipients go that are said again."""

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = Outlet(cast(asyncio.Transport, transport), self._frontend.turn)
        self._id = self._frontend.next_id()
        self._heard = self._frontend.now()
        peer = transport.get_extra_info("peername")
        known = self._admit(peer)
        if not known or not self._frontend.admit(self):
            reason = "crowded" if known else "not trusted"
            self._frontend.journal.refused(reason)
            log.warning("lmtp.refused", session=self._id, peer=self._source or peer, reason=reason)
            self._transport.write(self.signed(CROWDED if known else STRANGER))
            self._transport.close()
            self._transport = None
            return
        if self._source is not None:
            log.info("lmtp.client", session=self._id, address=self._source.address, port=self._source.port)
        self._transport.write(self._greeting)
        if not self._door.smtp:
            self._express = self._frontend.express(self)

    def _tls_began(self) -> None:
        self._heard = self._frontend.now()
        self._reading = True
        self._connection.secured()
        self._advance()

    def _logged_in(self) -> None:
        self._heard = self._frontend.now()
        self._frontend.logged_in(self)

    def data_received(self, data: bytes) -> None:
        if self._linger_until:
            return
        self._heard = self._frontend.now()
        express = self._express
        if express is not None:
            if not express.is_idle():
                if express.client_said(data):
                    return
            elif self._is_free() and express.begin(data):
                return
        self._connection.receive_data(data)
        self._advance()

    def _is_free(self) -> bool:
        """True between transactions, when nothing is to be said or decided first."""
        return (
            self._transaction is None
            and self._held is None
            and not self._closing
            and not self._unread
            and not self._replies.owed
            and not self._frontend.draining
        )

    def pause_writing(self) -> None:
        self._leave_express()
        self._unread = True
        self._regulate()

    def resume_writing(self) -> None:
        self._unread = False
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None and self._express is not None:
            self._transport.mute()
            self._express.leave()
        self._transport = self._securing = None
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.cancel()
        self._note()
        self._bulk_over()
        self._frontend.forget(self, transaction)

    # What the transaction tells.

    def data_decided(self, accepted: bool) -> None:
        chunked = self._connection.state is ServerState.CHUNK_ASKED
        if accepted:
            # From here on it is the client that is waited for.
            self._heard = self._frontend.now()
            if self._bulk is None and not self._secure:
                self._bulk = Bulk(self, self._frontend.share)
            self._begin_message()
            self._connection.accept_data()
            if not chunked:
                self._replies.add(GO_AHEAD.raw)
            return
        self._transaction = None
        self._note()
        self._forget_forwarded()
        self._replies.add(self.signed(NOBODY))
        if self._connection.buffered and not chunked:
            # Pipelined text of a refused message must never be read as commands.
            self._replies.add(self.signed(EARLY))
            self._closing = True
        self._connection.refuse_data()

    def _begin_message(self) -> None:
        if self._hops is not None:
            self._hops.begin()
        if self._settings.received and self._transaction is not None:
            first, self._first = self._first, b""
            self._transaction.feed(first or self._received(self._transaction.mail))

    def transaction_moved(self) -> None:
        """Taken up by the `flush` that follows."""

    def recipient_done(self, recipient: Recipient, final: Reply, size: int) -> None:
        self._done.append(record(Done, recipient, final, size, self._frontend.now()))
        if self._transport is None:
            # The client is gone: nothing else ends this transaction.
            self._note()

    def _note(self) -> None:
        """Tell the journal of the transaction that is over."""
        if self._done:
            done, self._done = self._done, []
            self._frontend.journal.note(self._id, self._mail_from, done)

    def _bulk_over(self) -> None:
        if self._bulk is not None:
            self._bulk.over()

    def flush(self) -> None:
        self._advance()

    # What goes the short way tells.

    @property
    def hops(self) -> Hops | None:
        return self._hops

    def note(self, mail: Mail, passed: list[Taken], size: int) -> None:
        """A transaction is over, and every recipient has the message."""
        self._first = b""
        self._frontend.journal.passed(self._id, mail.path, passed, size)
        self._forget_forwarded()
        if self._frontend.draining:
            self._advance()

    def retrace(self, octets: bytes, routes: list[Route]) -> None:
        """Take what the client said as its envelope, whose recipients go by `routes`."""
        self._routes = routes
        self._connection.receive_data(octets)
        self._advance()
        self._routes = None

    def retrace_said(self, octets: bytes) -> None:
        """Take what the client said behind its envelope."""
        self._connection.receive_data(octets)
        self._advance()

    def backdate(self, began: float, opened: float, ended: float) -> None:
        """Say when that was which is said again."""
        if self._transaction is not None:
            self._transaction.backdate(began, opened, ended)

    def _leave_express(self) -> None:
        if self._express is not None:
            self._express.leave()

    # What the session does.

    def _advance(self) -> None:
        """Take up what became possible, and write what became known."""
        if self._advancing or self._transport is None:
            return
        self._advancing = True
        try:
            wrote = True
            while wrote and not self._closing:
                while not self._closing and self._step():
                    pass
                # What was written makes room for more.
                wrote = self._write_ready()
        finally:
            self._advancing = False
        self._write_ready()
        if self._closing and not self._replies.owed:
            self._end()
        else:
            self._regulate()

    def _write_ready(self) -> bool:
        ready = self._replies.ready()
        if ready and self._transport is not None:
            self._transport.write(ready)
        return bool(ready)

    def _end(self) -> None:
        """Close behind the last reply; while the client still sends, so that no reset overtakes that reply."""
        if self._transport is None or self._linger_until:
            return
        if self._polite:
            self._transport.close()
            return
        self._linger_until = self._frontend.now() + LINGER_S
        if not self._transport.can_write_eof():
            # TLS, whose end both sides agree on: it takes what still comes.
            self._transport.close()
            return
        self._transport.write_eof()
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def _step(self) -> bool:
        """Do one thing; False when there is nothing to do now."""
        transaction = self._transaction
        if transaction is not None and transaction.over:
            self._transaction = None
            self._note()
            self._bulk_over()
            self._forget_forwarded()
            self._connection.replied()
        if self._frontend.draining and self._transaction is None and self._routes is None:
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
                hops, bulk = self._hops, self._bulk
                if hops is not None and hops.active and hops.feed(event.chunk):
                    transaction.spoil(Verdict.LOOP)
                transaction.feed(event.chunk)
                if bulk is not None and self._transport is not None:
                    bulk.came(len(event.chunk), self._transport.transport, reading=self._reading)
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
                if self._routes is not None:
                    self._transaction.retrace(self._routes)
                self._replies.add(SENDER_OK.raw, patient=True)
            case Data() | Bdat():
                assert transaction is not None
                transaction.data()
            case ChunkEnd():
                self._replies.add(reply(250, f"2.0.0 {event.size} octets received").raw)
            case Refused():
                self._replies.add(self.signed(event.reply))
                self._closing = self._closing or event.close
            case Noop():
                self._replies.add(OK.raw)
            case Vrfy():
                self._replies.add(CANNOT_VRFY.raw)
            case Lhlo() | Ehlo() | Helo() | Rset() | Quit() | Starttls() | Xclient() | Xforward():
                self._held = event
            case Auth() | AuthResponse():
                self._obey_auth(event)

    def _obey(self, command: Lhlo | Ehlo | Helo | Rset | Quit | Starttls | Xclient | Xforward) -> None:
        """A command that ends the transaction, if there is one."""
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.cancel()
        self._note()
        self._bulk_over()
        if isinstance(command, Lhlo | Ehlo | Helo):
            self._helo, self._extended, self._origin = command.domain, not isinstance(command, Helo), None
            hello = self._connection.hello(command, self._settings.hostname, self._frontend.shared_extensions)
            self._replies.add(hello.raw)
        elif isinstance(command, Rset):
            self._forget_forwarded()
            self._replies.add(OK.raw)
        elif isinstance(command, Starttls):
            self._obey_starttls()
        elif isinstance(command, Xclient):
            self._obey_xclient(command)
        elif isinstance(command, Xforward):
            self._obey_xforward(command)
        else:
            self._polite = True
            self._close(BYE)

    def _close(self, last: Reply) -> None:
        self._replies.add(self.signed(last))
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
        if self._express is None or self._express.is_idle():
            self._advance()

    def expire(self, now: float) -> None:
        """Look after the deadlines: the transaction's, and the client's silence."""
        if self._express is not None and not self._express.is_idle() and self._express.expire(now):
            return
        transaction = self._transaction
        if transaction is not None:
            transaction.expire(now)
        if self._transport is None:
            return
        if self._linger_until:
            if now > self._linger_until:
                self.abort()
            return
        if self.is_stranger and now > self._login_by and not self._closing:
            self._hang_up()
            return
        silent_s = now - self._heard
        if self._unread:
            if silent_s > self._settings.deadlines.data:
                self.abort()
        elif self._connection.state in _SENDING:
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
            self._note()
        self._close(SILENT)
        self._advance()
