"""Suspect records and old reservations: known without walking, marked once, forgotten when settled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from cyrusext.directory.base import Committed
from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.replica import unsettled
from cyrusext.replica.unsettled import Unsettled


def record(name: bytes, state: State = State.RESERVED, flags: Flag = Flag.NONE, age_s: float = 0.0) -> MailboxRecord:
    changed_at = int((time.time() - age_s) * 1_000_000)
    return MailboxRecord(name, state, "be1", "default", b"", 1, flags, changed_at, "murder@be1")


class Shelf:
    """Records, and the watch that looks at them; what is marked is committed at once."""

    def __init__(self, *records: MailboxRecord, reserved_s: float = 60.0) -> None:
        self.records = {one.name: one for one in records}
        self.marked: list[bytes] = []
        self.watch = Unsettled(self, self.mark, reserved_s=reserved_s)

    def get(self, name: bytes) -> MailboxRecord | None:
        return self.records.get(name)

    def chunk(self, *, after: bytes = b"", limit: int = 1000) -> list[MailboxRecord]:
        return [self.records[name] for name in sorted(self.records) if name > after][:limit]

    def mark(self, old: MailboxRecord) -> None:
        self.marked.append(old.name)
        self.commit(old._replace(flags=Flag.SUSPECT))

    def commit(self, *changed: MailboxRecord) -> None:
        self.records.update({one.name: one for one in changed})
        self.watch.learn([Committed(one, "be1") for one in changed])


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


async def started(shelf: Shelf, done: Callable[[], object]) -> None:
    """Walk what is there already."""
    await shelf.watch.start()
    while not done():  # noqa: ASYNC110 - a test waits for a state of what it tests
        await asyncio.sleep(0.005)
    await shelf.watch.stop()


def test_what_is_there_at_the_start_is_found_and_marked_once(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        shelf = Shelf(
            record(b"user.old", age_s=61),
            record(b"user.new", age_s=1),
            record(b"user.active", State.ACTIVE, age_s=500),
            record(b"user.late", State.ACTIVE, Flag.SUSPECT),
            *(record(b"user.x%04d" % number, State.ACTIVE) for number in range(2 * unsettled.CHUNK)),
        )
        await started(shelf, lambda: shelf.marked)
        assert shelf.marked == [b"user.old"]
        assert (shelf.watch.suspects, shelf.watch.reserved_too_long) == (2, 1)
        assert set(shelf.watch.first(10)) == {b"user.late", b"user.old"}
        shelf.watch.check()
        assert shelf.marked == [b"user.old"]

    run(scenario)
    assert capfd.readouterr().err.count("event=record.reserved_too_long") == 1


@pytest.mark.parametrize("settled", [State.ACTIVE, State.DELETED])
def test_its_server_s_next_command_settles_it(settled: State, capfd: pytest.CaptureFixture[str]) -> None:
    shelf = Shelf(reserved_s=0.0)
    shelf.commit(record(b"user.a"), record(b"user.b"))
    shelf.watch.check()
    assert shelf.marked == [b"user.a", b"user.b"]
    assert shelf.watch.reserved_too_long == 2
    shelf.commit(record(b"user.a", settled))
    assert shelf.watch.first(10) == [b"user.b"]
    shelf.commit(record(b"user.b"))  # reserved again: its minute begins anew
    assert (shelf.watch.suspects, shelf.watch.reserved_too_long) == (0, 0)


def test_what_was_settled_in_time_is_never_marked() -> None:
    shelf = Shelf(reserved_s=0.0)
    shelf.commit(record(b"user.a"), record(b"user.b"))
    shelf.commit(record(b"user.a", State.ACTIVE))
    shelf.records[b"user.b"] = record(b"user.b", State.ACTIVE)  # committed, and not told yet
    shelf.watch.check()
    assert shelf.marked == []


def test_the_names_kept_have_a_bound_and_the_rest_is_found_later(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(unsettled, "LIMIT", 4)
    monkeypatch.setattr(unsettled, "CHECK_S", 0.01)

    async def scenario() -> None:
        shelf = Shelf(*(record(b"user.%d" % number, age_s=100) for number in range(10)))

        def settle() -> bool:
            for name in shelf.watch.first(10):
                shelf.commit(shelf.records[name]._replace(state=State.ACTIVE, flags=Flag.NONE))
            return len(shelf.marked) == 10

        await started(shelf, settle)
        assert sorted(shelf.marked) == sorted(shelf.records)

    run(scenario)
