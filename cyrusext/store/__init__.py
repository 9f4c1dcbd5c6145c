"""The node's one writable handle on the embedded store (DESIGN 4).

Rule: a Transaction is applied as a whole, durably, before its `commit` returns, or not at all.  Whatever goes wrong in
it raises a StoreError, and the next transaction starts from what was committed before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from cyrusext.errors import CyrusExtError, InvalidName, StoreCorrupt, StoreError, StoreFull, StoreVersion
from cyrusext.index import CHUNK_MAX, _cyx, read_chunk
from cyrusext.model import MailboxRecord

_ERRORS: dict[int, type[CyrusExtError]] = {
    0: StoreError,
    -1: InvalidName,
    -4: StoreCorrupt,
    -5: StoreVersion,
    -7: StoreFull,
}
"""Codes of cyrusext.h (CYX_EINVAL, CYX_ECORRUPT, CYX_EVERSION, CYX_EFULL)."""


class StoreStat(NamedTuple):
    """What a store holds: numbers of records, the last change sequence, sizes in bytes, live records by server."""

    entries: int
    active: int
    reserved: int
    tombstones: int
    seq: int
    bytes_used: int
    map_size: int
    servers: dict[str, int]


class HotStat(NamedTuple):
    """The hot table that answers look-ups now, in numbers; `age_s` in seconds since it was built.

    For names in `alike` slots and for `homeless` ones the table asks the store.
    """

    generation: int
    bytes: int
    slots: int
    used: int
    alike: int
    homeless: int
    routes: int
    seq: int
    age_s: float

    @property
    def load(self) -> float:
        """The part of the slots that is in use."""
        return self.used / self.slots

    @property
    def bytes_per_mailbox(self) -> float:
        """Memory for each mailbox that is in it; a small table has room for thousands."""
        return self.bytes / max(1, self.used)

    def shown(self) -> dict[str, float]:
        """What `cyrusext status` shows of it."""
        return {
            "generation": self.generation,
            "load": self.load,
            "bytes_per_mailbox": self.bytes_per_mailbox,
            "collisions": self.alike + self.homeless,
            "routes": self.routes,
            "bytes": self.bytes,
            "seq": self.seq,
            "age_s": self.age_s,
        }


class Changed(NamedTuple):
    """A piece of the change log: the present records (tombstones too) of the mailboxes that changed.

    `first` and `upto` are the sequences of the first and last change that were looked at (`first` is 0, and `upto` what
    was asked for, when there is none), `mark` is the last one's; `done`: these were the last.  A mailbox that changed
    again later comes with its last change only.
    """

    records: list[MailboxRecord]
    first: int
    upto: int
    mark: int
    done: bool


class Transaction:
    """A group of changes; as a context manager it commits at a clean end and aborts on an exception.

    It belongs to the thread that began it: `put` and `commit` from another one raise StoreError.
    """

    def __init__(self, writer: _cyx.Writer) -> None:
        self._writer = writer
        self._open = True

    def get(self, name: bytes) -> MailboxRecord | None:
        """The record as this transaction has left it; a tombstone has the state DELETED."""
        return self._writer.get(name)

    def put(self, record: MailboxRecord) -> MailboxRecord:
        """Write `record`; return it with the next ``seq`` and, if ``changed_at`` was 0, the time.

        Raises InvalidName (the transaction goes on) or StoreError (it can only be aborted).
        """
        return self._writer.put(record)

    def put_copied(self, record: MailboxRecord) -> MailboxRecord:
        """Write `record` with its own ``seq``, which another node gave it.  Raises as `put`."""
        return self._writer.put(record, True)

    def set_text(self, key: str, text: str) -> None:
        """Leave `text` under `key` among the store's own values; "" for what is no longer so.  Raises StoreError."""
        self._writer.set_text(key.encode(), text.encode())

    def put_many(self, records: Sequence[MailboxRecord]) -> int:
        """Write many records, in key order whatever theirs; of equal names the last one stays.  Raises as `put`."""
        return self._writer.put_many(records)

    def commit(self) -> None:
        """Make it durable (fsync).  Raises StoreFull or StoreError, and then nothing of it was applied."""
        if not self._open:
            raise StoreError("the transaction has ended")
        self._writer.commit()
        self._open = False

    def abort(self) -> None:
        """Forget it."""
        if self._open:
            self._writer.abort()
            self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif self._open:
            self._open = False
            self._writer.commit()


def _begin(writer: _cyx.Writer) -> Transaction:
    writer.begin()
    return Transaction(writer)


def _describe(writer: _cyx.Writer, names: Mapping[str, str | bool], no_max_age_s: float) -> None:
    with _begin(writer):
        writer.set_number(b"no_max_age_ms", max(1, round(no_max_age_s * 1000)))
        for key, value in names.items():
            text = str(int(value)) if isinstance(value, bool) else value
            writer.set_text(b"names." + key.encode(), text.encode())


def copy_to(state_dir: Path, fd: int) -> None:
    """Write the store of `state_dir`, as it is now, to the empty file `fd`; it may be written meanwhile.

    Raises StoreFull, StoreVersion, StoreCorrupt or StoreError.
    """
    reader = _cyx.Reader(os.fsencode(state_dir), _ERRORS)
    try:
        reader.copy(fd)
    finally:
        reader.close()


