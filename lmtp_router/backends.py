"""Connections to the backends: kept, capped, replaced.

Rule: a connection is used again only when its last transaction ended clean and nothing more came; one that waited and
went stale is replaced before any octet of a body, never after (delivery.py decides, here is only told what happened);
every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, cast

from cyrusext.errors import RemoteProtocolError
from cyrusext.runtime import logging
from lmtp_router.breaker import Breaker
from lmtp_router.interfaces import Deadlines, LinkUser
from lmtp_router.protocol.connection import ClientConnection
from lmtp_router.protocol.state import ClientState
from lmtp_router.protocol.types import Answered, HandshakeFailed, Mail, NeedData, Ready, reply
from lmtp_router.recipient import Recipient
from lmtp_router.tally import PoolState
from lmtp_router.turn import Outlet, Turn

MAX_LINKS = 200
"""Connections per backend and worker."""
MAX_WAITING = 2000
"""Deliveries that wait for one of them."""
KEEP_S = 60.0
"""How long an unused connection is kept: a Cyrus backend has one process tied to each."""

UNREACHABLE = reply(451, "4.4.1 No connection to the backend, try again later")
CROWDED = reply(451, "4.3.2 Too many deliveries wait for the backend, try again later")

log = logging.get()


class LinkSettings(NamedTuple):
    """What all connections to backends have in common."""

    hostname: str
    credentials: tuple[str, str] | None
    deadlines: Deadlines
    buffer_limit: int
    """Octets given to a connection and not taken, before the client has to wait."""


class BackendLink:
    """One connection to a backend; the `Link` of the delivery that has it."""

    def __init__(self, pool: BackendPool) -> None:
        self.deadline = math.inf
        self.reused = False
        self.paused = False
        self._pool = pool
        self._connection = ClientConnection(pool.settings.hostname, pool.settings.credentials)
        self._transport: Outlet | None = None
        self._delivery: LinkUser | None = None
        self._ready = False
        self._write_due = False

    @property
    def extensions(self) -> frozenset[bytes]:
        return self._connection.extensions

    @property
    def outstanding(self) -> int:
        return self._connection.outstanding

    # What the delivery does.

    def take(self, delivery: LinkUser, *, reused: bool) -> None:
        """Serve `delivery` from here on."""
        self.deadline = math.inf
        self.reused = reused
        self._delivery = delivery
        delivery.connected(self)

    def mail(self, mail: Mail) -> None:
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

    def expire(self) -> None:
        """The deadline of the greeting, of RSET, or of keeping it unused has passed."""
        if not self._ready:
            self._fail("no greeting or reply to LHLO in time")
        elif self._connection.reusable:
            self.quit()
        else:
            self.close()

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        limit = self._pool.settings.buffer_limit
        self._transport = Outlet(cast(asyncio.Transport, transport), self._pool.turn)
        self._transport.transport.set_write_buffer_limits(high=limit, low=limit // 4)
        self.deadline = self._pool.now() + self._pool.settings.deadlines.greeting
        self._pool.links.add(self)

    def data_received(self, data: bytes) -> None:
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

    def _handle(self, event: Ready | HandshakeFailed | Answered) -> None:
        if isinstance(event, Answered):
            if self._delivery is not None:
                self._delivery.answered(event.sent, event.context, event.reply)
            elif self._connection.reusable and self._transport is not None:
                self._pool.give_back(self)
        elif isinstance(event, Ready):
            self._ready = True
            self._pool.connected(self)
        else:
            self._fail(f"{event.command} was answered {event.reply.text}")

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

    def _fail(self, reason: str) -> None:
        """There was no transaction yet, and there will be none."""
        if self._transport is not None:
            self.close()
            self._pool.failed(reason)

    def pause_writing(self) -> None:
        self.paused = True
        if self._delivery is not None:
            self._delivery.paused()

    def resume_writing(self) -> None:
        self.paused = False
        if self._delivery is not None:
            self._delivery.resumed()
            self._delivery.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._broken("connection reset" if exc is not None else "connection closed")


class BackendPool:
    """The connections to one endpoint."""

    def __init__(
        self, host: str, port: int, settings: LinkSettings, loop: asyncio.AbstractEventLoop, turn: Turn
    ) -> None:
        self.name = f"{host}:{port}"
        self.settings = settings
        self.links: set[BackendLink] = set()
        self.now = loop.time
        self.turn = turn
        self._host = host
        self._port = port
        self._loop = loop
        self._breaker = Breaker()
        self._idle: list[BackendLink] = []
        self._waiting: deque[LinkUser] = deque()
        self._connecting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self.made = 0
        """Connections that came to be, since the start."""
        self.failures = 0
        """Those that did not."""

    def state(self) -> PoolState:
        """What the pool holds now."""
        return PoolState(len(self.links), len(self._idle), self._connecting, len(self._waiting), self._breaker.state)

    @property
    def idle(self) -> int:
        """Number of connections that wait for work."""
        return len(self._idle)

    def acquire(self, delivery: LinkUser, *, fresh: bool) -> None:
        """Give `delivery` a connection now or later; a `fresh` one where the kept ones have shown to be stale."""
        if fresh:
            while self._idle:
                self._idle.pop().quit()
        elif self._idle:
            self._idle.pop().take(delivery, reused=True)
            return
        if len(self._waiting) >= MAX_WAITING:
            delivery.unavailable(CROWDED)
            return
        self._waiting.append(delivery)
        self._pump()

    def withdraw(self, delivery: LinkUser) -> None:
        """`delivery` waits no longer."""
        if delivery in self._waiting:
            self._waiting.remove(delivery)

    def _pump(self) -> None:
        """Open as many connections as there are deliveries waiting for one."""
        while self._connecting < len(self._waiting) and self._connecting + len(self.links) < MAX_LINKS:
            if not self._breaker.allow(self.now()):
                while len(self._waiting) > self._connecting:
                    delivery = self._waiting.pop()
                    delivery.unavailable(UNREACHABLE)
                    delivery.flush()
                return
            self._connecting += 1
            task = self._loop.create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        link = BackendLink(self)
        try:
            async with asyncio.timeout(self.settings.deadlines.connect):
                await self._loop.create_connection(lambda: cast(asyncio.Protocol, link), self._host, self._port)
        except (OSError, TimeoutError) as error:
            # Closed first: where the deadline fell on the last moment, it must not report for itself.
            link.close()
            self.failed("no connection in time" if isinstance(error, TimeoutError) else error.strerror or str(error))

    def connected(self, link: BackendLink) -> None:
        """A new connection is ready."""
        self._connecting -= 1
        self.made += 1
        self._breaker.succeeded()
        self._serve(link, reused=False)

    def failed(self, reason: str) -> None:
        """A connection did not come to be: one delivery less that waits for one."""
        self._connecting -= 1
        self.failures += 1
        self._breaker.failed(self.now())
        log.warning("lmtp.backend_unavailable", backend=self.name, reason=reason, breaker_open=not self._breaker.closed)
        if self._waiting:
            delivery = self._waiting.popleft()
            delivery.unavailable(UNREACHABLE)
            delivery.flush()
        self._pump()

    def give_back(self, link: BackendLink) -> None:
        """`link` is free again."""
        self._serve(link, reused=True)

    def _serve(self, link: BackendLink, *, reused: bool) -> None:
        if self._waiting:
            delivery = self._waiting.popleft()
            link.take(delivery, reused=reused)
            delivery.flush()
        elif self._closing:
            link.quit()
        else:
            link.deadline = self.now() + KEEP_S
            self._idle.append(link)

    def forget(self, link: BackendLink) -> None:
        """`link` is closed."""
        self.links.discard(link)
        if link in self._idle:
            self._idle.remove(link)
        if self._waiting:
            self._pump()

    def expire(self, now: float) -> None:
        """End what has waited too long."""
        for link in [link for link in self.links if link.deadline <= now]:
            link.expire()

    def close(self) -> None:
        """Keep nothing from here on; connections in use end with their transaction."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        while self._idle:
            self._idle.pop().quit()


class BackendPools:
    """All backends; the `Dispatch` of the deliveries."""

    def __init__(self, settings: LinkSettings, loop: asyncio.AbstractEventLoop, turn: Turn) -> None:
        self._settings = settings
        self._loop = loop
        self._turn = turn
        self._pools: dict[tuple[str, int], BackendPool] = {}

    def pool(self, host: str, port: int) -> BackendPool:
        """The pool of an endpoint."""
        pool = self._pools.get((host, port))
        if pool is None:
            pool = self._pools[host, port] = BackendPool(host, port, self._settings, self._loop, self._turn)
        return pool

    def __iter__(self) -> Iterator[BackendPool]:
        return iter(self._pools.values())

    def acquire(self, delivery: LinkUser, *, fresh: bool) -> None:
        self.pool(delivery.route.host, delivery.route.port).acquire(delivery, fresh=fresh)

    def withdraw(self, delivery: LinkUser) -> None:
        self.pool(delivery.route.host, delivery.route.port).withdraw(delivery)

    def expire(self, now: float) -> None:
        """End what has waited too long."""
        for pool in self._pools.values():
            pool.expire(now)

    def close(self) -> None:
        """Keep nothing from here on."""
        for pool in self._pools.values():
            pool.close()
