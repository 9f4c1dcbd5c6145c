"""The heartbeat, tombstones and dead readers."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AbstractContextManager

import pytest

from cyrusext.directory.base import Transaction
from cyrusext.errors import StoreError
from cyrusext.replica.upkeep import PURGE, TOMBSTONE_S, Upkeep
from cyrusext.replica.writer import GroupCommit
from tests.harness.waiting import wait_until


class Diary:
    """A store that notes what is asked of it."""

    def __init__(self, tombstones: int = 0) -> None:
        self.beats: list[bool] = []
        self.purges: list[tuple[int, int]] = []
        self.threads: set[str] = set()
        self.tombstones = tombstones
        self.broken = False

    def begin(self) -> AbstractContextManager[Transaction]:
        pytest.fail("nothing is to be written")

    def beat(self, *, fresh: bool) -> None:
        if self.broken:
            raise StoreError("no run_dir")
        self.beats.append(fresh)

    def purge_tombstones(self, before_us: int, limit: int) -> int:
        self.threads.add(threading.current_thread().name)
        self.purges.append((before_us, limit))
        purged = min(limit, self.tombstones)
        self.tombstones -= purged
        return purged

    def check_readers(self) -> int:
        return 0


def test_it_beats_while_it_runs_and_says_so_when_it_ends() -> None:
    store, fresh = Diary(), [True]

    async def main() -> None:
        writer = GroupCommit(store)
        upkeep = Upkeep(store, writer, lambda: fresh[0])
        await writer.start()
        await upkeep.start()
        assert store.beats == [True]
        await asyncio.to_thread(wait_until, lambda: len(store.beats) >= 3, "it beats by itself")
        fresh[0] = False
        upkeep.beat([])
        assert store.beats[-1] is False
        fresh[0] = True
        upkeep.beat()
        assert store.beats[-1] is True
        await upkeep.stop()
        await writer.stop()
        assert store.beats[-1] is False

    asyncio.run(main())


def test_old_tombstones_go_in_small_pieces_in_the_writer_s_thread() -> None:
    store = Diary(tombstones=2 * PURGE + 1)

    async def main() -> None:
        writer = GroupCommit(store)
        upkeep = Upkeep(store, writer, lambda: True)
        await writer.start()
        await upkeep.start()
        await asyncio.to_thread(wait_until, lambda: len(store.purges) == 3, "all are forgotten")
        await upkeep.stop()
        await writer.stop()

    asyncio.run(main())
    assert store.tombstones == 0
    assert store.threads == {"writer"}
    before_us, limit = store.purges[0]
    assert limit == PURGE
    assert abs(before_us / 1_000_000 - (time.time() - TOMBSTONE_S)) < 60


def test_a_heartbeat_that_can_not_be_written_stops_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    store = Diary()

    async def main() -> None:
        writer = GroupCommit(store)
        upkeep = Upkeep(store, writer, lambda: True)
        await writer.start()
        store.broken = True
        await upkeep.start()
        upkeep.beat([])
        store.broken = False
        await upkeep.stop()
        await writer.stop()

    asyncio.run(main())
    assert "event=store.no_heartbeat" in capfd.readouterr().err
