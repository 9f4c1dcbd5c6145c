"""An operator's batch: what it changes, what it refuses, what it says about before."""

from __future__ import annotations

import pytest

from cyrusext.directory.base import Committed
from cyrusext.directory.batch import Applied, Refusal, Wanted
from cyrusext.errors import StoreFull
from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.replica.apply import ApplyWork


class Records:
    def __init__(self, *records: MailboxRecord) -> None:
        self.records = {record.name: record for record in records}

    def get(self, name: bytes) -> MailboxRecord | None:
        return self.records.get(name)

    def put(self, record: MailboxRecord) -> MailboxRecord:
        self.records[record.name] = stored = record._replace(seq=len(self.records) + 1)
        return stored

    def put_copied(self, record: MailboxRecord) -> MailboxRecord:
        raise NotImplementedError

    def set_text(self, key: str, text: str) -> None:
        raise NotImplementedError


ALICE = MailboxRecord(b"user.alice", State.ACTIVE, "be1", "default", b"alice\tl\t", 1, Flag.NONE, 5, "old")


def apply(
    records: Records, *wanted: Wanted, force: bool = False, dry_run: bool = False
) -> tuple[Applied, list[Committed]]:
    changes: list[Committed] = []
    work = ApplyWork(list(wanted), force=force, dry_run=dry_run, by="cli:root")
    applied = work.run(records, changes)
    assert isinstance(applied, Applied)
    return applied, changes


def test_a_new_record_is_created_and_was_absent() -> None:
    records = Records()
    want = Wanted(b"user.bob", 2, "be1", "", b"bob\tl\t")
    applied, changes = apply(records, want)
    assert (applied.created, applied.before) == (1, [Wanted(b"user.bob", 0)])
    assert records.records[b"user.bob"][:5] == want
    assert records.records[b"user.bob"].changed_by == "cli:root"
    assert changes == [Committed(records.records[b"user.bob"], "")]


def test_the_same_again_is_unchanged_and_not_told() -> None:
    applied, changes = apply(Records(ALICE), Wanted(*ALICE[:5]))
    assert (applied.unchanged, applied.before, changes) == (1, [], [])


@pytest.mark.parametrize(
    "want",
    [
        Wanted(b"user.alice", 2, "be1", "other", b"alice\tl\t"),
        Wanted(b"user.alice", 2, "be1", "default", b"alice\tlrs\t"),
        Wanted(b"user.alice", 1, "be1", "default", b"alice\tl\t"),
    ],
)
def test_the_owner_s_record_changes_without_force(want: Wanted) -> None:
    records = Records(ALICE)
    applied, changes = apply(records, want)
    assert (applied.changed, applied.before) == (1, [Wanted(*ALICE[:5])])
    assert changes[0].was == "be1"
    assert records.records[b"user.alice"][:5] == want


def test_the_owner_of_an_active_record_changes_with_force_only_and_the_rest_is_applied() -> None:
    records = Records(ALICE)
    moved, new = Wanted(b"user.alice", 2, "be2", "default"), Wanted(b"user.bob", 2, "be2", "default")
    applied, _ = apply(records, moved, new)
    assert applied.refused == [Refusal(b"user.alice", "mailbox is active on be1", "be1", "default")]
    assert (applied.created, applied.changed) == (1, 0)
    assert records.records[b"user.alice"] == ALICE
    applied, _ = apply(records, moved, new, force=True)
    assert (applied.changed, applied.unchanged, applied.refused) == (1, 1, [])
    assert records.records[b"user.alice"].server == "be2"


def test_a_reserved_record_has_no_owner_to_protect() -> None:
    records = Records(ALICE._replace(state=State.RESERVED, acl=b""))
    assert apply(records, Wanted(b"user.alice", 2, "be2", "p"))[0].changed == 1


def test_deleting_leaves_a_tombstone_and_says_what_was() -> None:
    records = Records(ALICE)
    applied, changes = apply(records, Wanted(b"user.alice", 3), Wanted(b"user.nobody", 3))
    assert (applied.deleted, applied.absent, applied.before) == (1, 1, [Wanted(*ALICE[:5])])
    assert records.records[b"user.alice"].state is State.DELETED
    assert changes[0].was == "be1"
    applied, _ = apply(records, Wanted(b"user.alice", 3))
    assert (applied.deleted, applied.absent) == (0, 1)
    applied, _ = apply(records, Wanted(b"user.alice", 2, "be2", "p"))
    assert (applied.created, applied.before) == (1, [Wanted(b"user.alice", 0)])


def test_a_dry_run_says_the_same_and_does_nothing() -> None:
    records = Records(ALICE)
    wanted = (Wanted(b"user.alice", 2, "be2", "p"), Wanted(b"user.bob", 2, "be1", "p"), Wanted(b"user.c", 3))
    dry, changes = apply(records, *wanted, dry_run=True, force=True)
    assert changes == []
    assert records.records == {b"user.alice": ALICE}
    wet, _ = apply(records, *wanted, force=True)
    assert dry == wet


def test_setting_a_suspect_record_clears_it_and_held_stays() -> None:
    records = Records(ALICE._replace(flags=Flag.SUSPECT | Flag.HELD))
    assert apply(records, Wanted(*ALICE[:5]))[0].changed == 1
    assert records.records[b"user.alice"].flags is Flag.HELD
    assert apply(records, Wanted(*ALICE[:5]))[0].unchanged == 1


@pytest.mark.parametrize(
    "want",
    [
        Wanted(b"", 2, "be1", "p"),
        Wanted(b"x" * 491, 2, "be1", "p"),
        Wanted(b"user.a\0b", 2, "be1", "p"),
        Wanted(b"user.a", 0, "be1", "p"),
        Wanted(b"user.a", 9, "be1", "p"),
        Wanted(b"user.a", 2, "", "p"),
        Wanted(b"user.a", 2, "be 1", "p"),
        Wanted(b"user.a", 2, "bé1", "p"),
        Wanted(b"user.a", 2, "be1!x", "p"),
        Wanted(b"user.a", 2, "be1", "p\n"),
        Wanted(b"user.a", 2, "be1", "p", b"a\0"),
        Wanted(b"", 3),
    ],
)
def test_what_no_record_can_hold_is_refused_alone(want: Wanted) -> None:
    records = Records()
    applied, _ = apply(records, want, Wanted(b"user.good", 2, "be1", "p"))
    assert [refusal.name for refusal in applied.refused] == [want.name]
    assert applied.refused[0].reason
    assert (applied.created, list(records.records)) == (1, [b"user.good"])


def test_of_one_name_twice_the_last_counts() -> None:
    records = Records()
    applied, changes = apply(records, Wanted(b"a", 2, "be1", "p"), Wanted(b"a", 2, "be1", "q"))
    assert records.records[b"a"].partition == "q"
    assert [change.was for change in changes] == ["", "be1"]
    assert applied.before == [Wanted(b"a", 0), Wanted(b"a", 2, "be1", "p")]


def test_a_failure_of_the_store_is_the_whole_answer() -> None:
    error = StoreFull("full")
    assert ApplyWork([], force=False, dry_run=False, by="x").failed(error) is error
