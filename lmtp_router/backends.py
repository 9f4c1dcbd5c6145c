"""Connections to the backends: kept, capped, replaced.

Rule: a connection is used again only when its last transaction ended clean and nothing more came; one that waited and
went stale is replaced before any octet of a body, never after (delivery.py decides, here is only told what happened);
every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import cast

from cyrusext.runtime import logging
from lmtp_router.breaker import Breaker
from lmtp_router.interfaces import LinkUser
from lmtp_router.link import BackendLink, LinkSettings
from lmtp_router.protocol.client import ClientConnection
from lmtp_router.protocol.handshake import Tls
from lmtp_router.protocol.server import offered
from lmtp_router.protocol.types import reply
from lmtp_router.routing import Route
from lmtp_router.tally import PoolState
from lmtp_router.turn import Turn

CLEAR_S = 60.0
"""With `backend_tls = "may"`: how long a backend whose TLS did not begin is used in the clear."""

UNREACHABLE = reply(451, "4.4.1 No connection to the backend, try again later")
CROWDED = reply(451, "4.3.2 Too many deliveries wait for the backend, try again later")

log = logging.get()


class BackendPool:
    """The connections to one endpoint."""

    def __init__(
        self,
        host: str,
        port: int,
        settings: LinkSettings,
        loop: asyncio.AbstractEventLoop,
        turn: Turn,
        certificate_name: str = "",
    ) -> None:
        """`certificate_name`: which name its certificate must have, where that is verified."""
        self.name = f"{host}:{port}"
        self.certificate_name = certificate_name or host
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
        self.extensions: frozenset[bytes] | None = None
        """What the backend offered last; None before it did."""
        self.learned: Callable[[], None] = lambda: None
        """Called when it offers something else than before."""
        self._clear_until = -math.inf
        """Until then TLS is not tried."""
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
        if len(self._waiting) >= self.settings.pool.waiting:
            delivery.unavailable(CROWDED)
            return
        self._waiting.append(delivery)
        self._pump()

    def borrow(self) -> BackendLink | None:
        """Take a kept connection on which a whole transaction can be said at once; None where there is none."""
        idle = self._idle
        if self._waiting or not idle or not idle[-1].lendable:
            return None
        return idle.pop()

    def put_back(self, link: BackendLink) -> None:
        """Keep `link` for the delivery that asks next, which has to have it."""
        self._idle.append(link)

    def withdraw(self, delivery: LinkUser) -> None:
        """`delivery` waits no longer."""
        if delivery in self._waiting:
            self._waiting.remove(delivery)

    def _pump(self) -> None:
        """Open as many connections as there are deliveries waiting for one."""
        most = self.settings.pool.connections
        while self._connecting < len(self._waiting) and self._connecting + len(self.links) < most:
            if not self._breaker.allow(self.now()):
                while len(self._waiting) > self._connecting:
                    delivery = self._waiting.pop()
                    delivery.unavailable(UNREACHABLE)
                    delivery.flush()
                return
            self._connecting += 1
            self.run(self._connect())

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Run what has to wait, until it is done or the pool is closed."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def connection(self) -> ClientConnection:
        """The protocol of a new connection."""
        settings, tls = self.settings, self.settings.tls
        if tls is None or self.now() < self._clear_until:
            return ClientConnection(settings.hostname, settings.credentials, xclient=settings.xclient)
        return ClientConnection(
            settings.hostname, settings.credentials, tls.mode, external=tls.external, xclient=settings.xclient
        )

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
        if link.extensions != self.extensions:
            self.extensions = link.extensions
            self.learned()
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

    def tls_failed(self, reason: str) -> None:
        """TLS did not begin: a failure, or, where it need not, a reason to do without for a while."""
        if self.settings.tls is None or self.settings.tls.mode is Tls.VERIFY:
            self.failed(reason)
            return
        log.warning("lmtp.backend_without_tls", backend=self.name, reason=reason, for_s=CLEAR_S)
        self._clear_until = self.now() + CLEAR_S
        self._connecting -= 1
        self._pump()

    def give_back(self, link: BackendLink) -> None:
        """`link` is free again."""
        if self._waiting or self._closing:
            self._serve(link, reused=True)
        else:
            self._keep(link)

    def _serve(self, link: BackendLink, *, reused: bool) -> None:
        if self._waiting:
            delivery = self._waiting.popleft()
            link.take(delivery, reused=reused)
            delivery.flush()
        elif self._closing:
            link.quit()
        else:
            self._keep(link)

    def _keep(self, link: BackendLink) -> None:
        limits, now = self.settings.pool, self.now()
        link.idle_until = link.idle_until or now + limits.idle_s
        link.deadline = min(link.idle_until, now + limits.noop_s) if limits.noop_s else link.idle_until
        self._idle.append(link)

    def take_out(self, link: BackendLink) -> None:
        """`link` is not to be used now."""
        if link in self._idle:
            self._idle.remove(link)

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
        self._pools: dict[tuple[str, int, str], BackendPool] = {}
        tls = settings.tls
        self._name_of = tls.name_of if tls is not None and tls.mode is Tls.VERIFY else None
        self.shared_extensions = offered(())
        """What may be offered to clients."""

    def _learn(self) -> None:
        self.shared_extensions = offered(
            pool.extensions for pool in self._pools.values() if pool.extensions is not None
        )

    def pool(self, route: Route) -> BackendPool:
        """The pool of an endpoint; where certificates are verified, of the name that is verified there."""
        name = self._name_of(route.server) if self._name_of is not None else ""
        key = (route.host, route.port, name)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = BackendPool(route.host, route.port, self._settings, self._loop, self._turn, name)
            pool.learned = self._learn
            if sum(other.name == pool.name for other in self._pools.values()) > 1:
                pool.name += f"/{name}"
        return pool

    def __iter__(self) -> Iterator[BackendPool]:
        return iter(self._pools.values())

    def acquire(self, delivery: LinkUser, *, fresh: bool) -> None:
        self.pool(delivery.route).acquire(delivery, fresh=fresh)

    def withdraw(self, delivery: LinkUser) -> None:
        self.pool(delivery.route).withdraw(delivery)

    def expire(self, now: float) -> None:
        """End what has waited too long."""
        for pool in self._pools.values():
            pool.expire(now)

    def close(self) -> None:
        """Keep nothing from here on."""
        for pool in self._pools.values():
            pool.close()
