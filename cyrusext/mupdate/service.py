"""What all sessions of a MUPDATE server share: where records come from, where changes go, who may log in, the bounds.

Rule: records are read in short transactions, a chunk at a time; no transaction is open while a client takes its lines.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal, Protocol

from cyrusext.directory.base import Directory
from cyrusext.directory.modes import RULES, Mode, ModeRules
from cyrusext.index import _cyx
from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate._finds import Finds
from cyrusext.mupdate.audience import Audiences
from cyrusext.mupdate.connection import ServerConnection
from cyrusext.mupdate.leftover import Leftovers
from cyrusext.mupdate.types import UNTAGGED, Bye
from cyrusext.net.login_pool import LoginPool
from cyrusext.net.sasl import Logins, Proved
from cyrusext.net.tls import ServerTls
from cyrusext.replica.feed import ChangeFeed

CHUNK = 500
"""Records read in one transaction, at most."""
CHUNK_BYTES = 1 << 20
"""ACLs of more bytes than this in one chunk make the next one smaller."""

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

    def chunk(self, *, server: str = "", after: bytes = b"", limit: int = 1000) -> list[MailboxRecord]: ...


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
    leftovers: Leftovers | None = None
    """Reservations that are not told to everybody; None: all are told."""
    rules: ModeRules = RULES[Mode.STANDARD]
    audiences: Audiences = field(default_factory=Audiences)

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

    async def walk(self, order: Order, server: str = "") -> AsyncIterator[list[MailboxRecord]]:
        """Yield the records (of `server`, when given) in chunks, each as it is at that moment; none is empty."""
        if order == "strcmp":
            async for chunk in self._walk_strcmp(server):
                yield chunk
            return
        after, limit = b"", CHUNK // 8
        while records := self.records.chunk(server=server, after=after, limit=limit):
            after = records[-1].name
            heavy = sum([len(record.acl) for record in records]) > CHUNK_BYTES
            limit = max(1, limit // 8) if heavy else min(CHUNK, limit * 2)
            yield records
            await asyncio.sleep(0)

    async def _walk_strcmp(self, server: str) -> AsyncIterator[list[MailboxRecord]]:
        """Plain byte order, as Cyrus before 3.6 merges: the names are collected and sorted first, in memory."""
        names: list[bytes] = []
        async for records in self.walk("cyrus", server):
            names += [record.name for record in records]
        await asyncio.to_thread(names.sort)
        for start in range(0, len(names), CHUNK):
            found = [self.records.get(name) for name in names[start : start + CHUNK]]
            yield [record for record in found if record is not None and record.state is not State.DELETED]
            await asyncio.sleep(0)
