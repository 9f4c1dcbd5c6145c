"""The ownership table, cell by cell: what is answered and what becomes of the record."""

from __future__ import annotations

import itertools

import pytest

from cyrusext.directory.ownership import TABLE, Action, Change, Decision, Holding, Policy, check_change, decide, holding
from cyrusext.errors import InvalidName
from cyrusext.model import MAX_ACL, MAX_NAME, Flag, MailboxRecord, ServerPartition, State

NAME = b"user.alice"
HERE = ServerPartition("be1", "default")
ACL = b"alice\tlrs\t"
STANDARD = Policy()

RECORDS = {
    Holding.ABSENT: None,
    Holding.RESERVED_HERE: MailboxRecord(NAME, State.RESERVED, "be1", "", seq=7, changed_at=1, changed_by="old"),
    Holding.RESERVED_ELSEWHERE: MailboxRecord(NAME, State.RESERVED, "be2", "default", seq=7),
    Holding.ACTIVE_HERE: MailboxRecord(NAME, State.ACTIVE, "be1", "other", b"old\tl\t", seq=7),
    Holding.ACTIVE_ELSEWHERE: MailboxRecord(NAME, State.ACTIVE, "be2", "default", b"old\tl\t", seq=7),
}

RESERVED = (State.RESERVED, "be1", "default", b"")
ACTIVE = (State.ACTIVE, "be1", "default", ACL)
ON_BE2 = "mailbox is held by be2"

CELLS = [
    # action, holding, granted, text, the record written
    (Action.RESERVE, Holding.ABSENT, True, "done", RESERVED),
    (Action.RESERVE, Holding.RESERVED_HERE, True, "done", RESERVED),
    (Action.RESERVE, Holding.RESERVED_ELSEWHERE, False, ON_BE2, None),
    (Action.RESERVE, Holding.ACTIVE_HERE, True, "done", None),
    (Action.RESERVE, Holding.ACTIVE_ELSEWHERE, False, ON_BE2, None),
    (Action.ACTIVATE, Holding.ABSENT, True, "done", ACTIVE),
    (Action.ACTIVATE, Holding.RESERVED_HERE, True, "done", ACTIVE),
    (Action.ACTIVATE, Holding.RESERVED_ELSEWHERE, True, "done", ACTIVE),
    (Action.ACTIVATE, Holding.ACTIVE_HERE, True, "done", ACTIVE),
    (Action.ACTIVATE, Holding.ACTIVE_ELSEWHERE, False, ON_BE2, None),
    (Action.DEACTIVATE, Holding.ABSENT, False, "mailbox does not exist", None),
    (Action.DEACTIVATE, Holding.RESERVED_HERE, True, "done", RESERVED),
    (Action.DEACTIVATE, Holding.RESERVED_ELSEWHERE, False, ON_BE2, None),
    (Action.DEACTIVATE, Holding.ACTIVE_HERE, True, "done", RESERVED),
    (Action.DEACTIVATE, Holding.ACTIVE_ELSEWHERE, False, ON_BE2, None),
    (Action.DELETE, Holding.ABSENT, True, "already deleted", None),
    (Action.DELETE, Holding.RESERVED_HERE, True, "done", (State.DELETED, "be1", "", b"")),
    (Action.DELETE, Holding.RESERVED_ELSEWHERE, True, "done", (State.DELETED, "be2", "default", b"")),
    (Action.DELETE, Holding.ACTIVE_HERE, True, "done", (State.DELETED, "be1", "other", b"")),
    (Action.DELETE, Holding.ACTIVE_ELSEWHERE, True, "done", (State.DELETED, "be2", "default", b"")),
]


def run(action: Action, record: MailboxRecord | None, policy: Policy = STANDARD) -> Decision:
    change = Change(action, NAME) if action is Action.DELETE else Change(action, NAME, HERE, ACL)
    return decide(change, record, policy, now_us=99, by="murder@10.0.0.1")


def test_every_cell_is_in_the_table_and_here() -> None:
    every = set(itertools.product(Action, Holding))
    assert set(TABLE) == every
    assert {(action, held) for action, held, *_ in CELLS} == every


@pytest.mark.parametrize(("action", "held", "granted", "text", "written"), CELLS)
def test_cell(
    action: Action, held: Holding, granted: bool, text: str, written: tuple[State, str, str, bytes] | None
) -> None:
    decision = run(action, RECORDS[held])
    assert (decision.granted, decision.text) == (granted, text)
    if written is None:
        assert decision.record is None
    else:
        record = decision.record
        assert record is not None
        assert (record.state, record.server, record.partition, record.acl) == written
        assert (record.name, record.changed_at, record.changed_by) == (NAME, 99, "murder@10.0.0.1")


