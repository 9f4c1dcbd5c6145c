"""The stream after UPDATE: changes as they are committed, and the repetition that heals a stock slave.

Rule: what a subscriber has not taken is coalesced in its own bounded queue (replica.feed); when that overflows, or when
it takes nothing for too long, it is told BYE and has to begin again.  Nobody else waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from cyrusext.directory.modes import Audience
from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate._walk import Walk
from cyrusext.mupdate.codec import encode_records
from cyrusext.mupdate.healing import Repeats
from cyrusext.mupdate.service import Order, Service
from cyrusext.replica.feed import News
from cyrusext.runtime import logging

log = logging.get()

BATCH = 500
"""Records sent before others get their turn."""
REPEATED = 250
"""Records repeated before others get theirs: each is looked up."""


class Sender(Protocol):
    """The session that the stream belongs to."""

    peer: str

    def send_records(self, tag: bytes, records: list[MailboxRecord]) -> None: ...

    def send_lines(self, lines: bytes) -> None: ...

    async def send_walk(self, walk: Walk, learn: Callable[[Walk], None]) -> None: ...

    async def drain(self) -> None: ...

    def bye(self, text: str) -> None: ...


class Stream:
    """One subscriber.  It is subscribed from the beginning, so that nothing is missed while the records are walked."""

    def __init__(
        self,
        sender: Sender,
        service: Service,
        *,
        tag: bytes,
        servers: frozenset[str],
        order: Order,
        audience: Audience,
        writable: Callable[[], bool],
    ) -> None:
        self._sender, self._service, self._tag = sender, service, tag
        self._servers, self._order, self._audience, self._writable = servers, order, audience, writable
        self._hears_all = service.rules.echo and service.rules.tells_reserved
        self._repeats = Repeats()
        self._begun = False
        self._pump: asyncio.Task[None] | None = None
        self._healer: asyncio.Task[None] | None = None
        self._hosts = frozenset(server.encode() for server in servers)
        self._subscription = service.feed.subscribe(self._wake, servers, self._offered)

    async def walk(self) -> None:
        """Send all records as they are now."""
        walk = self._service.walk(self._order, self._tag, self._hosts)
        await self._sender.send_walk(walk, self._learn)

    def _learn(self, walk: Walk) -> None:
        for domain in walk.domains():
            self._repeats.learn(domain + b"!")

    def begin(self) -> None:
        """Send changes from now on; to be called when UPDATE has had its OK."""
        self._begun = True
        self._wake()
        if self._order == "cyrus":
            # Not in one segment with the OK: the slave then looks at what its buffer holds only after the next packet.
            self._healer = asyncio.get_running_loop().create_task(self._heal())

    def close(self) -> None:
        """End the subscription; harmless when ended already."""
        self._service.feed.unsubscribe(self._subscription)
        for task in (self._pump, self._healer):
            if task is not None:
                task.cancel()

    def catch_up(self) -> None:
        """Take everything committed before, and send it if the client takes it."""
        self._service.feed.catch_up(self._subscription)

    @property
    def list_is_open(self) -> bool:
        """The first list has not had its OK.

        The stock slave that reads NO or BYE instead takes what it has by then for the whole list, and forgets every
        other mailbox; only a connection that breaks makes it ask again.
        """
        return not self._begun

    async def drained(self) -> None:
        """Wait until everything committed before has been handed to the client's connection."""
        self.catch_up()
        if self._pump is not None:
            await asyncio.shield(self._pump)

    def _of_interest(self, records: list[MailboxRecord]) -> list[MailboxRecord]:
        if not self._servers:
            return records
        return [record for record in records if record.server in self._servers]

    def _offered(self, news: News) -> bool:
        """Send `news` at once where the client takes it; False where it has to wait in the queue."""
        if not self._hears_all or not self._begun or self._pump is not None or not self._writable():
            return False
        self._sender.send_lines(news.encoded(self._tag, encode_records))
        return True

    def _wake(self) -> None:
        """There is something to send: at once when the client takes it, else when it does."""
        if self._subscription.overflowed:
            log.warning("mupdate.subscriber_overflow", peer=self._sender.peer)
            self._service.feed.unsubscribe(self._subscription)
            self._sender.bye("too slow, begin again")
            return
        if not self._begun or self._pump is not None:
            return
        if self._writable():
            self._send_batch()
        if len(self._subscription):
            self._pump = asyncio.get_running_loop().create_task(self._send_waiting())

    def _send_batch(self) -> None:
        """Send what has waited longest, but for what this subscriber must not hear (directory.modes)."""
        audience, rules = self._audience, self._service.rules
        records = self._subscription.take(BATCH)
        self._sender.send_records(self._tag, [record for record in records if audience.hears(record, rules)])

    async def _send_waiting(self) -> None:
        try:
            while len(self._subscription):
                await self._sender.drain()
                self._send_batch()
                await asyncio.sleep(0)
        except ConnectionError:
            self.close()
        finally:
            self._pump = None

    async def _heal(self) -> None:
        """Repeat what the stock slave's merge may have lost, through the queue: never older than what was sent."""
        await asyncio.sleep(self._service.resend_after_s)
        count, literal_dots = await self._repeat(beside_dots=False)
        if literal_dots:
            count += (await self._repeat(beside_dots=True))[0]
        log.debug("mupdate.repeated", peer=self._sender.peer, records=count)

    async def _repeat(self, *, beside_dots: bool) -> tuple[int, bool]:
        """Repeat one kind of names; return how many, and whether any name has a literal dot."""
        count = 0
        entangled = self._repeats.entangled
        walk = self._service.walk("cyrus", self._tag, self._hosts)
        walk.be_brief()  # the names only: the records are taken as they are when they are repeated
        while not walk.done:
            async with self._service.turn():
                names = walk.odd_names(entangled, REPEATED, beside_dots=beside_dots)
                records = [self._service.records.get(name) for name in names]
                lost = [record for record in records if record is not None and record.state is not State.DELETED]
                self._subscription.repeat(self._of_interest(lost))
                count += len(lost)
            await self.drained()
        return count, walk.literal_dots
