"""What a backend's ``ctl_mboxlist -m`` is told, so that it removes no mailbox that may be the only copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cyrusext.directory.ownership import Action, Change
from cyrusext.model import MailboxRecord, ServerPartition, State
from cyrusext.mupdate import leftover
from cyrusext.mupdate.leftover import Leftovers
from tests.harness.inprocess import InProcessMaster
from tests.harness.mupdate import Entry, Mupdate, literal

NAME = b"user.a"
ACL = b"a\tlrs\t"


def record(state: State = State.RESERVED, *, changed_at: int = 1) -> MailboxRecord:
    return MailboxRecord(NAME, state, "be1", "p", seq=1, changed_at=changed_at)


def nothing(_name: bytes) -> None:
    return None


@pytest.mark.parametrize(
    ("state", "server", "kept"),
    [
        (State.RESERVED, "be2", True),
        (State.RESERVED, "be1", False),
        (State.ACTIVE, "be2", False),
        (State.DELETED, "be2", False),
    ],
)
def test_what_is_kept_from_whom(state: State, server: str, kept: bool) -> None:
    assert Leftovers(nothing).push(server).keeps(record(state)) is kept


def claim(name: bytes = NAME) -> Change:
    return Change(Action.ACTIVATE, name, ServerPartition("be2", "p"), ACL)


@pytest.fixture
def master(tmp_path: Path) -> Iterator[InProcessMaster]:
    with InProcessMaster(tmp_path, leftover_wait_s=0.2) as master:
        client = master.connect()
        client.ok(b"ACTIVATE", NAME, b"be1!p", ACL)
        client.ok(b"DEACTIVATE", NAME, b"be1!p")  # an XFER begins
        yield master


def push(master: InProcessMaster, server: bytes) -> Mupdate:
    client = master.connect()
    client.list(server + b"!")
    return client


def test_target_waits_for_the_push_of_the_source(tmp_path: Path) -> None:
    with InProcessMaster(tmp_path) as master:
        master.connect().ok(b"RESERVE", NAME, b"be1!p")
        target, source = push(master, b"be2"), push(master, b"be1")
        target.send(b"F FIND %s\r\nN NOOP\r\n" % literal(NAME))
        assert source.find(NAME) is not None
        assert master.connect().find(NAME) is not None, "nobody else is kept from knowing"
        source.ok(b"DELETE", NAME)
        assert [target.receive().tag for _ in range(2)] == ["F", "N"]


def test_target_without_the_source_is_told_nothing_and_gets_nothing(master: InProcessMaster) -> None:
    target = push(master, b"be2")
    assert target.find(NAME) is None
    assert target.command(b"ACTIVATE", NAME, b"be2!p", ACL)[-1].verb == "NO"
    assert master.connect().find(NAME) == Entry(NAME, b"be1!p", None)


def test_target_gets_the_mailbox_when_the_source_disclaims_it(master: InProcessMaster) -> None:
    target = push(master, b"be2")
    assert target.find(NAME) is None
    target.command(b"ACTIVATE", NAME, b"be2!p", ACL)
    push(master, b"be1").ok(b"DELETE", NAME)
    assert master.connect().find(NAME) == Entry(NAME, b"be2!p", ACL)


def test_source_keeps_the_mailbox_that_it_still_has(master: InProcessMaster) -> None:
    target = push(master, b"be2")
    assert target.find(NAME) is None
    target.command(b"ACTIVATE", NAME, b"be2!p", ACL)
    source = push(master, b"be1")
    source.ok(b"ACTIVATE", NAME, b"be1!p", ACL)
    source.ok(b"DEACTIVATE", NAME, b"be1!p")
    source.ok(b"DELETE", NAME)
    assert master.connect().find(NAME) is None, "that claim was of another reservation"


def test_a_move_that_ends_is_told(master: InProcessMaster) -> None:
    target = push(master, b"be2")
    target.send(b"F FIND %s\r\n" % literal(NAME))
    master.connect().ok(b"ACTIVATE", NAME, b"be3!p", ACL)
    assert target.receive().verb == "MAILBOX"


def test_authority_of_the_operator_asks_nobody(master: InProcessMaster) -> None:
    """``ctl_mboxlist -m -a`` activates without FIND."""
    push(master, b"be2").ok(b"ACTIVATE", NAME, b"be2!p", ACL)
    assert master.connect().find(NAME) == Entry(NAME, b"be2!p", ACL)


def test_a_server_is_waited_for_once(tmp_path: Path) -> None:
    with InProcessMaster(tmp_path, leftover_wait_s=2.0) as master:
        client = master.connect()
        names = [b"user.a.%d" % number for number in range(100)]  # one after the other: 200 s
        for name in names:
            client.ok(b"RESERVE", name, b"be1!p")
        target = push(master, b"be2")
        assert [target.find(name) for name in names] == [None] * len(names)


def test_heirs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftover, "HEIRS", 2)
    leftovers = Leftovers(nothing)
    reservations = [record()._replace(name=b"user.%d" % number) for number in range(3)]
    for reservation in reservations:
        leftovers.remember(reservation, claim(reservation.name))
    assert [leftovers.take_heir(reservation) is None for reservation in reservations] == [True, False, False]
