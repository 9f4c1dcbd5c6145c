"""The reading side: where is this mailbox?  For everything that is not the node.

Names and addresses are bytes, or str, which is encoded as UTF-8 with ``surrogateescape`` (what os.fsdecode makes of a
name is found again).  A name that no record can have, empty, over 490 bytes or with a NUL, CR, LF, 0x1D or 0x1F byte,
is InvalidName; what is neither bytes nor str is TypeError.

Rule: an Index never says "no" by itself.  `None` means that the store has no such record; whether that may be told to
anyone is `fresh`'s to say (DESIGN rule 1, which cyrusext.lookup applies).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from cyrusext.errors import CyrusExtError, IndexCorrupt, IndexUnavailable, IndexVersion, InvalidName
from cyrusext.index import _cyx
from cyrusext.index._lookup import Lookups, encoded
from cyrusext.index.diagnosis import explained
from cyrusext.model import MAX_NAME, Flag, Location, MailboxRecord, ServerPartition, State, check_name
from cyrusext.names import NameRules, mailbox_of_address

__all__ = ["Event", "Index", "Location", "read_chunk"]

CHUNK_MAX = 1000
"""Records that one step of a walk copies out of the store."""

ASIDE_US = 60_000_000
"""How long after its DELETE the rest of a deletion may be told, in microseconds."""
_STAMP = re.compile(rb"[0-9A-F]{8}")

_ERRORS: dict[int, type[CyrusExtError]] = {0: IndexUnavailable, -1: InvalidName, -4: IndexCorrupt, -5: IndexVersion}
"""Codes of cyrusext.h (CYX_EINVAL, CYX_ECORRUPT, CYX_EVERSION)."""


class Event(NamedTuple):
    """One change of a mailbox as the change log has it; `before` is None where there was no mailbox.

    ``changed_at`` is Unix time in microseconds.  Entries of a store's first versions have a `seq` only.
    """

    seq: int
    changed_at: int = 0
    state: State | None = None
    server: str = ""
    partition: str = ""
    flags: Flag = Flag.NONE
    before: tuple[State, str, str] | None = None
    acl_changed: bool = False
    changed_by: str = ""

    @property
    def action(self) -> str:
        """What was done, in the word of the MUPDATE command, or ``apply`` (an operator), ``mark`` (flags only)."""
        if self.state is None:
            return ""
        if "@" not in self.changed_by or self.changed_by.startswith("cli:"):
            return "apply"
        if self.state is State.DELETED:
            return "delete"
        there = self.before[0] if self.before is not None else None
        if self.flags & Flag.SUSPECT and self.before == (self.state, self.server, self.partition):
            return "mark"
        if self.state is State.ACTIVE:
            return "activate"
        return "deactivate" if there is State.ACTIVE else "reserve"


def read_chunk(
    reader: _cyx.Reader, prefix: bytes, server: str, after: bytes, limit: int, tombstones: bool = False
) -> list[MailboxRecord]:
    """At most `limit` records behind `after`; fewer only where nothing follows."""
    wanted = server.encode() if server else None
    records, done = reader.chunk(prefix, wanted, after, limit, tombstones)
    while not done and len(records) < limit:
        after = records[-1].name
        more, done = reader.chunk(prefix, wanted, after, limit - len(records), tombstones)
        records += more
    return records


class Index(Lookups):
    """A reading handle on the store of the node on this machine; threads may share it.

    Every method raises IndexUnavailable, IndexCorrupt or IndexVersion when it can not tell, and ValueError after
    `close`.
    """

    def __init__(self, state_dir: str | os.PathLike[str]) -> None:
        self.state_dir = Path(state_dir)
        try:
            super().__init__(os.fsencode(self.state_dir), _ERRORS)
        except (IndexUnavailable, IndexVersion, IndexCorrupt) as error:
            raise explained(error, self.state_dir) from None
        self._rules: NameRules | None = None

    def get(self, name: str | bytes) -> MailboxRecord | None:
        """The whole record, with ACL; None also for a tombstone."""
        record = self._reader.get(check_name(encoded(name)))
        return None if record is None or record.state is State.DELETED else record

    def last_place(self, name: str | bytes) -> ServerPartition | None:
        """Where a mailbox was that is deleted, while its tombstone is kept; else None."""
        record = self._reader.get(check_name(encoded(name)))
        if record is None or record.state is not State.DELETED or not record.server:
            return None
        return ServerPartition(record.server, record.partition)

    def was_put_aside(self, name: str | bytes, deleted_at: int) -> bool:
        """True if the deletion of a mailbox at that time (Unix time in microseconds) came to its end at its backend.

        With ``delete_mode: delayed`` Cyrus renames it to ``DELETED.user.alice.`` and the time in hexadecimal digits,
        and says so after the DELETE: what says so within a minute ended what that DELETE began.
        """
        domain, mark, local = encoded(name).rpartition(b"!")
        prefix = domain + mark + b"DELETED." + local + b"."
        if len(prefix) + 8 > MAX_NAME:
            return False
        # Its digits are the backend's clock, and what is older need not be read.
        after = prefix + b"%08X" % max(0, deleted_at // 1_000_000 - 86_400)
        return any(
            0 <= record.changed_at - deleted_at <= ASIDE_US
            and record.state is State.ACTIVE
            and _STAMP.fullmatch(record.name, len(prefix))
            for record in read_chunk(self._reader, prefix, "", after, CHUNK_MAX)
        )

    def acl(self, name: str | bytes) -> bytes | None:
        """The ACL of a mailbox as Cyrus has it (b"" where it has none); None where there is no such mailbox."""
        return self._reader.acl(check_name(encoded(name)))

    def locate(self, address: str | bytes) -> Location | None:
        """Where mail to `address` goes: the INBOX of its user, by the name rules of the node.

        Raises InvalidName for what is no address.
        """
        return self.lookup(mailbox_of_address(encoded(address), self.rules))

    def walk(self, prefix: str | bytes = b"", server: str = "") -> Iterator[MailboxRecord]:
        """Every live record whose name starts with `prefix` (and is on `server`), in Cyrus' order.

        It is not a snapshot: changes made during the walk may be seen or not.  Closing the index ends it with
        ValueError, at the latest after the records that were read already.
        """
        start = encoded(prefix)
        return self._walk(check_name(start) if start else start, server)

    def _walk(self, prefix: bytes, server: str) -> Iterator[MailboxRecord]:
        after = b""
        while records := read_chunk(self._reader, prefix, server, after, CHUNK_MAX):
            yield from records
            after = records[-1].name

    def history(self, name: str | bytes) -> list[Event]:
        """Every change of one mailbox that the bounded change log still has, oldest first."""
        logged = self._reader.history(check_name(encoded(name)))
        return [Event(seq) if details is None else Event(seq, *details) for seq, details in logged]

    @property
    def hot_generation(self) -> int:
        """Which hot table answers lookups; 0 where it is the store."""
        return self._reader.hot_generation

    @property
    def may_be_old(self) -> bool:
        """The records are those of a backup, or are being refilled: what they say of owners may be out of date."""
        return bool(self._reader.text(b"refill"))

    @property
    def is_empty(self) -> bool:
        """There is no record yet, nor one that was deleted lately."""
        return not read_chunk(self._reader, b"", "", b"", 1, tombstones=True)

    def deleted_at(self, name: str | bytes) -> int | None:
        """When the mailbox was deleted (Unix time in microseconds), while its tombstone is kept."""
        return self.probe(name)[1]

    @property
    def fresh(self) -> bool:
        """May a miss be called "no"?  The limit of age is the node's (``no_max_age_s``)."""
        return self._reader.fresh(0)

    def fresh_within(self, max_age_s: float) -> bool:
        """`fresh` with a limit of one's own."""
        return self._reader.fresh(max(1, round(max_age_s * 1000)))

    @property
    def rules(self) -> NameRules:
        """The ``[names]`` of the node that wrote the store."""
        if self._rules is None:
            self._rules = self._read_rules()
        return self._rules

    def _read_rules(self) -> NameRules:
        rules = NameRules()
        changed: dict[str, str | bool] = {}
        for key, default in rules._asdict().items():
            raw = self._reader.text(b"names." + key.encode())
            if raw is not None:
                changed[key] = raw == b"1" if isinstance(default, bool) else raw.decode()
        return NameRules(**{**rules._asdict(), **changed})

    def refresh(self) -> None:
        """Take a store that has replaced this one, and what the node has changed in its settings."""
        self._reader.refresh()
        self._rules = None

    def close(self) -> None:
        """Close the handle; what other threads have under way ends by itself.  Locations and records stay good."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
