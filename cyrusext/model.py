"""What is known of a mailbox: its name, its location, its record.

Rule: a value of these types can always be stored and sent.  Names and ACLs are opaque bytes (DESIGN rule 5); the
constructors that take foreign input (`check_name`, `parse_location`) refuse what no record can hold.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from cyrusext.errors import InvalidName

MAX_NAME = 490
"""Longest mailbox name in bytes: Cyrus' own limit (MAX_MAILBOX_NAME)."""
MAX_ACL = 1 << 20
"""Longest ACL in bytes."""
MAX_LOCATION = 1024
"""Longest ``server!partition`` in bytes."""

_PRINTABLE = bytes(range(0x21, 0x7F))
_FORBIDDEN = frozenset(b"\0\r\n\x1d\x1f")
"""NUL, CR and LF break every protocol; 0x1D and 0x1F are the separators of Cyrus' own database keys (DESIGN 3)."""


class State(enum.IntEnum):
    """State of a record (RFC 3656 sections 3.5 to 3.7; absent is no record at all)."""

    RESERVED = 1
    ACTIVE = 2
    DELETED = 3
    """A tombstone: kept for a while so that a just-deleted user is not bounced (DESIGN rule 1)."""


class Flag(enum.IntFlag):
    """What else is known of a record."""

    NONE = 0
    HELD = 1
    MOVING = 2
    SUSPECT = 4


class ServerPartition(NamedTuple):
    """Where a mailbox is: ``server`` and ``partition`` (may be empty: a RENAME sends ``be1!``).

    Where all servers share one spool (``mode = "replicated"``) there is no server: it is empty.
    """

    server: str
    partition: str

    def __str__(self) -> str:
        return f"{self.server}!{self.partition}" if self.server else self.partition

    def to_wire(self) -> bytes:
        """The location as MUPDATE sends it: ``server!partition``, or the bare partition where there is no server."""
        return str(self).encode("ascii")


class Location(NamedTuple):
    """What a look-up finds; all mailboxes of one place share one of these (docs/decisions/location.md)."""

    server: str
    partition: str
    state: State
    flags: Flag

    @property
    def location(self) -> ServerPartition:
        return ServerPartition(self.server, self.partition)


class MailboxRecord(NamedTuple):
    """One mailbox as the store holds it.

    ``seq`` is the change sequence at which the record was last written (the compare-and-set tag); ``changed_at`` is
    Unix time in microseconds; ``changed_by`` names the writer (a login name and address, or a command).
    """

    name: bytes
    state: State
    server: str
    partition: str
    acl: bytes = b""
    seq: int = 0
    flags: Flag = Flag.NONE
    changed_at: int = 0
    changed_by: str = ""

    @property
    def location(self) -> ServerPartition:
        return ServerPartition(self.server, self.partition)


def check_name(name: bytes) -> bytes:
    """Return `name` if a record can hold it.

    Raises InvalidName for the empty name, one longer than `MAX_NAME` bytes, and one with NUL, CR, LF or a byte that
    Cyrus uses as separator in its database keys (0x1D, 0x1F).
    """
    if not name:
        raise InvalidName("mailbox name is empty")
    if len(name) > MAX_NAME:
        raise InvalidName(f"mailbox name has {len(name)} bytes, at most {MAX_NAME} are possible")
    if not _FORBIDDEN.isdisjoint(name):
        raise InvalidName("mailbox name has a NUL, CR, LF, 0x1D or 0x1F byte")
    return name


def check_acl(acl: bytes) -> bytes:
    """Return `acl` if a record can hold it; raises InvalidName if it is longer than `MAX_ACL` or has NUL, CR or LF."""
    if len(acl) > MAX_ACL:
        raise InvalidName(f"ACL has {len(acl)} bytes, at most {MAX_ACL} are possible")
    if b"\0" in acl or b"\r" in acl or b"\n" in acl:
        raise InvalidName("ACL has a NUL, CR or LF byte")
    return acl


def parse_location(raw: bytes) -> ServerPartition:
    """Split ``server!partition`` at its first ``!``.

    Raises InvalidName where there is no ``!``, no server, a byte outside printable ASCII or over `MAX_LOCATION` bytes.
    """
    server, mark, partition = _printable(raw).partition("!")
    if not mark:
        raise InvalidName("location is not of the form server!partition")
    if not server:
        raise InvalidName("location names no server")
    return ServerPartition(server, partition)


def parse_partition(raw: bytes) -> ServerPartition:
    """Return the location of a mailbox on the one spool that all servers share: a partition, which may be empty.

    Raises InvalidName where there is a ``!``, a byte outside printable ASCII or over `MAX_LOCATION` bytes.
    """
    partition = _printable(raw)
    if "!" in partition:
        raise InvalidName("location names a server, but in mode replicated it is a partition alone")
    return ServerPartition("", partition)


def _printable(raw: bytes) -> str:
    if len(raw) > MAX_LOCATION:
        raise InvalidName(f"location has {len(raw)} bytes, at most {MAX_LOCATION} are possible")
    if raw.translate(None, _PRINTABLE):
        raise InvalidName("location has a blank, control or 8-bit byte")
    return raw.decode("ascii")
