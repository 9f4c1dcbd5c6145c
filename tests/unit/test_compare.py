"""What is found where two lists of mailboxes differ, and what is not."""

from __future__ import annotations

from collections.abc import Iterator

from cyrusext.directory.batch import Wanted
from cyrusext.manage.compare import differences
from cyrusext.manage.dump import DumpFormat
from cyrusext.model import MailboxRecord, State

ACL = b"alice\tlrs\t"


class Here:
    """Some records."""

    def __init__(self, *records: MailboxRecord) -> None:
        self._records = {record.name: record for record in records}

    def get(self, name: bytes) -> MailboxRecord | None:
        return self._records.get(name)

    def walk(self, prefix: bytes = b"", server: str = "") -> Iterator[MailboxRecord]:
        assert prefix == b""
        return (record for record in self._records.values() if server in ("", record.server))


class There:
    """The other list."""

    def __init__(self, *changes: Wanted, form: DumpFormat = DumpFormat.CTL) -> None:
        self._changes = changes
        self.form: DumpFormat | None = form

    def changes(self) -> Iterator[Wanted]:
        return iter(self._changes)


def record(name: bytes, location: str = "be1!default", acl: bytes = ACL, state: State = State.ACTIVE) -> MailboxRecord:
    server, _, partition = location.partition("!")
    return MailboxRecord(name, state, server, partition, acl)


def change(name: bytes, location: str = "be1!default", acl: bytes = ACL, state: State = State.ACTIVE) -> Wanted:
    return Wanted(*record(name, location, acl, state)[:5])


def found(there: There, here: Here, server: str = "") -> list[tuple[object, ...]]:
    return [tuple(difference) for difference in differences(there, here, server)]


def test_equal_lists_have_no_difference() -> None:
    assert found(There(change(b"user.a"), change(b"user.b")), Here(record(b"user.a"), record(b"user.b"))) == []


def test_each_kind_is_told_with_both_sides() -> None:
    here = Here(
        record(b"user.acl", acl=b""),
        record(b"user.here", "be2!"),
        record(b"user.owner", "be1!"),
        record(b"user.part", "be1!one"),
        record(b"user.state", acl=b"", state=State.RESERVED),
    )
    there = There(
        change(b"user.acl"),
        change(b"user.owner", "be2!"),
        change(b"user.part", "be1!two"),
        change(b"user.state"),
        change(b"user.there", "be3!x"),
    )
    assert found(there, here) == [
        (b"user.acl", "acl", b"", ACL),
        (b"user.owner", "server", "be1", "be2"),
        (b"user.part", "partition", "one", "two"),
        (b"user.state", "state", "RESERVED", "ACTIVE"),
        (b"user.there", "only there", "", "be3!x"),
        (b"user.here", "only here", "be2!", ""),
    ]


def test_a_partition_that_one_side_does_not_name_is_no_difference() -> None:
    assert found(There(change(b"user.a", "be1!")), Here(record(b"user.a", "be1!default"))) == []
    assert found(There(change(b"user.a", "be1!default")), Here(record(b"user.a", "be1!"))) == []


def test_a_backends_dump_is_missing_only_its_own() -> None:
    here = Here(record(b"user.a", "be1!"), record(b"user.b", "be2!"))
    assert found(There(), here, "be1") == [(b"user.a", "only here", "be1!", "")]


def test_what_a_backend_has_and_another_owns_is_told() -> None:
    """This is what ctl_mboxlist -m would delete there."""
    assert found(There(change(b"user.a", "be1!")), Here(record(b"user.a", "be2!")), "be1") == [
        (b"user.a", "server", "be2", "be1")
    ]


def test_users_and_servers_are_compared_by_server_alone() -> None:
    there = There(change(b"user.a", "be1!", b""), change(b"user.b", "be2!", b""), form=DumpFormat.MAP)
    here = Here(record(b"user.a"), record(b"user.a.Sent"), record(b"user.b"))
    assert found(there, here) == [(b"user.b", "server", "be1", "be2")]
