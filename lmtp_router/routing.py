"""Where a recipient goes: the lookup's verdict as a place or as a reply.

Rule: DESIGN rule 1 is the lookup's, in one place; here its verdicts only get their LMTP words.  "Absent" is the one
verdict that bounces mail, every other doubt is a 451.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from cyrusext.backends import Backends
from cyrusext.lookup import Answer, Verdict
from lmtp_router.protocol.types import Rcpt, Reply, reply

UNKNOWN_USER = reply(550, "5.1.1 User unknown")
NOT_NOW = reply(451, "4.4.3 Mailbox can not be located now, try again later")
UNSETTLED = reply(451, "4.2.1 Mailbox is being changed, try again later")
BACKEND_DOWN = reply(451, "4.3.2 Mailbox is out of service, try again later")
MAX_KNOWN = 10_000
"""Servers whose place is remembered."""


class Locator(Protocol):
    """What the router asks of cyrusext.lookup.Lookup."""

    def server_of(self, address: bytes) -> str | None: ...

    def servers_of(self, addresses: list[bytes]) -> list[str] | None: ...

    def recipient(self, address: bytes) -> Answer: ...


class Route(NamedTuple):
    """A recipient goes to `server`, whose LMTP is at `host` and `port`."""

    server: str
    host: str
    port: int
    buried: bool = False
    """The mailbox was there and is deleted, by all that is known: the backend may still have it, else it says no."""


class Routing:
    """Asks the lookup and the configured backends."""

    def __init__(self, lookup: Locator, backends: Backends, *, asks_deleted: bool = True) -> None:
        """`asks_deleted`: a backend is asked about mailboxes that it had and that were deleted lately."""
        self._lookup = lookup
        self._asks_deleted = asks_deleted
        self._backends = backends
        self._known: dict[str, Route | Reply] = {}
        """What was said of a server; the backends are those of one configuration."""

    def route(self, recipient: Rcpt) -> Route | Reply:
        """Return where `recipient` goes now, or the reply of a recipient that goes nowhere."""
        address = recipient.address
        server = self._lookup.server_of(address)
        if server is not None:
            return self._known.get(server) or self._to(server)
        answer = self._lookup.recipient(address)
        if answer.server:
            route = self._known.get(answer.server) or self._to(answer.server)
            buried = answer.verdict is Verdict.ABSENT
            if buried and not self._asks_deleted:
                return NOT_NOW
            return route._replace(buried=True) if buried and isinstance(route, Route) else route
        if answer.verdict is Verdict.ABSENT:
            return UNKNOWN_USER
        return UNSETTLED if answer.unsettled else NOT_NOW

    def at_once(self, addresses: list[bytes]) -> list[Route] | None:
        """Return where `addresses` go, if the hot table alone says so and the servers are in service."""
        servers = self._lookup.servers_of(addresses)
        if servers is None:
            return None
        routes: list[Route] = []
        known = self._known
        for server in servers:
            route = known.get(server)
            if route is None:
                route = self._to(server)
            if type(route) is not Route:
                return None
            routes.append(route)
        return routes

    def _to(self, server: str) -> Route | Reply:
        entry = self._backends.get(server)
        route: Route | Reply
        if entry is not None and entry.state == "down":
            route = BACKEND_DOWN
        else:
            route = Route(server, *self._backends.endpoint(server, "lmtp"))
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[server] = route
        return route


class Retraced(Routing):
    """The routes of recipients that are on their way already, in RCPT order; after them, `routing`'s."""

    def __init__(self, routing: Routing, routes: Iterable[Route]) -> None:
        super().__init__(routing._lookup, routing._backends, asks_deleted=routing._asks_deleted)
        self._routes = deque(routes)

    def route(self, recipient: Rcpt) -> Route | Reply:
        return self._routes.popleft() if self._routes else Routing.route(self, recipient)
