"""DESIGN rule 1: when a door may say "no", and when it has to say "later"."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyrusext.lookup import RECENTLY_DELETED_S, Lookup, Verdict
from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.names import NameRules
from cyrusext.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run", map_size=16 << 20) as opened:
        opened.beat(fresh=True)
        yield opened


@pytest.fixture
def lookup(tmp_path: Path) -> Iterator[Lookup]:
    opened = Lookup(tmp_path / "state", NameRules(postuser="post"), no_max_age_s=60)
    yield opened
    opened.close()


def put(store: Store, name: bytes, state: State = State.ACTIVE, flags: Flag = Flag.NONE, at: int = 0) -> None:
    with store.begin() as transaction:
        transaction.put(MailboxRecord(name, state, "be1", "default", flags=flags, changed_at=at))


def test_found(store: Store, lookup: Lookup) -> None:
    put(store, b"user.alice")
    put(store, b"shared.dept", flags=Flag.MOVING)
    answer = lookup.recipient(b"alice+folder@example.org")
    assert (answer.verdict, answer.mailbox) == (Verdict.FOUND, b"user.alice")
    assert (answer.server, answer.partition) == ("be1", "default")
    assert lookup.recipient(b"post+shared.dept@example.org").verdict is Verdict.FOUND


def test_absent_with_proof(store: Store, lookup: Lookup) -> None:
    put(store, b"user.alice")
    answer = lookup.recipient(b"nobody@example.org")
    assert (answer.verdict, answer.mailbox) == (Verdict.ABSENT, b"user.nobody")
    assert lookup.mailbox(b"user.nobody").verdict is Verdict.ABSENT


def test_empty_list_bounces_nobody(store: Store, lookup: Lookup) -> None:
    answer = lookup.recipient(b"alice@example.org")
    assert (answer.verdict, answer.reason) == (Verdict.TEMPORARY, "mailbox list is still empty")
    assert lookup.mailbox(b"user.alice").verdict is Verdict.ABSENT


def test_what_is_no_address_is_absent(store: Store, lookup: Lookup) -> None:
    assert lookup.recipient(b"a b@example.org").verdict is Verdict.ABSENT
    assert lookup.recipient(b"").verdict is Verdict.ABSENT


@pytest.mark.parametrize(
    ("state", "flags"), [(State.RESERVED, Flag.NONE), (State.ACTIVE, Flag.HELD), (State.ACTIVE, Flag.SUSPECT)]
)
def test_uncertain_records_are_temporary(store: Store, lookup: Lookup, state: State, flags: Flag) -> None:
    put(store, b"user.alice", state, flags)
    assert lookup.recipient(b"alice@example.org").verdict is Verdict.TEMPORARY


def test_a_record_without_server_is_temporary(store: Store, lookup: Lookup) -> None:
    """Mode replicated: any server may have it, and none is named."""
    with store.begin() as transaction:
        transaction.put(MailboxRecord(b"user.alice", State.ACTIVE, "", "default"))
    answer = lookup.recipient(b"alice@example.org")
    assert (answer.verdict, answer.reason) == (Verdict.TEMPORARY, "mailbox list names no server")


def test_hit_needs_no_freshness_but_a_miss_does(store: Store, tmp_path: Path) -> None:
    put(store, b"user.alice")
    store.beat(fresh=False)
    lookup = Lookup(tmp_path / "state", NameRules())
    assert lookup.recipient(b"alice@example.org").verdict is Verdict.FOUND
    missed = lookup.recipient(b"nobody@example.org")
    assert (missed.verdict, missed.reason) == (Verdict.TEMPORARY, "mailbox list is not known to be up to date")
    store.beat(fresh=True)
    deadline = time.monotonic() + 5
    while lookup.recipient(b"nobody@example.org").verdict is not Verdict.ABSENT:
        assert time.monotonic() < deadline
        store.beat(fresh=True)
    lookup.close()


def test_just_deleted_user_is_not_bounced(store: Store, lookup: Lookup) -> None:
    put(store, b"user.alice", State.DELETED)
    assert lookup.recipient(b"alice@example.org").verdict is Verdict.TEMPORARY
    assert lookup.mailbox(b"user.alice").verdict is Verdict.ABSENT  # IMAP sees the deletion at once
    long_ago = int((time.time() - RECENTLY_DELETED_S - 1) * 1e6)
    put(store, b"user.alice", State.DELETED, at=long_ago)
    assert lookup.recipient(b"alice@example.org").verdict is Verdict.ABSENT


def test_where_a_deleted_mailbox_was_is_told_to_who_would_bounce_its_mail(store: Store, lookup: Lookup) -> None:
    put(store, b"user.alice", State.DELETED, at=int((time.time() - RECENTLY_DELETED_S - 1) * 1e6))
    answer = lookup.recipient(b"alice@example.org")
    assert (answer.verdict, answer.server, answer.partition) == (Verdict.ABSENT, "be1", "default")
    assert lookup.mailbox(b"user.alice").server == ""
    assert lookup.recipient(b"nobody@example.org").server == ""


def test_no_index_is_temporary_until_there_is_one(tmp_path: Path) -> None:
    lookup = Lookup(tmp_path / "state", NameRules())
    answer = lookup.recipient(b"alice@example.org")
    assert answer.verdict is Verdict.TEMPORARY
    assert str(tmp_path) not in answer.reason
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store:
        put(store, b"user.alice")
        deadline = time.monotonic() + 10
        while lookup.recipient(b"alice@example.org").verdict is not Verdict.FOUND:
            assert time.monotonic() < deadline
    lookup.close()


def test_damaged_record_is_temporary(store: Store, lookup: Lookup, tmp_path: Path) -> None:
    put(store, b"user.alice")
    store.close()
    data = tmp_path / "state" / "store" / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b"default", b"Default"))
    assert lookup.recipient(b"alice@example.org").verdict is Verdict.TEMPORARY


def test_replaced_store_is_found_again(store: Store, lookup: Lookup, tmp_path: Path) -> None:
    put(store, b"user.bob")
    assert lookup.recipient(b"alice@example.org").verdict is Verdict.ABSENT
    store.close()
    for file in (tmp_path / "state" / "store").iterdir():
        file.unlink()
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as again:
        put(again, b"user.alice")
        again.beat(fresh=True)
        assert lookup.recipient(b"alice@example.org").verdict is Verdict.FOUND


def test_the_servers_of_several_are_those_of_each(store: Store, lookup: Lookup) -> None:
    for user in range(40):
        put(store, b"user.u%d" % user)
    put(store, b"user.moving", State.RESERVED)
    addresses = [b"u%d@example.org" % user for user in range(40)]
    assert lookup.servers_of(addresses) is None, "the index is opened by the first that takes the long way"
    assert lookup.recipient(b"u1@example.org").server == "be1"
    assert lookup.servers_of([]) == []
    assert lookup.servers_of(addresses) == [lookup.server_of(address) for address in addresses] == ["be1"] * 40
    for doubtful in (b"nobody@example.org", b"moving@example.org", b"", b"a b@example.org", b"x" * 600):
        assert lookup.server_of(doubtful) is None
        for place in (0, 15, 16, 40):
            assert lookup.servers_of([*addresses[:place], doubtful, *addresses[place:]]) is None


def test_no_server_of_anybody_without_an_index(tmp_path: Path) -> None:
    lookup = Lookup(tmp_path / "state", NameRules())
    try:
        assert lookup.server_of(b"u1") is None
        assert lookup.servers_of([b"u1"]) is None
    finally:
        lookup.close()