class Store:
    """The store below a state directory, open for writing; one per store, held by the node."""

    def __init__(self, writer: _cyx.Writer, reader: _cyx.Reader) -> None:
        self._writer = writer
        self._reader = reader

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        run_dir: Path,
        names: Mapping[str, str | bool] | None = None,
        reader_group: str = "",
        map_size: int = 64 << 30,
        no_max_age_s: float = 2.0,
    ) -> Store:
        """Open the store in ``state_dir/store``, creating it (and the directories) where there is none.

        `names`, `run_dir` and `no_max_age_s` are left in the store for its readers; `reader_group` may read it.
        Raises StoreVersion, StoreCorrupt, StoreFull, or StoreError (also: another process writes it).
        """
        path = os.fsencode(state_dir)
        writer = _cyx.Writer(path, os.fsencode(Path(run_dir).absolute()), reader_group.encode(), map_size, _ERRORS)
        try:
            _describe(writer, names or {}, no_max_age_s)
            return cls(writer, _cyx.Reader(path, _ERRORS))
        except BaseException:
            writer.close()
            raise

    @property
    def reader(self) -> _cyx.Reader:
        """What reads the committed records, for compiled code."""
        return self._reader

    @property
    def mode(self) -> str:
        """The kind of murder that the records belong to (``[mupdate] mode``); "" in a store that was never told."""
        return (self._reader.text(b"mode") or b"").decode("ascii")

    @mode.setter
    def mode(self, mode: str) -> None:
        with self.begin():
            self._writer.set_text(b"mode", mode.encode("ascii"))

    @property
    def seq(self) -> int:
        """Change sequence of the last commit."""
        return self._writer.seq

    def get(self, name: bytes) -> MailboxRecord | None:
        """The committed record; a tombstone has the state DELETED."""
        return self._reader.get(name)

    def chunk(
        self,
        *,
        prefix: bytes = b"",
        server: str = "",
        after: bytes = b"",
        limit: int = CHUNK_MAX,
        tombstones: bool = False,
    ) -> list[MailboxRecord]:
        """At most `limit` committed records in order, those behind the name `after`; fewer only at the end."""
        return read_chunk(self._reader, prefix, server, after, limit, tombstones)

    def forget_upgrade(self) -> str:
        """Return the format from which the store was upgraded since this was asked last, "" where it was not."""
        was = self.text("upgraded_from")
        if was:
            with self.begin() as transaction:
                transaction.set_text("upgraded_from", "")
        return was

    def text(self, key: str) -> str:
        """Return what `Transaction.set_text` left under `key`, "" where there is nothing."""
        raw = self._reader.text(key.encode())
        return "" if raw is None else raw.decode()

    def changed(self, after: int, limit: int) -> Changed:
        """What became of the mailboxes in at most `limit` changes behind the sequence `after`."""
        return Changed(*self._reader.changed(after, limit))

    def mark(self, seq: int) -> int | None:
        """What tells the change under `seq` from every other one; None where the log does not have it (any more)."""
        return self._reader.mark(seq)

    def begin(self) -> Transaction:
        """Begin a transaction, waiting for the one before it; StoreError if this thread has one open."""
        return _begin(self._writer)

    def describe(self, names: Mapping[str, str | bool], no_max_age_s: float) -> None:
        """Leave `names` and `no_max_age_s` in the store, for readers that open or refresh it from now on."""
        _describe(self._writer, names, no_max_age_s)

    @property
    def hot_wanted(self) -> bool:
        """A hot table should be built: there is none, or it is crowded."""
        return self._writer.hot_wanted

    def hot(self) -> HotStat | None:
        """The hot table that answers now; None where the store does."""
        numbers = self._reader.hot_stat()
        return None if numbers is None else HotStat(*numbers[:-1], numbers[-1] / 1e9)

    def build_hot(self) -> None:
        """Build the hot table anew and put it in place; from one thread at a time, commits go on beside it.

        Raises StoreError, StoreFull where run_dir has no room, or when it is given up (`cancel_hot`).
        """
        self._writer.build_hot()

    def cancel_hot(self) -> None:
        """Give up a hot table that is being built, and any to come: the store is about to be closed."""
        self._writer.cancel_hot()

    def purge_tombstones(self, before_us: int, limit: int) -> int:
        """Forget at most `limit` deletions from before Unix time `before_us` (microseconds), oldest first."""
        with self.begin():
            return self._writer.purge(before_us, limit)

    def beat(self, *, fresh: bool) -> None:
        """Write the heartbeat: the store is served, and (`fresh`) all that is known has been applied to it."""
        self._writer.beat(fresh)

    def stat(self) -> StoreStat:
        active, reserved, tombstones, seq, used, map_size, servers = self._reader.stat()
        return StoreStat(active + reserved, active, reserved, tombstones, seq, used, map_size, servers)

    def check_readers(self) -> int:
        """Free the slots of readers that died; return how many.  Call it every minute."""
        return self._writer.check_readers()

    def close(self) -> None:
        """Close it: an open transaction of this thread is aborted, that of another one is waited for."""
        self._reader.close()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
