"""Undo files: what was there before an import, so that importing the file brings it back.

Rule: a file holds each batch as it was answered; it is read backwards, batch by batch and line by line, so that a
mailbox that an import touched twice ends as it was before the first time.  A line is a JSON object; state "absent" is
a record that has to be removed.  Lines are on disk before the next batch is asked for its result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from cyrusext.errors import InputError, InvalidName
from cyrusext.manage.control import ABSENT, DELETE, Change
from cyrusext.manage.dump import to_bytes, to_json, to_text
from cyrusext.model import State, check_acl, check_name, parse_location

_MARK = b'{"cyrusext-undo": 1'
_STATES = {ABSENT: "absent", State.RESERVED: "reserved", State.ACTIVE: "active"}
_CHANGES = {"absent": DELETE, "reserved": int(State.RESERVED), "active": int(State.ACTIVE)}
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
        self._file.close()
        if not self.written:
            self.path.unlink(missing_ok=True)

    def write(self, before: Sequence[Change]) -> None:
        """Append what was there before one batch, and see it to the disk."""
        for change in before:
            record: dict[str, str] = {"name": to_text(change.name), "state": _STATES[change.state]}
            if change.state != ABSENT:
                record |= {"location": f"{change.server}!{change.partition}", "acl": to_text(change.acl)}
            self._file.write(to_json(record) + b"\n")
        if before:
            self.written += len(before)
            self._file.flush()
            os.fdatasync(self._file.fileno())


def is_undo(head: bytes) -> bool:
    """Tell whether a file that starts with `head` is an undo file."""
    return head.startswith(_MARK)


def parse_undo_line(line: bytes) -> Change | None:
    """Return the change that a line of an undo file asks for, None for its first line.

    Raises InvalidName with the reason for a line that no undo file has.
    """
    if line.startswith(_MARK) or not line.strip():
        return None
    try:
        record = json.loads(line.decode("utf-8"))
        name, state = check_name(to_bytes(record["name"])), _CHANGES[record["state"]]
        if state == DELETE:
            return Change(name, state)
        server, partition = parse_location(to_bytes(record["location"]))
        return Change(name, state, server, partition, check_acl(to_bytes(record["acl"])))
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
