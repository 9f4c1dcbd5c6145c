"""The hot table's keeper beside a real store: it builds, tries again, and gives up when the node ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cyrusext.index import Index
from cyrusext.model import MailboxRecord, State
from cyrusext.replica import hot
from cyrusext.replica.hot import HotTable
from cyrusext.store import Store
from tests.harness.waiting import wait_until


def fill(store: Store, count: int) -> None:
    with store.begin() as transaction:
        transaction.put_many(
            [MailboxRecord(b"user.u%d" % i, State.ACTIVE, "be1", "default", b"", 0) for i in range(count)]
        )
    store.beat(fresh=True)


@asynccontextmanager
async def keeper_of(store: Store) -> AsyncIterator[HotTable]:
    keeper = HotTable(store)
    await keeper.start()
    try:
        yield keeper
    finally:
        await keeper.stop()


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition, "the table", 30.0)


def test_builds_at_the_start_and_answers_from_it(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store, Index(tmp_path / "state") as index:
        fill(store, 1000)

        async def run() -> None:
            async with keeper_of(store) as keeper:
                await until(lambda: keeper.built == 1)

        assert index.hot_generation == 0
        asyncio.run(run())
        index.refresh()
        assert index.hot_generation == 1
        found = index.lookup(b"user.u7")
        assert found is not None
        assert (found.server, found.partition, found.state) == ("be1", "default", State.ACTIVE)


def test_builds_the_next_one_when_this_one_is_crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "LOOK_S", 0.01)
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store, Index(tmp_path / "state") as index:

        async def run() -> None:
            async with keeper_of(store) as keeper:
                await until(lambda: keeper.built == 1)
                fill(store, 20_000)
                assert store.hot_wanted
                await until(lambda: keeper.built == 2)
                assert not store.hot_wanted

        asyncio.run(run())
        index.refresh()
        assert index.hot_generation == 2
        assert all(index.lookup_many([b"user.u%d" % i for i in range(20_000)]))


def test_tries_again_where_it_can_not_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "AGAIN_S", 0.01)
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store, Index(tmp_path / "state") as index:
        fill(store, 10)
        in_the_way = tmp_path / "run" / "hot.new"
        in_the_way.mkdir()

        async def run() -> None:
            async with keeper_of(store) as keeper:
                await asyncio.sleep(0.1)
                assert keeper.built == 0
                assert index.lookup(b"user.u7") is not None  # by the store
                in_the_way.rmdir()
                await until(lambda: keeper.built == 1)

        asyncio.run(run())


def test_one_that_was_given_up_leaves_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store:
        fill(store, 10)
        store.cancel_hot()

        async def run() -> None:
            async with keeper_of(store) as keeper:
                await asyncio.sleep(0.1)
                assert keeper.built == 0

        asyncio.run(run())
    assert not (tmp_path / "run" / "hot.new").exists()
    assert not (tmp_path / "run" / "hot").exists()
