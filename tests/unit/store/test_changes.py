"""The change log: what it keeps of a change, what is read of it after a sequence, and one mailbox's history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import cyrusext
from cyrusext.index import Event
from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.store import Store

BY = "murder@10.0.0.1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run", map_size=256 << 20) as opened:
        yield opened


def record(name: bytes, server: str = "be1", state: State = State.ACTIVE, **more: object) -> MailboxRecord:
    base = MailboxRecord(name, state, server, "default", b"a\tlrs\t", changed_at=5, changed_by=BY)
    return base._replace(**more)  # type: ignore[arg-type]


def put(store: Store, *records: MailboxRecord) -> None:
    with store.begin() as transaction:
        for each in records:
            transaction.put(each)


def test_what_changed_comes_once_with_its_last_change(store: Store) -> None:
    put(store, record(b"user.a"), record(b"user.b"), record(b"user.a", "be2"))
    everything = store.changed(0, 100)
    assert [(found.name, found.server, found.seq) for found in everything.records] == [
        (b"user.b", "be1", 2),
        (b"user.a", "be2", 3),
    ]
    assert (everything.first, everything.upto, everything.done) == (1, 3, True)
    assert everything.mark == store.mark(3)
    assert store.changed(3, 100)[:3] == ([], 0, 3)
    assert everything.records == [store.get(b"user.b"), store.get(b"user.a")]


def test_a_piece_of_the_log_ends_at_its_limit_and_goes_on_from_there(store: Store) -> None:
    put(store, *(record(b"user.u%d" % n) for n in range(10)))
    names, after, pieces = [], 0, 0
    while True:
        piece = store.changed(after, 3)
        names += [found.name for found in piece.records]
        after, pieces = piece.upto, pieces + 1
        if piece.done:
            break
    assert names == [b"user.u%d" % n for n in range(10)]
    assert (after, pieces) == (10, 4)


def test_a_deletion_is_told_after_its_tombstone_is_forgotten(store: Store) -> None:
    put(store, record(b"user.a"), record(b"user.b"), record(b"user.a", state=State.DELETED, acl=b"", changed_at=9))
    assert store.purge_tombstones(10, 100) == 1
    assert store.get(b"user.a") is None
    gone, kept = sorted(store.changed(0, 100).records, key=lambda found: found.name)
    assert (gone.name, gone.state, gone.seq, gone.changed_at, gone.changed_by) == (b"user.a", State.DELETED, 3, 9, BY)
    assert kept.name == b"user.b"


def test_the_mark_tells_two_changes_under_one_sequence_apart(tmp_path: Path) -> None:
    marks = set()
    for number, changed_at in enumerate((5, 5, 6)):
        with Store.open(tmp_path / f"{number}", run_dir=tmp_path / "run", map_size=64 << 20) as store:
            put(store, record(b"user.a", changed_at=changed_at))
            marks.add(store.mark(1))
            assert store.mark(2) is None
            assert store.mark(0) is None
    assert len(marks) == 2


def test_the_log_is_bounded(store: Store) -> None:
    with store.begin() as transaction:
        for _ in range(100_010):
            transaction.put(record(b"user.a"))
    assert store.changed(0, 1).first == 11
    assert store.mark(10) is None
    assert store.mark(11) is not None


def test_copied_records_keep_their_sequence_and_late_ones_are_no_news(store: Store) -> None:
    with store.begin() as transaction:
        transaction.put_copied(record(b"user.b", seq=70))
        transaction.put_copied(record(b"user.a", seq=30))
        transaction.put_copied(record(b"user.c", seq=90))
    assert [store.get(name).seq for name in (b"user.a", b"user.b", b"user.c")] == [30, 70, 90]  # type: ignore[union-attr]
    assert store.seq == 90
    assert [found.name for found in store.changed(0, 10).records] == [b"user.b", b"user.c"]
    put(store, record(b"user.d"))
    assert store.seq == 91


def test_texts_are_left_in_the_transaction(store: Store) -> None:
    assert store.text("leader") == ""
    with pytest.raises(ZeroDivisionError), store.begin() as transaction:
        transaction.set_text("leader", "lost")
        raise ZeroDivisionError
    with store.begin() as transaction:
        transaction.set_text("leader", "kept")
    assert store.text("leader") == "kept"


def test_the_history_of_a_mailbox(store: Store, tmp_path: Path) -> None:
    put(
        store,
        record(b"user.a", state=State.RESERVED, acl=b"", changed_at=1),
        record(b"user.a", changed_at=2),
        record(b"user.ab"),
        record(b"user.a", changed_at=3),
        record(b"user.a", acl=b"b\tl\t", changed_at=4),
        record(b"user.a", flags=Flag.SUSPECT, acl=b"b\tl\t", changed_at=5),
        record(b"user.a", state=State.RESERVED, acl=b"", changed_at=6),
        record(b"user.a", "be2", changed_at=7),
        record(b"user.a", "be2", state=State.DELETED, acl=b"", changed_at=8),
        record(b"user.a", "be3", changed_at=9, changed_by="cli:root"),
    )
    with cyrusext.open(tmp_path / "state") as index:
        events = index.history(b"user.a")
        assert index.history(b"user.nobody") == []
    assert [(event.changed_at, event.action, event.server, event.acl_changed) for event in events] == [
        (1, "reserve", "be1", False),
        (2, "activate", "be1", True),
        (3, "activate", "be1", False),
        (4, "activate", "be1", True),
        (5, "mark", "be1", False),
        (6, "deactivate", "be1", True),
        (7, "activate", "be2", True),
        (8, "delete", "be2", True),
        (9, "apply", "be3", True),
    ]
    assert [event.before for event in events[:2]] == [None, (State.RESERVED, "be1", "default")]
    assert events[6].before == (State.RESERVED, "be1", "default")
    assert events[8] == Event(
        10, 9, State.ACTIVE, "be3", "default", Flag.NONE, None, acl_changed=True, changed_by="cli:root"
    )
