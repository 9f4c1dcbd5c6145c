"""Records that nobody may call settled: suspect ones, and those that stay RESERVED for over a minute.

Rule: what is kept is a bounded set of names, learnt from the feed and from one slow walk at the start; no question
walks the store.  A reservation that grows old is logged once and marked suspect through the ordinary writer, which
makes no difference to Cyrus and keeps every door from saying "no" (DESIGN rule 1); its server's next command settles
it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from cyrusext.directory.base import Committed
from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.names import without_folder
from cyrusext.runtime import logging

log = logging.get()

RESERVED_S = 60.0
"""How long a mailbox may be on its way, in seconds."""
CHECK_S = 5.0
LIMIT = 10_000
"""Names kept of each kind; more are found by another walk when these have become few."""
MARKS = 500
"""Records marked in one check."""
CHUNK = 500
REST = 9
"""The walk rests so many times as long as it reads."""


class Records(Protocol):
    """What is read of the store."""

    def get(self, name: bytes) -> MailboxRecord | None: ...

    def chunk(self, *, after: bytes = b"", limit: int = 1000) -> list[MailboxRecord]: ...


class Unsettled:
    """Knows them; `mark` is called with a record that is to become suspect."""

    name = "unsettled"

    def __init__(
        self, records: Records, mark: Callable[[MailboxRecord], object], *, reserved_s: float = RESERVED_S
    ) -> None:
        self._records, self._mark, self._reserved_s = records, mark, reserved_s
        self._reserved: dict[bytes, float] = {}
        """Name → when it is too old, by time.monotonic()."""
        self._suspects: dict[bytes, State] = {}
        self._missed = False
        self._task: asyncio.Task[None] | None = None

    @property
    def suspects(self) -> int:
        """Records marked suspect."""
        return len(self._suspects)

    @property
    def reserved_too_long(self) -> int:
        """Of these, reservations."""
        return sum(state is State.RESERVED for state in self._suspects.values())

    def first(self, count: int) -> list[bytes]:
        """Return the names of some suspect records."""
        return list(islice(self._suspects, count))

    def learn(self, changes: list[Committed]) -> None:
        """Take what was committed; listens to commits."""
        reserved, suspects = self._reserved, self._suspects
        for record, _ in changes:
            if record.flags & Flag.SUSPECT or record.state is State.RESERVED:
                self._note(record, time.monotonic() + self._reserved_s)
            elif reserved or suspects:
                reserved.pop(record.name, None)
                suspects.pop(record.name, None)

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        await self._walk()
        while True:
            self.check()
            await asyncio.sleep(CHECK_S)
            if self._missed and max(len(self._reserved), len(self._suspects)) < LIMIT // 2:
                await self._walk()

    async def _walk(self) -> None:
        """Find what there is already; in small pieces, for it is in no hurry."""
        self._missed = False
        after = b""
        while True:
            began = time.perf_counter()
            records = self._records.chunk(after=after, limit=CHUNK)
            if not records:
                return
            after = records[-1].name
            for record in records:
                if record.flags & Flag.SUSPECT or record.state is State.RESERVED:
                    age_s = max(0.0, time.time() - record.changed_at / 1e6)
                    self._note(record, time.monotonic() + max(0.0, self._reserved_s - age_s))
            await asyncio.sleep(REST * (time.perf_counter() - began))

    def _note(self, record: MailboxRecord, due: float) -> None:
        name = record.name
        suspect = bool(record.flags & Flag.SUSPECT)
        kept, other = (self._suspects, self._reserved) if suspect else (self._reserved, self._suspects)
        other.pop(name, None)
        if record.state is State.DELETED:
            kept.pop(name, None)
        elif len(kept) >= LIMIT and name not in kept:
            self._missed = True
        elif suspect:
            self._suspects[name] = record.state
        else:
            self._reserved[name] = due

    def check(self) -> None:
        """Mark the reservations that are too old."""
        now = time.monotonic()
        for name in list(islice((name for name, due in self._reserved.items() if due <= now), MARKS)):
            record = self._records.get(name)
            if record is None or record.state is not State.RESERVED:
                del self._reserved[name]
                continue
            self._reserved[name] = now + self._reserved_s  # where it can not be marked now, then later
            log.warning(
                "record.reserved_too_long",
                mailbox=without_folder(name),
                server=record.server,
                by=record.changed_by,
                seconds=round(time.time() - record.changed_at / 1e6),
            )
            self._mark(record)
