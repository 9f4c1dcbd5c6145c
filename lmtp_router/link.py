"""One connection to a backend: its octets, its deadline, the delivery that has it.

Rule: it is given back only when its last transaction ended clean and nothing more came; what TLS or a login needs
happens before anybody has it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import NamedTuple, Protocol, cast

from cyrusext.errors import RemoteProtocolError
from cyrusext.runtime import logging
from lmtp_router.interfaces import Deadlines, LinkUser
from lmtp_router.protocol.client import ClientConnection
from lmtp_router.protocol.state import ClientState
from lmtp_router.protocol.types import Answered, HandshakeFailed, Mail, NeedData, Ready, TlsWanted
from lmtp_router.recipient import Recipient
from lmtp_router.settings import BackendTls, PoolLimits
from lmtp_router.turn import Outlet, Turn

MAX_UNSENT = 16 << 10
"""Octets that the kernel does not take at once, up to which a client is read on: more would only wait here."""
CLOSE_S = 1.0
"""How long a backend may take to say good-bye under TLS."""

log = logging.get()


class LinkSettings(NamedTuple):
    """What all connections to backends have in common."""

    hostname: str
    credentials: tuple[str, str] | None
    deadlines: Deadlines
    buffer_limit: int
    """Octets given to a connection and not taken, before the client has to wait."""
    tls: BackendTls | None = None
    pool: PoolLimits = PoolLimits()
    xclient: bool = False


class Keeper(Protocol):
    """The pool that a connection belongs to."""

    @property
    def name(self) -> str: ...

    @property
    def certificate_name(self) -> str: ...

    @property
    def settings(self) -> LinkSettings: ...

    @property
    def links(self) -> set[BackendLink]: ...

    @property
    def now(self) -> Callable[[], float]: ...

    @property
    def turn(self) -> Turn: ...

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Run what has to wait, until it is done or the pool is closed."""

    def connection(self) -> ClientConnection:
        """The protocol of a new connection."""

    def connected(self, link: BackendLink) -> None:
        """A new connection is ready."""

    def failed(self, reason: str) -> None:
        """A connection did not come to be."""

    def tls_failed(self, reason: str) -> None:
        """It did not, because TLS did not begin."""

    def give_back(self, link: BackendLink) -> None:
        """`link` is free again."""

    def take_out(self, link: BackendLink) -> None:
        """`link` is not to be used now."""

    def forget(self, link: BackendLink) -> None:
        """`link` is closed."""


class Borrower(Protocol):
    """Who has a link without a delivery (_express.pyx)."""

    def heard(self, octets: bytes) -> None:
        """The backend sent this."""

    def leave(self) -> None:
        """Something else happens on the connection: a delivery has to have it from here on."""


