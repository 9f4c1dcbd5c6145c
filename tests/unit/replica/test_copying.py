"""A copy of another node's store: what is written, what is missing from it, and when a store may be served or led."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cyrusext.directory.base import Committed
from cyrusext.errors import StoreError
from cyrusext.model import MailboxRecord, State
from cyrusext.replica.copying import (
    FILLING,
    FOLLOWED,
    STORE_ID,
    Cookie,
    CopyWork,
    Missing,
    begin_to_lead,
    is_complete,
    order_key,
)
from cyrusext.store import Store

COOKIE = Cookie("0123abcd", 90, "00ff00ff")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run", map_size=256 << 20) as opened:
        yield opened


def record(name: bytes, seq: int = 1, state: State = State.ACTIVE, server: str = "be1") -> MailboxRecord:
    return MailboxRecord(name, state, server, "default", b"a\tl\t", seq, changed_at=5, changed_by="murder@::1")


def copy(
    store: Store,
    *records: MailboxRecord,
    cookie: Cookie | None = None,
    gone: tuple[bytes, ...] = (),
    filling: bool = False,
) -> list[Committed]:
    changes: list[Committed] = []
    with store.begin() as transaction:
        work = CopyWork(records, cookie=cookie, gone=gone, filling=filling, by="leader@::1")
        assert work.run(transaction, changes) is None
    return changes


def test_records_keep_everything_and_what_is_known_is_not_told_again(store: Store) -> None:
    alice = record(b"user.alice", 70)
    assert copy(store, alice, record(b"user.bob", 30), cookie=COOKIE) == [
        Committed(alice, ""),
        Committed(record(b"user.bob", 30), ""),
    ]
    assert store.get(b"user.alice") == alice
    assert Cookie.parse(store.text(FOLLOWED)) == COOKIE
    assert copy(store, alice) == []
    moved = alice._replace(server="be2", seq=80)
    assert copy(store, moved) == [Committed(moved, "be1")]


def test_a_deletion_of_what_was_never_here_is_kept_and_not_told(store: Store) -> None:
    dead = record(b"user.alice", 70, State.DELETED)._replace(acl=b"")
    assert copy(store, dead) == []
    assert store.get(b"user.alice") == dead


def test_what_is_gone_becomes_a_deletion_with_the_cookie(store: Store) -> None:
    copy(store, record(b"user.alice", 70), record(b"user.bob", 71))
    (told,) = copy(store, cookie=COOKIE, gone=(b"user.alice", b"user.nobody"))
    assert (told.record.name, told.record.state, told.record.seq, told.was) == (b"user.alice", State.DELETED, 90, "be1")
    assert told.record.changed_by == "leader@::1"
    assert [found.name for found in store.chunk()] == [b"user.bob"]


def test_a_store_that_never_was_complete_is_neither_served_nor_led(store: Store) -> None:
    assert not is_complete(store)
    copy(store, record(b"user.alice"), filling=True)
    assert store.text(FOLLOWED) == FILLING
    assert not is_complete(store)
    with pytest.raises(StoreError, match="never completed"):
        begin_to_lead(store)
    copy(store, cookie=COOKIE)
    assert is_complete(store)


def test_a_leader_s_name_is_its_own_and_ends_with_its_leading(store: Store) -> None:
    first = begin_to_lead(store)
    assert begin_to_lead(store) == first == store.text(STORE_ID)
    assert not is_complete(store)  # it is empty
    with store.begin() as transaction:
        transaction.put(record(b"user.alice"))
    assert is_complete(store)
    copy(store, cookie=COOKIE)
    assert store.text(STORE_ID) == ""
    second = begin_to_lead(store)
    assert second not in ("", first)
    assert Cookie.parse(store.text(FOLLOWED)) is None
    assert is_complete(store)


@pytest.mark.parametrize("text", ["", FILLING, "no more", "a b c", "a -1 c", "a 1"])
def test_what_is_no_cookie(text: str) -> None:
    assert Cookie.parse(text) is None


NAMES = [b"user.a", b"user.a.b", b"user.a-b", b"user.a0", b"shared", b"a!user.x", b"a.b!user.x", b"a-b!user.x", b"z!y"]


def test_names_are_compared_as_the_store_orders_them(store: Store) -> None:
    copy(store, *(record(name) for name in NAMES))
    assert sorted(NAMES, key=order_key) == [found.name for found in store.chunk()]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_what_a_full_copy_lacks_is_found(store: Store, size: int) -> None:
    copy(store, *(record(name) for name in NAMES))
    theirs = sorted(
        [*(name for name in NAMES if name not in (b"a!user.x", b"user.a-b", b"z!y")), b"new"], key=order_key
    )
    missing = Missing(store)
    for start in range(0, len(theirs), size):
        piece = [record(name, 50) for name in theirs[start : start + size]]
        missing.pass_over(piece)
        copy(store, *piece)
    missing.finish()
    assert sorted(missing.names) == [b"a!user.x", b"user.a-b", b"z!y"]
    assert missing.count == 3
    assert not missing.is_suspicious


def test_an_empty_copy_lacks_everything(store: Store) -> None:
    copy(store, *(record(b"user.u%d" % number) for number in range(1500)))
    missing = Missing(store)
    missing.finish()
    assert (missing.count, missing.present, missing.is_suspicious) == (1500, 1500, True)
