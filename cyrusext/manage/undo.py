"""Undo files: what was there before an import, so that importing the file brings it back.

Rule: what a batch will change is on disk before the node is asked to change it, so that an import can be undone however
it ended; where others wrote in between, a line with "instead" follows.  The file is read backwards, batch by batch and
line by line, so that a mailbox that an import touched twice ends as it was before the first time.  A line is a JSON
object; state "absent" is a record that has to be removed, "untouched" one that was not changed after all.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from cyrusext.directory.batch import ABSENT, Wanted
from cyrusext.errors import InputError, InvalidName
from cyrusext.manage.dump import to_bytes, to_json, to_text
from cyrusext.model import State, check_acl, check_name, parse_location

_MARK = b'{"cyrusext-undo": 1'
_STATES = {ABSENT: "absent", State.RESERVED: "reserved", State.ACTIVE: "active"}
_CHANGES = {"absent": int(State.DELETED), "reserved": int(State.RESERVED), "active": int(State.ACTIVE)}
_UNTOUCHED = "untouched"
_BLOCK = 1 << 20


class UndoWriter:
    """Writes a new undo file at `path`, for the import of `source`; one without a line is removed again.

    Raises InputError when the file exists already or can not be made: before anything is changed.
    """

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self.written = 0
        try:
            self._file: BinaryIO = path.open("xb")
        except OSError as error:
            raise InputError(f"undo file {path} can not be made: {error.strerror}; name another with --undo") from error
        self._file.write(_MARK + b', "of": ' + to_json(source) + b"}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # told when it was written
            self._file.close()
        if not self.written:
            self.path.unlink(missing_ok=True)

    def write(self, before: Sequence[Wanted]) -> None:
        """Append what one batch will change, as it is now, and see it to the disk."""
        self._write([_line(change) for change in before])

    def correct(self, planned: Sequence[Wanted], before: Sequence[Wanted]) -> None:
        """Append what holds where `before`, what the batch did change, is not what was `planned` and written."""
        if before == planned:
            return
        expected: defaultdict[bytes, deque[Wanted]] = defaultdict(deque)
        for change in planned:
            expected[change.name].append(change)
        lines = []
        for change in before:
            written = expected[change.name].popleft() if expected[change.name] else None
            if written != change:
                lines.append(_line(change, instead=written is not None))
        for name, left in expected.items():
            untouched = to_json({"name": to_text(name), "state": _UNTOUCHED, "instead": True}) + b"\n"
            lines += [untouched] * len(left)
        self._write(lines)

    def _write(self, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        self.written += len(lines)
        try:
            self._file.write(b"".join(lines))
            self._file.flush()
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise InputError(
                f"undo file {self.path} can not be written: {error.strerror}; what it has no room for was not changed"
            ) from error


def _line(change: Wanted, *, instead: bool = False) -> bytes:
    record: dict[str, str | bool] = {"name": to_text(change.name), "state": _STATES[change.state]}
    if change.state != ABSENT:
        record |= {"location": f"{change.server}!{change.partition}", "acl": to_text(change.acl)}
    if instead:
        record["instead"] = True
    return to_json(record) + b"\n"


def is_undo(head: bytes) -> bool:
    """Tell whether a file that starts with `head` is an undo file."""
    return head.startswith(_MARK)


def parse_undo_line(line: bytes) -> Wanted | None:
    """Return the change that a line of an undo file asks for, None for one that asks for nothing (the first).

    Raises InvalidName with the reason for a line that no undo file has.
    """
    return _parse(line)[1]


def undo_changes(lines: Iterable[bytes]) -> Iterator[Wanted]:
    """Yield what the lines of an undo file ask for; `lines` come from the last to the first."""
    replaced: Counter[bytes] = Counter()
    for line in lines:
        name, change, instead = _parse(line)
        if instead:
            replaced[name] += 1
        elif change is not None and replaced[name]:
            replaced[name] -= 1
            continue
        if change is not None:
            yield change


def _parse(line: bytes) -> tuple[bytes, Wanted | None, bool]:
    if line.startswith(_MARK) or not line.strip():
        return b"", None, False
    try:
        record = json.loads(line.decode("utf-8"))
        name, instead = check_name(to_bytes(record["name"])), record.get("instead") is True
        if record["state"] == _UNTOUCHED and instead:
            return name, None, True
        state = _CHANGES[record["state"]]
        if state == State.DELETED:
            return name, Wanted(name, state), instead
        server, partition = parse_location(to_bytes(record["location"]))
        return name, Wanted(name, state, server, partition, check_acl(to_bytes(record["acl"]))), instead
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidName("not a line of an undo file") from None


def lines_backwards(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a seekable file from the last to the first, holding one block and one line of it."""
    position = file.seek(0, os.SEEK_END)
    tail = b""
    while position:
        size = min(_BLOCK, position)
        position -= size
        file.seek(position)
        first, *lines = (file.read(size) + tail).split(b"\n")
        tail = first
        yield from (line for line in reversed(lines) if line)
    if tail:
        yield tail