class BackendLink:
    """One connection to a backend; the `Link` of the delivery that has it."""

    def __init__(self, pool: Keeper) -> None:
        self.deadline = math.inf
        self.reused = False
        self.idle_until = 0.0
        """Until then it is kept unused; 0 while it is used."""
        self.paused = False
        self._pool = pool
        self._connection: ClientConnection = pool.connection()
        self._transport: Outlet | None = None
        self._delivery: LinkUser | None = None
        self._borrower: Borrower | None = None
        self._ready = False
        self._wants_origin = False
        self._securing = False
        self._write_due = False

    @property
    def extensions(self) -> frozenset[bytes]:
        return self._connection.extensions

    @property
    def outstanding(self) -> int:
        return self._connection.outstanding

    # What a borrower does, who says a whole transaction in one piece.

    @property
    def lendable(self) -> bool:
        """True if it is free, and may be told everything at once."""
        connection = self._connection
        return (
            connection.reusable
            and not self._wants_origin
            and self._transport is not None
            and b"PIPELINING" in connection.extensions
        )

    def lend(self, borrower: Borrower) -> None:
        """From here on `borrower` hears what comes."""
        self._borrower = borrower
        self.deadline = math.inf
        self.idle_until = 0.0

    def pass_on(self, octets: bytes) -> None:
        """Write what the borrower says."""
        if self._transport is not None:
            self._transport.write(octets)

    def reclaim(self, written: bytes = b"") -> None:
        """The borrower has it no more; `written`: the delivery that has it next will say this again."""
        self._borrower = None
        if written and self._transport is not None:
            self._transport.expect(written)

    def catch_up(self, octets: bytes) -> None:
        """Tell the delivery what a borrower has heard; what it was to send is taken to be sent."""
        self._write_commands()
        if octets:
            self.data_received(octets)

    # What the delivery does.

    def take(self, delivery: LinkUser, *, reused: bool) -> None:
        """Serve `delivery` from here on."""
        self.deadline = math.inf
        self.idle_until = 0.0
        self.reused = reused
        self._delivery = delivery
        delivery.connected(self)

    def mail(self, mail: Mail) -> None:
        if self._wants_origin and self._delivery is not None:
            self._connection.introduce(self._delivery.origin)
        self._connection.mail(mail)
        self._write_soon()

    def rcpt(self, path: bytes, recipient: Recipient) -> None:
        self._connection.rcpt(path, recipient)
        self._write_soon()

    def data(self) -> None:
        self._connection.data()
        self._write_soon()

    def body(self, chunk: bytes) -> None:
        octets = self._connection.body(chunk)
        if self._transport is not None:
            self._transport.write(octets)

    def end(self, recipients: list[Recipient]) -> None:
        octets = self._connection.end(list(recipients))
        if self._transport is not None:
            self._transport.write(octets)

    def release(self) -> None:
        self._delivery = None
        if self._connection.reusable:
            self._pool.give_back(self)
        elif self._connection.state is ClientState.ENVELOPE:
            self._connection.rset()
            self._write_commands()
            self.deadline = self._pool.now() + self._pool.settings.deadlines.envelope
        else:
            self.close()

    def close(self) -> None:
        self._delivery = None
        self._pool.forget(self)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def quit(self) -> None:
        """End an unused connection in good manners."""
        if self._transport is not None:
            self._transport.write(b"QUIT\r\n")
            self._transport.close()
            self._transport = None
        self._pool.forget(self)

    def _ask(self) -> None:
        """Does it still live?  Its answer brings it back."""
        self._pool.take_out(self)
        self._connection.noop()
        self._write_commands()
        self.deadline = self._pool.now() + self._pool.settings.deadlines.envelope

    def expire(self) -> None:
        """The deadline of the greeting, of RSET, or of keeping it unused has passed."""
        if not self._ready:
            self._fail("no greeting or reply to LHLO in time")
        elif self._connection.reusable and self._pool.now() < self.idle_until:
            self._ask()
        elif self._connection.reusable:
            self.quit()
        else:
            self.close()

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._use(cast(asyncio.Transport, transport))
        self.deadline = self._pool.now() + self._pool.settings.deadlines.greeting
        self._pool.links.add(self)

    def _use(self, transport: asyncio.Transport) -> None:
        limit = min(self._pool.settings.buffer_limit, MAX_UNSENT)
        transport.set_write_buffer_limits(high=limit, low=limit // 4)
        self._transport = Outlet(transport, self._pool.turn)

    def data_received(self, data: bytes) -> None:
        if self._borrower is not None:
            self._borrower.heard(data)
            return
        touched = self._delivery
        try:
            self._connection.receive_data(data)
            while not isinstance(event := self._connection.next_event(), NeedData):
                self._handle(event)
        except RemoteProtocolError as error:
            self._broken(str(error))
        self._write_commands()
        if touched is not None:
            touched.flush()

    def _handle(self, event: Ready | TlsWanted | HandshakeFailed | Answered) -> None:
        if isinstance(event, Answered):
            if self._delivery is not None:
                self._delivery.answered(event.sent, event.context, event.reply)
            elif self._connection.reusable and self._transport is not None:
                self._pool.give_back(self)
        elif isinstance(event, Ready):
            self._ready = True
            self._wants_origin = self._connection.wants_origin
            self._pool.connected(self)
        elif isinstance(event, TlsWanted):
            self._begin_tls()
        else:
            self._fail(f"{event.command} was answered {event.reply.text}")

    def _begin_tls(self) -> None:
        if self._transport is not None:
            self._securing = True
            self._transport.flush()
            self._transport.pause_reading()
            self._pool.run(self._secure(self._transport.transport))

    async def _secure(self, transport: asyncio.Transport) -> None:
        """Begin TLS, within what is left of the deadline for the greeting; then go on."""
        tls, left_s = self._pool.settings.tls, max(self.deadline - self._pool.now(), 0.01)
        assert tls is not None
        try:
            secured = await tls.tls.begin(
                transport, cast(asyncio.Protocol, self), self._pool.certificate_name, left_s, CLOSE_S
            )
        except ConnectionError as error:
            self._securing = False
            self._fail(f"no TLS: {error}", tls=True)
            return
        self._securing = False
        if self._transport is None:
            secured.transport.abort()
            return
        self._use(secured.transport)
        self._connection.secured()
        self._write_commands()

    def _write_soon(self) -> None:
        """Commands that come in one turn of the loop go out in one write."""
        if not self._write_due:
            self._write_due = True
            self._pool.turn.soon(self._write_commands)

    def _write_commands(self) -> None:
        self._write_due = False
        octets = self._connection.data_to_send()
        if octets and self._transport is not None:
            self._transport.write(octets)

    def _broken(self, reason: str) -> None:
        """The backend is gone, or can not be understood any more."""
        if not self._ready:
            self._fail(reason)
            return
        delivery = self._delivery
        if delivery is not None and self._transport is not None:
            log.warning("lmtp.backend_lost", backend=self._pool.name, phase=delivery.phase.value, reason=reason)
        self.close()
        if delivery is not None:
            delivery.lost()
            delivery.flush()

    def _fail(self, reason: str, *, tls: bool = False) -> None:
        """There was no transaction yet, and there will be none; `tls`: because TLS did not begin."""
        if self._transport is not None:
            self.close()
            if tls:
                self._pool.tls_failed(reason)
            else:
                self._pool.failed(reason)

    def pause_writing(self) -> None:
        if self._borrower is not None:
            self._borrower.leave()
        self.paused = True
        if self._delivery is not None:
            self._delivery.paused()

    def resume_writing(self) -> None:
        self.paused = False
        if self._delivery is not None:
            self._delivery.resumed()
            self._delivery.flush()

    def eof_received(self) -> bool:
        """The backend sends no more: the connection ends.  uvloop's TLS takes this for granted."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._borrower is not None and self._transport is not None:
            self._transport.mute()
            self._borrower.leave()
        if self._transport is not None and not self._securing:
            self._broken("connection reset" if exc is not None else "connection closed")
