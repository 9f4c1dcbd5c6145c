"""Imports: a whole file is read and checked first, and only then is anything changed.

Rule: memory stays bounded whatever the file's size (a file is read twice instead of kept); changes go to the node in
batches, the next one under way while the answer to the last one is worked on; what is there before goes to the undo
file first, by a dry run of each batch.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol, Self

import msgspec

from cyrusext.directory.batch import MAX_CHANGES, Applied, Refusal, Wanted
from cyrusext.errors import InputError, InvalidName
from cyrusext.manage.control import MAX_BATCH_BYTES
from cyrusext.manage.dump import DumpFormat, detect, parser
from cyrusext.manage.undo import UndoWriter, is_undo, lines_backwards, parse_undo_line, undo_changes
from cyrusext.model import State
from cyrusext.names import NameRules

MAX_LINE = 4 << 20
"""Longest line of an import file in bytes: an ACL of the greatest length, escaped."""
SHOWN_FAULTS = 20
"""How many unreadable lines and refused changes are told one by one."""
AHEAD = 2
"""Batches on their way to the node at a time, besides the one whose answer is awaited."""
_STEP = 1000
"""Lines between two reports of progress."""

Progress = Callable[[int], None]
"""Called now and then with the number of bytes (checking) or mailboxes (changing) done since the last call."""


class Present(Protocol):
    """What a map import needs to know of a mailbox that is there."""

    @property
    def server(self) -> str: ...

    @property
    def partition(self) -> str: ...

    @property
    def state(self) -> State: ...

    @property
    def acl(self) -> bytes: ...


class Totals(msgspec.Struct):
    """What an import did, or in a dry run would do."""

    created: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    absent: int = 0
    refused: int = 0
    first_refused: list[Refusal] = []

    def add(self, applied: Applied) -> None:
        self.created += applied.created
        self.changed += applied.changed
        self.unchanged += applied.unchanged
        self.deleted += applied.deleted
        self.absent += applied.absent
        self.refused += len(applied.refused)
        room = SHOWN_FAULTS - len(self.first_refused)
        self.first_refused += applied.refused[: max(0, room)]


class ImportFile:
    """A file to import, checked line by line; `changes` reads it again.

    `servers` counts its mailboxes by server, `skipped` the lines that name none to import (deleted mailboxes and
    intermediate ones of Cyrus' own).  Raises InputError, naming line and reason, for a file with a line that can not
    be read.
    """

    def __init__(self, path: Path, rules: NameRules, *, server: str = "", progress: Progress | None = None) -> None:
        self.path = path
        self.servers: Counter[str] = Counter()
        self.mailboxes = 0
        self.skipped = 0
        # The last line of an undo file is cut off where its import was killed: what it tells was not changed any more.
        self._torn = False
        try:
            self._file = _seekable(path)
        except OSError as error:
            raise InputError(f"{path}: can not be read: {error.strerror}") from error
        try:
            head = self._file.read(1 << 16)
            self.form: DumpFormat | None = None if is_undo(head) else detect(head)
            self._parse = parse_undo_line if self.form is None else parser(self.form, rules, server)
            self._check(progress or _ignore)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def is_undo(self) -> bool:
        return self.form is None

    def changes(self) -> Iterator[Wanted]:
        """Yield the changes that the file asks for, in the order in which they have to be made."""
        if self.form is None:
            lines = lines_backwards(self._file)
            if self._torn:
                next(lines)
            yield from undo_changes(lines)
            return
        self._file.seek(0)
        for line in self._file:
            change = self._parse(line)
            if change is not None:
                yield change

    def _check(self, progress: Progress) -> None:
        self._file.seek(0)
        parse, servers = self._parse, self.servers
        faults: list[str] = []
        lost = number = done = 0
        while line := self._file.readline(MAX_LINE):
            number += 1
            done += len(line)
            try:
                if len(line) == MAX_LINE:
                    raise InvalidName(f"line is longer than {MAX_LINE} bytes")
                if self.is_undo and not line.endswith(b"\n"):
                    self._torn = True
                    break
                change = parse(line)
            except InvalidName as error:
                if len(faults) < SHOWN_FAULTS:
                    faults.append(f"{self.path}:{number}: {error}")
                else:
                    lost += 1
            else:
                if change is None:
                    self.skipped += not _is_frame(line)
                else:
                    self.mailboxes += 1
                    servers[change.server] += 1
            if number % _STEP == 0:
                progress(done)
                done = 0
        progress(done)
        if faults:
            more = [f"and {lost} more lines that can not be read"] if lost else []
            raise InputError("\n".join([*faults, *more]))


def keep_known(changes: Iterable[Wanted], find: Callable[[bytes], Present | None]) -> Iterator[Wanted]:
    """Complete the changes of a ``user<TAB>server`` file with what is known and not in it.

    A mailbox that is already ACTIVE on that server keeps its partition and ACL (so nothing changes); one on another
    server keeps its ACL.
    """
    for change in changes:
        present = find(change.name)
        if present is not None and present.state is State.ACTIVE:
            partition = present.partition if present.server == change.server else ""
            change = change._replace(partition=partition, acl=present.acl)
        yield change


class Applier(Protocol):
    """What an import needs of the node (ControlClient)."""

    def submit(self, changes: list[Wanted], *, force: bool, dry_run: bool) -> None: ...

    def collect(self) -> Applied: ...


def apply_all(
    client: Applier,
    changes: Iterable[Wanted],
    *,
    force: bool = False,
    dry_run: bool = False,
    undo: UndoWriter | None = None,
    progress: Progress | None = None,
) -> Totals:
    """Send `changes` to the node in batches, one ahead; return what came of them all.

    With `undo`, each batch is asked for as a dry run first, and what it will change is in the undo file before it is
    asked for in earnest.  Raises NodeUnavailable, as ControlClient does, when the node goes away: what was answered
    until then is done; whatever was done is in `undo`.
    """
    totals = Totals()
    asked: deque[_Asked] = deque()

    def ask(batch: list[Wanted], planned: list[Wanted] | None, *, plan: bool) -> None:
        client.submit(batch, force=force, dry_run=dry_run or plan)
        asked.append(_Asked(batch, planned, plan))

    def settle() -> None:
        batch, planned, plan = asked.popleft()
        applied = client.collect()
        if plan and undo is not None:
            undo.write(applied.before)
            ask(batch, applied.before, plan=False)
            return
        if planned is not None and undo is not None:
            undo.correct(planned, applied.before)
        totals.add(applied)
        if progress is not None:
            progress(len(batch))

    for batch in batches(changes):
        ask(batch, None, plan=undo is not None)
        while len(asked) > AHEAD:
            settle()
    while asked:
        settle()
    return totals


class _Asked(NamedTuple):
    """A batch on its way, in a dry run (`plan`) or, with what that told, in earnest."""

    batch: list[Wanted]
    planned: list[Wanted] | None
    plan: bool


def batches(changes: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Group `changes` into lists that one request can hold."""
    batch: list[Wanted] = []
    size = 0
    for change in changes:
        weight = len(change.name) + len(change.acl)
        if batch and (len(batch) == MAX_CHANGES or size + weight > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(change)
        size += weight
    if batch:
        yield batch


def _seekable(path: Path) -> BinaryIO:
    """Open `path`; what can not be read twice (a pipe) is copied to a temporary file first."""
    file = path.open("rb")
    if file.seekable():
        return file
    with file:
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        shutil.copyfileobj(file, copy)
    copy.seek(0, os.SEEK_SET)
    return copy


def _is_frame(line: bytes) -> bool:
    """Tell whether a line without a mailbox is only the form's own: a brace, a comment, an empty line, a header."""
    text = line.strip()
    return not text or text in (b"{", b"}", b"{}") or text.startswith(b"#") or is_undo(text)


def _ignore(_done: int) -> None:
    return None
