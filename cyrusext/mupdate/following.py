"""The extension with which a node follows another one, between strings of MUPDATE and types.

Rule: it is versioned, and spoken only after a client asked for it; the banner says nothing of it, so that other clients
see what they know.  What a leader says is checked here like everything that comes from outside: a record that no store
can hold is the leader's fault.

    C: F1 X-CYRUSEXT-FOLLOW {version} {cluster id} {mode} {store id} {seq} {mark} {name of the follower}
    S: F1 X-BEGIN {store id} {log | behind | full} {seq}
    S: F1 OK "following"
    S: F1 X-RECORDS {msgpack: a list of records, all fields, tombstones too}
    S: F1 X-REACHED {seq} {mark} {fresh | stale}
    C: W2 X-CYRUSEXT-FORWARD {by} {RESERVE | ACTIVATE | DEACTIVATE | DELETE} {name} {location} {acl}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from cyrusext.errors import CyrusExtError, RemoteProtocolError
from cyrusext.model import Flag, MailboxRecord, ServerPartition, State, check_acl, check_name
from cyrusext.mupdate.types import FOLLOW_MODES, Begins, Follow, FollowLine, Forward, Reached, Records

VERSION = "1"
MAX_BY = 255
"""Longest name of a writer, in bytes."""
MAX_RECORDS = 500
"""Records in one X-RECORDS, at most."""
MAX_RECORDS_BYTES = 1 << 20
"""Bytes of ACLs in one X-RECORDS, but for the last record's."""

_SERVER = re.compile(r"[\"-~]{0,1024}")
_PARTITION = re.compile(r"[!-~]{0,1024}")
_MODES = {mode.encode(): mode for mode in FOLLOW_MODES}
_FRESHNESS = {b"fresh": True, b"stale": False}

LINES: Mapping[bytes, tuple[type[FollowLine], int]] = {
    b"X-BEGIN": (Begins, 3),
    b"X-RECORDS": (Records, 1),
    b"X-REACHED": (Reached, 3),
}
"""The words of a leader and how many strings follow each."""


class _Packed(NamedTuple):
    """A MailboxRecord as it crosses the wire."""

    name: bytes
    state: Annotated[int, Meta(ge=1, le=3)]
    server: str
    partition: str
    acl: bytes
    seq: Annotated[int, Meta(ge=1)]
    flags: Annotated[int, Meta(ge=0, le=7)]
    changed_at: Annotated[int, Meta(ge=0)]
    changed_by: str


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[_Packed])


def follow_arguments(command: Follow) -> list[bytes]:
    """Return the strings of X-CYRUSEXT-FOLLOW."""
    place = (command.store_id, str(command.seq), command.mark)
    texts = (command.version, command.cluster_id, command.murder, *place, command.node)
    return [text.encode() for text in texts]


def read_follow(tag: bytes, strings: Sequence[bytes]) -> Follow:
    """Return the command that `strings` make; raises ValueError."""
    version, cluster_id, murder, store_id, seq, mark, node = (string.decode("utf-8") for string in strings)
    return Follow(tag, version, cluster_id, murder, store_id, _number(seq), mark, node)


def forward_arguments(command: Forward) -> list[bytes]:
    """Return the strings of X-CYRUSEXT-FORWARD."""
    return [command.by.encode(), command.action.encode("ascii"), command.name, command.location, command.acl]


def read_forward(tag: bytes, strings: Sequence[bytes]) -> Forward:
    """Return the command that `strings` make; raises ValueError."""
    by, action, name, location, acl = strings
    if len(by) > MAX_BY:
        raise ValueError(f"a writer's name of {len(by)} bytes")
    return Forward(tag, by.decode("utf-8"), action.decode("ascii"), name, location, acl)


def line_arguments(line: FollowLine) -> tuple[bytes, list[bytes]]:
    """Return the word and the strings of what a leader says."""
    match line:
        case Begins(store_id=store_id, mode=mode, seq=seq):
            return b"X-BEGIN", [store_id.encode(), mode.encode("ascii"), b"%d" % seq]
        case Records(records=records):
            return b"X-RECORDS", [_encoder.encode(records)]
        case Reached(seq=seq, mark=mark, fresh=fresh):
            return b"X-REACHED", [b"%d" % seq, mark.encode(), b"fresh" if fresh else b"stale"]


def read_line(kind: type[FollowLine], tag: bytes, strings: Sequence[bytes]) -> FollowLine:
    """Return what a leader said with `strings`, of which there are as many as `LINES` says.

    Raises RemoteProtocolError.
    """
    try:
        if kind is Records:
            return Records(tag, tuple(_read_records(strings[0])))
        if kind is Begins:
            return Begins(tag, strings[0].decode("utf-8"), _MODES[strings[1]], _number(strings[2].decode("utf-8")))
        return Reached(tag, _number(strings[0].decode("utf-8")), strings[1].decode("utf-8"), _FRESHNESS[strings[2]])
    except (ValueError, KeyError, CyrusExtError) as error:  # msgspec's errors are ValueErrors
        raise RemoteProtocolError(f"{kind.__name__} can not be read: {error}", fatal=True) from error


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise ValueError(f"{text[:40]!r} is no sequence")
    return int(text)


def _read_records(raw: bytes) -> list[MailboxRecord]:
    places: dict[tuple[str, str], ServerPartition] = {}
    records = []
    for name, state, server, partition, acl, seq, flags, changed_at, changed_by in _decoder.decode(raw):
        place = places.get((server, partition))
        if place is None:
            if not _SERVER.fullmatch(server) or not _PARTITION.fullmatch(partition):
                raise ValueError(f"{server[:80]!r} and {partition[:80]!r} are no location")
            place = places[server, partition] = ServerPartition(server, partition)
        records.append(
            MailboxRecord(
                check_name(name), State(state), *place, check_acl(acl), seq, Flag(flags), changed_at, changed_by
            )
        )
    return records


def pieces(records: Sequence[MailboxRecord]) -> list[Sequence[MailboxRecord]]:
    """Divide `records`, in their order, into what one X-RECORDS may hold."""
    found: list[Sequence[MailboxRecord]] = []
    start = size = 0
    for index, record in enumerate(records):
        if index > start and (size >= MAX_RECORDS_BYTES or index - start >= MAX_RECORDS):
            found.append(records[start:index])
            start, size = index, 0
        size += len(record.acl)
    if start < len(records):
        found.append(records[start:])
    return found
