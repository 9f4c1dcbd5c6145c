"""Import files and undo files: checked whole before anything happens, with bounded memory, and undone backwards."""

from __future__ import annotations

import errno
import io
import os
import threading
from pathlib import Path

import pytest

from cyrusext.directory.batch import ABSENT, MAX_CHANGES, Applied, Wanted
from cyrusext.errors import InputError, InvalidName, NodeUnavailable
from cyrusext.manage.control import MAX_BATCH_BYTES
from cyrusext.manage.transfer import MAX_LINE, ImportFile, apply_all, batches, keep_known
from cyrusext.manage.undo import UndoWriter, lines_backwards, parse_undo_line
from cyrusext.model import MailboxRecord, State
from cyrusext.names import NameRules

RULES = NameRules()


def test_a_file_is_counted_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "map"
    file.write_bytes(b"# users\nalice\tbe1\nbob\tbe2\n\ncarol\tbe1\n")
    done: list[int] = []
    with ImportFile(file, RULES, progress=done.append) as source:
        assert (source.mailboxes, source.skipped, dict(source.servers)) == (3, 0, {"be1": 2, "be2": 1})
        assert sum(done) == file.stat().st_size
        for _ in range(2):
            assert [change.name for change in source.changes()] == [b"user.alice", b"user.bob", b"user.carol"]


def test_deleted_mailboxes_are_skipped_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "dump"
    file.write_bytes(
        b'{\n"user.a": {"mbtype": "d", "partition": "p"},\n"user.b": {"mbtype": "e", "server": "be1"}\n}\n'
    )
    with ImportFile(file, RULES) as source:
        assert (source.mailboxes, source.skipped) == (1, 1)


def test_every_unreadable_line_is_told_up_to_a_bound(tmp_path: Path) -> None:
    file = tmp_path / "map"
    file.write_bytes(b"alice\tbe1\n" + b"rubbish\n" * 25)
    with pytest.raises(InputError) as caught:
        ImportFile(file, RULES)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{file}:2: expected user<TAB>server"
    assert len(lines) == 21
    assert lines[-1] == "and 5 more lines that can not be read"
    assert caught.value.exit_code == 1


def test_lines_without_end_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "map"
    file.write_bytes(b"alice\tbe1\n" + b"x" * (MAX_LINE + 10) + b"\nbob\tbe1\n")
    with pytest.raises(InputError, match="longer than"):
        ImportFile(file, RULES)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for place in (tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match="can not be read"):
            ImportFile(place, RULES)


def test_a_pipe_can_be_imported(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"alice\tbe1\n",))
    writer.start()
    with ImportFile(pipe, RULES) as source:
        assert list(source.changes()) == list(source.changes()) == [Wanted(b"user.alice", 2, "be1")]
    writer.join(10)


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.write_bytes(b"")
    with ImportFile(file, RULES) as source:
        assert (source.mailboxes, list(source.changes())) == (0, [])


