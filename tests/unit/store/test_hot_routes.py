"""More places than the hot table and its readers have room for at first."""

from __future__ import annotations

from pathlib import Path

from cyrusext.index import Index
from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.store import Store

PLACES = 20_000


def record(i: int) -> MailboxRecord:
    return MailboxRecord(
        b"user.u%d" % i, State.ACTIVE if i % 3 else State.RESERVED, f"be{i % 300}", f"p{i}", b"", flags=Flag(i % 8)
    )


def test_every_place_is_told_apart(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store, Index(tmp_path / "state") as index:
        with store.begin() as transaction:
            transaction.put_many([record(i) for i in range(PLACES)])
        store.build_hot()
        store.beat(fresh=True)
        index.refresh()
        assert index.hot_generation
        for found, wanted in zip(
            index.lookup_many([b"user.u%d" % i for i in range(PLACES)]), range(PLACES), strict=True
        ):
            expected = record(wanted)
            assert found is not None
            assert (found.server, found.partition) == (expected.server, expected.partition)
            assert (found.state, found.flags) == (expected.state, expected.flags)
            assert found == index.lookup(expected.name)


def test_places_that_come_later_make_the_next_table(tmp_path: Path) -> None:
    """Each with a partition of its own: the routes are used up long before the slots."""
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store, Index(tmp_path / "state") as index:
        store.build_hot()
        for at in range(0, PLACES, 1000):
            with store.begin() as transaction:
                transaction.put_many([record(i) for i in range(at, at + 1000)])
        assert store.hot_wanted
        store.beat(fresh=True)
        assert all(index.lookup_many([b"user.u%d" % i for i in range(PLACES)]))
        store.build_hot()
        index.refresh()
        assert index.hot_generation == 2
        assert all(index.lookup_many([b"user.u%d" % i for i in range(PLACES)]))
