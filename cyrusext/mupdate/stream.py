"""The stream after UPDATE: changes as they are committed, and the repetition that heals a stock slave.

Rule: what a subscriber has not taken is coalesced in its own bounded queue (replica.feed); when that overflows, or when
it takes nothing for too long, it is told BYE and has to begin again.  Nobody else waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from cyrusext.directory.modes import Audience
from cyrusext.model import MailboxRecord
from cyrusext.mupdate.healing import Repeats
from cyrusext.mupdate.service import Order, Service
from cyrusext.runtime import logging

log = logging.get()

BATCH = 500
"""Records sent before others get their turn."""


class Sender(Protocol):
    """The session that the stream belongs to."""

    peer: str

    def send_records(self, tag: bytes, records: list[MailboxRecord]) -> None: ...

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
        self._repeats = Repeats()
        self._begun = False
        self._pump: asyncio.Task[None] | None = None
        self._healer: asyncio.Task[None] | None = None
        self._subscription = service.feed.subscribe(self._wake, servers)

    async def walk(self) -> None:
        """Send all records as they are now."""
        async for records in self._service.walk(self._order, self._only_server):
            wanted = self._of_interest(records)
            for record in wanted:
                self._repeats.learn(record.name)
            self._sender.send_records(self._tag, wanted)
            await self._sender.drain()

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

    async def drained(self) -> None:
        """Wait until everything committed before has been handed to the client's connection."""
        if self._pump is not None:
            await asyncio.shield(self._pump)

    @property
    def _only_server(self) -> str:
        return next(iter(self._servers)) if len(self._servers) == 1 else ""

    def _of_interest(self, records: list[MailboxRecord]) -> list[MailboxRecord]:
        if not self._servers:
            return records
        return [record for record in records if record.server in self._servers]

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
        count = 0
        async for records in self._service.walk("cyrus", self._only_server):
            lost = [record for record in self._of_interest(records) if self._repeats.wants(record.name)]
            if lost:
                count += len(lost)
                self._subscription.repeat(lost)
                await self.drained()
        log.debug("mupdate.repeated", peer=self._sender.peer, records=count)