def test_batches_are_bounded_by_count_and_bytes() -> None:
    small = [Wanted(b"user.%d" % number, 2, "be1") for number in range(MAX_CHANGES + 1)]
    assert [len(batch) for batch in batches(small)] == [MAX_CHANGES, 1]
    large = [Wanted(b"user.a", 2, "be1", "", b"x" * (MAX_BATCH_BYTES // 2))] * 3
    assert [len(batch) for batch in batches(large)] == [1, 1, 1]
    assert list(batches([])) == []


def test_a_map_keeps_what_it_does_not_say() -> None:
    known = {
        b"user.same": MailboxRecord(b"user.same", State.ACTIVE, "be1", "fast", b"a\tlrs\t"),
        b"user.moved": MailboxRecord(b"user.moved", State.ACTIVE, "be2", "fast", b"a\tlrs\t"),
        b"user.making": MailboxRecord(b"user.making", State.RESERVED, "be1", "fast"),
    }
    wanted = [Wanted(b"user." + name, 2, "be1") for name in (b"same", b"moved", b"making", b"new")]
    assert list(keep_known(wanted, lambda name: known.get(name))) == [
        Wanted(b"user.same", 2, "be1", "fast", b"a\tlrs\t"),
        Wanted(b"user.moved", 2, "be1", "", b"a\tlrs\t"),
        Wanted(b"user.making", 2, "be1"),
        Wanted(b"user.new", 2, "be1"),
    ]


def test_undo_goes_backwards_over_all_batches(tmp_path: Path) -> None:
    file = tmp_path / "undo"
    with UndoWriter(file, 'list "x"') as undo:
        undo.write([Wanted(b"user.\xff", 2, "be1", "default", b"a\xfe\tlrs\t"), Wanted(b"user.new", ABSENT)])
        undo.write([])
        undo.write([Wanted(b"user.new", 1, "be1", "")])
    with ImportFile(file, RULES) as source:
        assert source.is_undo
        assert source.mailboxes == 3
        assert list(source.changes()) == [
            Wanted(b"user.new", 1, "be1", ""),
            Wanted(b"user.new", State.DELETED),
            Wanted(b"user.\xff", 2, "be1", "default", b"a\xfe\tlrs\t"),
        ]


def test_undo_holds_what_was_changed_where_others_wrote_in_between(tmp_path: Path) -> None:
    file = tmp_path / "undo"
    planned = [
        Wanted(b"user.a", 2, "be1"),
        Wanted(b"user.a", 2, "be1"),
        Wanted(b"user.b", 2, "be1"),
        Wanted(b"user.c", ABSENT),
    ]
    with UndoWriter(file, "list") as undo:
        undo.write(planned)
        undo.correct(planned, [planned[0], Wanted(b"user.a", 2, "be7"), planned[3], Wanted(b"user.d", 2, "be8")])
        undo.write([Wanted(b"user.b", 2, "be9")])
    with ImportFile(file, RULES) as source:
        assert list(source.changes()) == [
            Wanted(b"user.b", 2, "be9"),
            Wanted(b"user.d", 2, "be8"),
            Wanted(b"user.a", 2, "be7"),
            Wanted(b"user.c", State.DELETED),
            Wanted(b"user.a", 2, "be1"),
        ]


def test_an_undo_line_cut_off_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "undo"
    with UndoWriter(file, "list") as undo:
        undo.write([Wanted(b"user.a", 2, "be1"), Wanted(b"user.b", 2, "be1")])
    file.write_bytes(file.read_bytes()[:-9])
    with ImportFile(file, RULES) as source:
        assert list(source.changes()) == [Wanted(b"user.a", 2, "be1")]


class DeadNode:
    """Answers dry runs, and breaks when a batch is asked for in earnest: after it did what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[Wanted], bool]] = []

    def submit(self, changes: list[Wanted], *, force: bool, dry_run: bool) -> None:
        self.asked.append((changes, dry_run))

    def collect(self) -> Applied:
        changes, dry_run = self.asked.pop(0)
        if not dry_run:
            raise NodeUnavailable("gone")
        return Applied(created=len(changes), before=[Wanted(change.name, ABSENT) for change in changes])


def test_what_was_changed_without_an_answer_can_be_undone(tmp_path: Path) -> None:
    file = tmp_path / "undo"
    wanted = [Wanted(b"user.u%d" % number, 2, "be1") for number in range(3 * MAX_CHANGES)]
    with UndoWriter(file, "list") as undo, pytest.raises(NodeUnavailable):
        apply_all(DeadNode(), wanted, undo=undo)
    with ImportFile(file, RULES) as source:
        undone = {change.name for change in source.changes()}
    assert undone >= {change.name for change in wanted[:MAX_CHANGES]}


def test_an_undo_file_is_never_overwritten_nor_left_empty(tmp_path: Path) -> None:
    file = tmp_path / "undo"
    with UndoWriter(file, "list"):
        assert file.exists()
    assert not file.exists()
    file.write_text("mine")
    with pytest.raises(InputError, match="--undo"):
        UndoWriter(file, "list")
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "line",
    [
        b"rubbish",
        b"[]",
        b"3",
        b"{}",
        b'{"name": "user.a"}',
        b'{"name": "user.a", "state": "gone"}',
        b'{"name": "user.a", "state": []}',
        b'{"name": 3, "state": "absent"}',
        b'{"name": "user.a", "state": "active", "location": "be1!x"}',
        b'{"name": "user.\xff", "state": "absent"}',
        b"[" * 100_000,
    ],
)
def test_unreadable_undo_lines(line: bytes) -> None:
    with pytest.raises(InvalidName, match="not a line of an undo file"):
        parse_undo_line(line)


@pytest.mark.parametrize("text", [b"", b"a", b"a\n", b"a\nb", b"a\n\nbb\nccc\n", b"x" * 3_000_000 + b"\ny\n"])
def test_lines_backwards(text: bytes) -> None:
    wanted = [line for line in text.split(b"\n") if line][::-1]
    assert list(lines_backwards(io.BytesIO(text))) == wanted


def test_an_undo_file_that_has_no_room_stops_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdatasync", full)
    node = DeadNode()
    with (
        UndoWriter(tmp_path / "undo", "list") as undo,
        pytest.raises(InputError, match="undo can not be written: No sp"),
    ):
        apply_all(node, [Wanted(b"user.a", 2, "be1")], undo=undo)
    assert not node.asked, "nothing was asked for in earnest"
