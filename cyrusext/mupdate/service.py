"""What all sessions of a MUPDATE server share: where records come from, where changes go, who may log in, the bounds.

Rule: a walk over the records holds its snapshot for a short while only, however slow the client that takes its lines
(docs/decisions/list-snapshot.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal, Protocol

from cyrusext.directory.base import Directory
from cyrusext.directory.modes import RULES, Mode, ModeRules
from cyrusext.index import _cyx
from cyrusext.model import MailboxRecord
from cyrusext.mupdate._finds import Finds
from cyrusext.mupdate._sorted import Sorted
from cyrusext.mupdate._walk import Walk
from cyrusext.mupdate.audience import Audiences
from cyrusext.mupdate.connection import ServerConnection
from cyrusext.mupdate.leading import Leading
from cyrusext.mupdate.leftover import Leftovers
from cyrusext.mupdate.refill import Refill
from cyrusext.mupdate.types import UNTAGGED, Bye
from cyrusext.net.login_pool import LoginPool
from cyrusext.net.sasl import Logins, Proved
from cyrusext.net.tls import ServerTls
from cyrusext.replica.feed import ChangeFeed
from cyrusext.runtime import logging
from cyrusext.runtime.log_limit import PeerLog

GIVE_WAY_S = 0.002
"""How long a piece of a walk waits for changes at most: where they never end, it has its share beside them."""
COMPRESS = ("DEFLATE",)

Order = Literal["cyrus", "strcmp"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


class Records(Protocol):
    """What is read of the store."""

    @property
    def reader(self) -> _cyx.Reader: ...

    def get(self, name: bytes) -> MailboxRecord | None: ...


@dataclass(frozen=True)
class Bounds:
    """How long and how much, in seconds and numbers."""

    connections: int = 4096
    login_s: float = 60.0
    """From the connection to the login."""
    handshake_s: float = 10.0
    """From STARTTLS to TLS."""
    failed_login_s: float = 1.0
    """Before a failed login is answered."""
    idle_s: float = 10_800.0
    """Between commands, streams excepted (the stock master's 180 minutes)."""
    slow_reader_s: float = 60.0
    """How long a client may leave its replies untaken."""
    close_s: float = 5.0
    """From our close to cutting off a client that does not read."""


@dataclass
class Tally:
    """What the sessions have counted since the start."""

    logins: Counter[str] = field(default_factory=Counter)
    """Good logins by mechanism."""
    failed_logins: Counter[str] = field(default_factory=Counter)
    """Bad ones by mechanism; "other" is one that was not offered."""
    refused: Counter[str] = field(default_factory=Counter)
    """Changes that got NO, by the code of the reason."""


@dataclass(frozen=True)
class Service:
    """The parts and settings of one MUPDATE server."""

    hostname: str
    version: str
    records: Records
    directory: Directory
    feed: ChangeFeed
    logins: Logins
    login_pool: LoginPool
    admins: frozenset[str]
    mechanisms: tuple[str, ...] = ("PLAIN",)
    tls: ServerTls | None = None
    resend_after_s: float = 0.5
    orders: Sequence[tuple[Network, Order]] = ()
    bounds: Bounds = field(default_factory=Bounds)
    tally: Tally = field(default_factory=Tally)
    leftovers: Leftovers | None = None
    """Reservations that are not told to everybody; None: all are told."""
    give_way: Callable[[float], Awaitable[None]] | None = None
    """Waits until changes that are under way are done, no longer than so many seconds."""
    refill: Refill = field(default_factory=Refill)
    """Whether the records may be out of date."""
    rules: ModeRules = RULES[Mode.STANDARD]
    audiences: Audiences = field(default_factory=Audiences)
    leading: Leading | None = None
    """What lets other nodes follow; None: they may not."""
    leader: str = ""
    """The node that this one follows; FIND and LIST are then answered only once this node has caught up with it."""
    peer_log: PeerLog = field(default_factory=lambda: PeerLog(logging.get()))
    """For what a client can provoke as often as it likes."""

    @cached_property
    def finds(self) -> Finds:
        """What answers FIND in compiled code."""
        return Finds(self.records.reader)

    @cached_property
    def _greetings(self) -> dict[tuple[str, ...], bytes]:
        return {}

    def greeting(self, mechanisms: tuple[str, ...]) -> bytes:
        """Return the banner that offers `mechanisms` to a client without TLS."""
        greeting = self._greetings.get(mechanisms)
        if greeting is None:
            connection = self.new_connection()
            connection.set_mechanisms(mechanisms)
            greeting = self._greetings[mechanisms] = connection.banner()
        return greeting

    def farewell(self, text: str) -> bytes:
        """Return the BYE to a client with which there is no conversation."""
        return self.new_connection().send(Bye(UNTAGGED, text))

    def new_connection(self) -> ServerConnection:
        return ServerConnection(
            hostname=self.hostname,
            version=self.version,
            mechanisms=self.mechanisms,
            starttls=self.tls is not None,
            compress=COMPRESS,
            follow=self.leading is not None or bool(self.leader),
        )

    def mechanisms_for(self, host: str, proved: Proved | None) -> tuple[str, ...]:
        """Return what a client at the address `host` ("" = a UNIX socket) is offered; `proved` is None without TLS.

        A password crosses no network in the clear, and EXTERNAL needs somebody whom a certificate names.
        """
        private = proved is not None or not host or _is_loopback(host)
        refused = {"PLAIN"} if not private else set()
        if proved is None or not proved.identity:
            refused.add("EXTERNAL")
        return tuple(mechanism for mechanism in self.mechanisms if mechanism not in refused)

    def order_for(self, host: str) -> Order:
        """Return the order of LIST and UPDATE for a client at the address `host` ("" = a UNIX socket)."""
        if self.orders and host:
            address = ipaddress.ip_address(host.partition("%")[0])
            for network, order in self.orders:
                if address in network:
                    return order
        return "cyrus"

    def walk(self, order: Order, tag: bytes, servers: Collection[bytes] = (), prefix: bytes = b"") -> Walk:
        """Begin a walk over the records on `servers` (none: on any) whose location begins with `prefix`."""
        kind = Sorted if order == "strcmp" else Walk
        return kind(self.records.reader, tag, servers=servers, prefix=prefix)

    @cached_property
    def _turns(self) -> asyncio.Lock:
        return asyncio.Lock()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One piece of a walk: the only one in its turn of the event loop, and after changes that are under way."""
        async with self._turns:
            if self.give_way is not None:
                await self.give_way(GIVE_WAY_S)
            yield
            await asyncio.sleep(0)
