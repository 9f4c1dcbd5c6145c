"""What a store needs as time passes: its heartbeat, old tombstones forgotten, dead readers' slots freed.

Rule: the heartbeat beats on the event loop, so that a node whose loop hangs does not look fresh; what writes is done in
the writer's thread, in small pieces between the commits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from cyrusext.errors import StoreError
from cyrusext.replica.writer import GroupCommit
from cyrusext.runtime import logging
from cyrusext.runtime.clock import StampClock
from cyrusext.runtime.log_limit import PeerLog

log = logging.get()

BEAT_S = 0.5
UPKEEP_S = 60.0
TOMBSTONE_S = 3600.0
"""How long a deletion is remembered; much longer than the minute in which it makes a "no" temporary."""
PURGE = 500
"""Tombstones forgotten in one transaction."""


class Store(Protocol):
    """What upkeep needs of the store."""

    def beat(self, *, fresh: bool) -> None: ...

    def purge_tombstones(self, before_us: int, limit: int) -> int: ...

    def check_readers(self) -> int: ...


class Upkeep:
    """Beats for `store` while it runs; `is_fresh` says whether all that is known is applied to it.

    `peer_log` tells every minute what it suppressed.
    """

    name = "upkeep"

    def __init__(
        self, store: Store, writer: GroupCommit, is_fresh: Callable[[], bool], peer_log: PeerLog | None = None
    ) -> None:
        self._store, self._writer, self._is_fresh = store, writer, is_fresh
        self._peer_log = peer_log or PeerLog(log)
        self._timer: asyncio.TimerHandle | None = None
        self._next_upkeep = 0.0
        self._beaten_at = time.monotonic()
        self._clock = StampClock()

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tick()

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._store.beat(fresh=False)  # readers need not wait for the heartbeat to grow old

    @property
    def beat_age_s(self) -> float:
        """Seconds since the last heartbeat that was written."""
        return time.monotonic() - self._beaten_at

    def beat(self, _changes: object = None) -> None:
        """Write the heartbeat now; listens to commits too, so that their sequence is in it."""
        try:
            self._store.beat(fresh=self._is_fresh())
            self._beaten_at = time.monotonic()
        except StoreError as error:
            # Readers find the heartbeat too old and say "temporary"; commits and their answers go on.
            log.error("store.no_heartbeat", error=error)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(BEAT_S, self._tick)
        self.beat()
        if by := self._clock.jumped():
            log.warning("clock.jumped", seconds=by, reason="the wall clock was set; no deletion is forgotten early")
        if self._loop.time() >= self._next_upkeep:
            self._next_upkeep = self._loop.time() + UPKEEP_S
            self._peer_log.tell()
            self._writer.do_between(self._free_readers)
            self._writer.do_between(self._purge)

    def _free_readers(self) -> None:
        if freed := self._store.check_readers():
            log.warning("store.readers_freed", count=freed)

    def _purge(self) -> None:
        before_us = int(self._clock.older_than(TOMBSTONE_S) * 1_000_000)
        if self._store.purge_tombstones(before_us, PURGE) >= PURGE:
            self._writer.do_between(self._purge)
