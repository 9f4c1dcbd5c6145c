"""A list of mailboxes from somebody else, a stock master, a frontend or a backend, held against the records here.

Rule: it only looks.  What it finds is what a server that believed the other list would do differently; of a partition
that one side does not name (a RENAME names none) nothing is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from cyrusext.directory.batch import Wanted
from cyrusext.manage.dump import DumpFormat
from cyrusext.model import MailboxRecord, State


class Listed(Protocol):
    """The other list (ImportFile)."""

    @property
    def form(self) -> DumpFormat | None: ...

    def changes(self) -> Iterator[Wanted]: ...


class Records(Protocol):
    """The records here (Index)."""

    def get(self, name: bytes) -> MailboxRecord | None: ...

    def walk(self, prefix: bytes = b"", server: str = "") -> Iterator[MailboxRecord]: ...


class Difference(NamedTuple):
    """One mailbox: what differs, and both sides of it ("" where a side has none)."""

    name: bytes
    what: str
    here: str | bytes
    there: str | bytes


def differences(listed: Listed, records: Records, server: str = "") -> Iterator[Difference]:
    """Yield every difference; with `server` only that backend's mailboxes are looked for in `listed`.

    A file of ``user<TAB>server`` is compared by server alone.  Memory grows by about 70 bytes for each mailbox listed.
    """
    names_only = listed.form is DumpFormat.MAP
    seen: set[int] = set()
    for change in listed.changes():
        seen.add(hash(change.name))
        yield from _of_one(change, records.get(change.name), names_only)
    if not names_only:
        for record in records.walk(b"", server):
            if hash(record.name) not in seen:
                yield Difference(record.name, "only here", str(record.location), "")


def _of_one(there: Wanted, here: MailboxRecord | None, names_only: bool) -> Iterator[Difference]:
    if here is None:
        yield Difference(there.name, "only there", "", f"{there.server}!{there.partition}")
    elif here.server != there.server:
        yield Difference(there.name, "server", here.server, there.server)
    elif names_only:
        return
    elif here.state != there.state:
        yield Difference(there.name, "state", here.state.name, State(there.state).name)
    elif here.partition and there.partition and here.partition != there.partition:
        yield Difference(there.name, "partition", here.partition, there.partition)
    elif here.acl != there.acl:
        yield Difference(there.name, "acl", here.acl, there.acl)
