"""Reservations left over from before a restart are kept from every backend but their own until that one has spoken."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate.leftover import LEFTOVER_S, Leftovers
from tests.harness.inprocess import InProcessMaster
from tests.harness.mupdate import Mupdate, literal

NOW_US = time.time_ns() // 1000
OLD_US = NOW_US - int((LEFTOVER_S + 1) * 1e6)


def record(state: State = State.RESERVED, *, seq: int = 1, changed_at: int = NOW_US) -> MailboxRecord:
    return MailboxRecord(b"user.a", state, "be1", "p", seq=seq, changed_at=changed_at)


@pytest.mark.parametrize(
    ("known", "asking", "kept"),
    [
        (record(), "be2", True),
        (record(), "be1", False),
        (record(), "", False),
        (record(State.ACTIVE), "be2", False),
        (record(seq=6), "be2", False),
        (record(seq=6, changed_at=OLD_US), "be2", True),
        (record(State.ACTIVE, seq=6, changed_at=OLD_US), "be2", False),
    ],
)
def test_what_is_kept_from_whom(known: MailboxRecord, asking: str, kept: bool) -> None:
    assert Leftovers({known.name: known}.get, since_seq=5).keep_from(known, asking) is kept


def restarted(place: Path, leftover_wait_s: float = 30.0) -> InProcessMaster:
    """A master that finds a reservation of be1 when it starts."""
    with InProcessMaster(place) as before:
        before.connect().ok(b"RESERVE", b"user.a", b"be1!p")
    return InProcessMaster(place, leftover_wait_s=leftover_wait_s)


def test_target_waits_for_the_push_of_the_source(tmp_path: Path) -> None:
    with restarted(tmp_path) as master:
        target, source = master.connect(), master.connect()
        target.list(b"be2!")
        target.send(b"F FIND %s\r\nN NOOP\r\n" % literal(b"user.a"))
        assert source.find(b"user.a") is not None  # not known to be another backend
        source.ok(b"DELETE", b"user.a")
        assert [target.receive().tag for _ in range(2)] == ["F", "N"]


def test_target_is_not_answered_without_the_source(tmp_path: Path) -> None:
    with restarted(tmp_path, leftover_wait_s=0.1) as master:
        target = master.connect()
        target.list(b"be2!")
        target.send(b"F FIND %s\r\n" % literal(b"user.a"))
        with pytest.raises(ConnectionError):
            target.receive()
        owner = master.connect()
        owner.list(b"be1!")
        found = owner.find(b"user.a")
        assert found is not None
        assert found.acl is None


def test_a_reservation_of_now_is_told(tmp_path: Path) -> None:
    with InProcessMaster(tmp_path) as master:
        client: Mupdate = master.connect()
        client.ok(b"RESERVE", b"user.a", b"be1!p")
        client.list(b"be2!")
        assert client.find(b"user.a") is not None