@pytest.mark.parametrize("held", [held for held in Holding if held.name.endswith("_HERE")])
def test_the_partition_is_never_compared(held: Holding) -> None:
    record = RECORDS[held]
    for partition in ("", "default", "other", "p!q"):
        assert holding(record, ServerPartition("be1", partition)) is held
    assert holding(record, ServerPartition("be", "1!default")) is not held


def test_a_tombstone_is_nothing() -> None:
    tombstone = MailboxRecord(NAME, State.DELETED, "be2", "default", seq=7)
    for action, held, granted, text, _ in CELLS:
        if held is Holding.ABSENT:
            assert run(action, tombstone)[:2] == (granted, text)


@pytest.mark.parametrize(
    ("policy", "granted"),
    [
        (Policy(takeover=True), True),
        (Policy(claiming=frozenset({"be1"})), True),
        (Policy(claiming=frozenset({"be2"})), False),
        (Policy(), False),
    ],
)
def test_takeover_is_for_whom_it_is_allowed_and_for_activate_only(policy: Policy, granted: bool) -> None:
    record = RECORDS[Holding.ACTIVE_ELSEWHERE]
    decision = run(Action.ACTIVATE, record, policy)
    assert decision.granted is granted
    assert decision.record is None or decision.record.location == HERE
    assert not run(Action.RESERVE, record, policy).granted
    assert not run(Action.DEACTIVATE, record, policy).granted


def test_repeating_a_granted_command_is_granted_and_ends_the_same() -> None:
    for action, record in itertools.product(Action, RECORDS.values()):
        first = run(action, record)
        after = first.record if first.record is not None else record
        second = run(action, after)
        assert second.granted is first.granted
        assert second.record is None or second.record == first.record


def test_held_stays_and_suspect_ends_with_a_granted_command() -> None:
    flags = Flag.HELD | Flag.SUSPECT | Flag.MOVING
    for action in (Action.ACTIVATE, Action.DEACTIVATE, Action.DELETE):
        record = RECORDS[Holding.ACTIVE_HERE]
        assert record is not None
        decision = run(action, record._replace(flags=flags))
        assert decision.record is not None
        assert decision.record.flags is Flag.HELD


@pytest.mark.parametrize(
    ("name", "location", "acl", "reason"),
    [
        (b"", b"be1!default", b"", "empty"),
        (b"x" * (MAX_NAME + 1), b"be1!default", b"", "491 bytes"),
        (b"user.a\nb", b"be1!default", b"", "CR"),
        (NAME, b"", b"", "server!partition"),
        (NAME, b"be1", b"", "server!partition"),
        (NAME, b"!default", b"", "no server"),
        (NAME, b"be 1!default", b"", "blank"),
        (NAME, b"be1!default", b"x" * (MAX_ACL + 1), "ACL"),
        (NAME, b"be1!default", b"a\0b", "ACL"),
    ],
)
def test_what_no_record_can_hold_is_refused_with_the_reason(
    name: bytes, location: bytes, acl: bytes, reason: str
) -> None:
    with pytest.raises(InvalidName, match=reason):
        check_change(Action.ACTIVATE, name, location, acl)


def test_the_longest_name_and_an_empty_partition_are_taken() -> None:
    change = check_change(Action.RESERVE, b"x" * MAX_NAME, b"be1!")
    assert change == Change(Action.RESERVE, b"x" * MAX_NAME, ServerPartition("be1", ""))
    assert check_change(Action.DELETE, NAME, b"ignored", b"\0") == Change(Action.DELETE, NAME)


def test_an_odd_server_name_is_no_format_string() -> None:
    record = MailboxRecord(NAME, State.ACTIVE, "{0}{x", "p")
    assert run(Action.RESERVE, record).text == "mailbox is held by {0}{x"


@pytest.mark.parametrize("state", [State.ACTIVE, State.RESERVED])
def test_a_record_that_may_be_out_of_date_is_taken_over_by_activate_alone(state: State) -> None:
    record = MailboxRecord(b"user.a", state, "be2", "p", b"", seq=5)
    for upto, granted in ((4, state is State.RESERVED), (5, True)):
        change = check_change(Action.ACTIVATE, b"user.a", b"be1!p", b"")
        assert decide(change, record, Policy(stale_upto=upto), now_us=1, by="x").granted is granted
    reserve = check_change(Action.RESERVE, b"user.a", b"be1!p")
    assert not decide(reserve, record, Policy(stale_upto=5), now_us=1, by="x").granted
