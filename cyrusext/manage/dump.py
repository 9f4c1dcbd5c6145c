"""Dumps of mailboxes as text, one mailbox a line: what `ctl_mboxlist -d` writes, and `user<TAB>server`.

Rule: names and ACLs survive to the last octet.  JSON has only Unicode, so a byte that is not UTF-8 is written as the
escape of a lone surrogate (0xFF as ``\\udcff``), and an ACL that is not a list of identifier and rights as one string;
Cyrus itself can not dump either.
"""

from __future__ import annotations

import csv
import enum
import functools
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from cyrusext.directory.batch import Wanted
from cyrusext.errors import InvalidName
from cyrusext.model import MailboxRecord, ServerPartition, State, check_acl, check_name, parse_location
from cyrusext.names import NameRules, inbox_of_user, is_inbox, user_of_mailbox


class DumpFormat(enum.Enum):
    """The forms of text that can be read."""

    CTL = "ctl_mboxlist -d of Cyrus 3.6 and later"
    CTL_LINES = "ctl_mboxlist -d before Cyrus 3.6"
    MAP = "user<TAB>server"


class _Entry(msgspec.Struct):
    """One mailbox in the JSON of Cyrus 3.6; what is not here is of no use to a location."""

    mbtype: str | None = None
    partition: str | None = None
    server: str | None = None
    acl: dict[str, str] | str | None = None


_ENTRY = msgspec.json.Decoder(dict[str, _Entry])
_LEGACY = re.compile(rb"([^\t]+)\t(\d+) ([^ ]*) ?(.*)", re.DOTALL)
_LEGACY_TAIL = re.compile(rb">[^ >]* \d+ \d+ \d+ \d+( .*)?\Z", re.DOTALL)
"""What Cyrus 3.4's successors append to a legacy line behind the ACL: uniqueid, mtime and counters."""

# The numbers of mbtype in dumps of Cyrus 2.4 to 3.4.
_OLD_RESERVE, _OLD_MOVING, _OLD_DELETED, _OLD_INTERMEDIATE = 1 << 1, 1 << 3, 1 << 4, 1 << 8


def detect(head: bytes) -> DumpFormat:
    """Return the form of a dump by its first line that says something."""
    for line in head.split(b"\n"):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        if text.startswith(b"{"):
            return DumpFormat.CTL
        return DumpFormat.CTL_LINES if _LEGACY.fullmatch(line.rstrip(b"\r")) else DumpFormat.MAP
    return DumpFormat.MAP


def parser(form: DumpFormat, rules: NameRules, default_server: str) -> Callable[[bytes], Wanted | None]:
    """Return the function that turns one line of `form` into a change, or into None where it names no mailbox.

    `default_server` is used where a line names none (dumps of a backend).  The function raises InvalidName with the
    reason for a line that it can not read.
    """
    if form is DumpFormat.CTL:
        return lambda line: _parse_ctl(line, default_server)
    if form is DumpFormat.CTL_LINES:
        return lambda line: _parse_legacy(line, default_server)
    return lambda line: _parse_map(line, rules)


def write_ctl(records: Iterable[MailboxRecord]) -> Iterator[bytes]:
    """Yield the text that `ctl_mboxlist -d` of Cyrus 3.6 and 3.10 would print for `records`.

    `ctl_mboxlist -u` takes no mailbox without a uniqueid, and MUPDATE carries none: it is made from the name.  A
    mupdate master makes no use of it.
    """
    yield b"{\n"
    separator = b""
    for record in records:
        yield separator + _build_ctl(record)
        separator = b",\n"
    yield b"\n}\n"


def write_map(records: Iterable[MailboxRecord], rules: NameRules) -> Iterator[bytes]:
    """Yield one line ``user<TAB>server`` for each ACTIVE INBOX."""
    for record in records:
        if record.state is State.ACTIVE and is_inbox(record.name, rules):
            user = user_of_mailbox(record.name, rules)
            if user is not None:
                yield user + b"\t" + record.server.encode("ascii") + b"\n"


def write_csv(records: Iterable[MailboxRecord]) -> Iterator[bytes]:
    """Yield comma-separated values (RFC 4180) with a header line; bytes that are not UTF-8 pass as they are."""
    yield b"name,state,server,partition,acl\r\n"
    for record in records:
        line = io.StringIO()
        fields = (to_text(record.name), record.state.name, record.server, record.partition, to_text(record.acl))
        csv.writer(line).writerow(fields)
        yield line.getvalue().encode("utf-8", "surrogateescape")


def to_text(raw: bytes) -> str:
    """Decode UTF-8, keeping other bytes as lone surrogates (`to_bytes` is the way back)."""
    return raw.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """Encode what `to_text` decoded; raises InvalidName for a surrogate that stands for no byte."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidName("text has an escape that stands for no byte") from None


def to_json(value: Any) -> bytes:
    """Return `value` as JSON in one line, lone surrogates as their escapes."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _parse_ctl(line: bytes, default_server: str) -> Wanted | None:
    text = line.strip().removesuffix(b",")
    if text in (b"", b"{", b"}", b"{}"):
        return None
    # The first entry may stand on the line of the opening brace, the last before the closing one.
    if not text.startswith(b"{"):
        text = b"{" + text
    try:
        entries = _ENTRY.decode(text if _is_closed(text) else text + b"}")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        entries = _decode_odd(text)
    if len(entries) != 1:
        raise InvalidName("expected one mailbox on a line, as ctl_mboxlist -d writes it")
    ((key, entry),) = entries.items()
    kind = entry.mbtype or ""
    if "d" in kind or "i" in kind:
        return None
    if entry.partition is None and entry.server is None:
        raise InvalidName("mailbox has neither server nor partition")
    state = State.RESERVED if "z" in kind or "m" in kind else State.ACTIVE
    return _change(to_bytes(key), state, entry.server or "", entry.partition or "", _acl(entry.acl), default_server)


def _is_closed(text: bytes) -> bool:
    """Tell whether a line holds the closing brace of the whole dump too: count the braces outside strings."""
    if not text.endswith(b"}}"):
        return False
    bare = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", text)
    return bare.count(b"{") == bare.count(b"}")


def _decode_odd(text: bytes) -> dict[str, _Entry]:
    """Decode a line that msgspec does not take: bytes that are not UTF-8, or escapes of lone surrogates."""
    closed = text if _is_closed(text) else text + b"}"
    try:
        return msgspec.convert(json.loads(closed.decode("utf-8", "surrogateescape")), dict[str, _Entry])
    except json.JSONDecodeError as error:
        raise InvalidName(f"not a mailbox as ctl_mboxlist -d writes it: {error.msg}") from None
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidName(f"not a mailbox as ctl_mboxlist -d writes it: {error}") from None


def _acl(acl: dict[str, str] | str | None) -> bytes:
    if acl is None:
        return b""
    if isinstance(acl, str):
        return to_bytes(acl)
    return to_bytes("".join(f"{identifier}\t{rights}\t" for identifier, rights in acl.items()))


def _parse_legacy(line: bytes, default_server: str) -> Wanted | None:
    text = line.rstrip(b"\r\n")
    if not text:
        return None
    match = _LEGACY.fullmatch(text)
    if match is None:
        raise InvalidName("expected name<TAB>type [server!]partition acl")
    name, kind, location, acl = match[1], int(match[2]), match[3], match[4]
    if kind & (_OLD_DELETED | _OLD_INTERMEDIATE):
        return None
    acl = _LEGACY_TAIL.sub(b"", acl)
    if acl == b"(null)":
        acl = b""
    server, partition = "", ""
    if b"!" in location:
        server, partition = parse_location(location)
    else:
        try:
            partition = location.decode("ascii")
        except UnicodeDecodeError:
            raise InvalidName("partition is not ASCII") from None
    state = State.RESERVED if kind & (_OLD_RESERVE | _OLD_MOVING) else State.ACTIVE
    return _change(name, state, server, partition, acl, default_server)


def _parse_map(line: bytes, rules: NameRules) -> Wanted | None:
    text = line.rstrip(b"\r\n")
    if not text.strip() or text.startswith(b"#"):
        return None
    fields = text.split(b"\t")
    if len(fields) != 2 or not fields[0]:
        raise InvalidName("expected user<TAB>server")
    location = parse_location(fields[1] + b"!")
    if location.partition:
        raise InvalidName("expected a server without partition behind the TAB")
    return Wanted(inbox_of_user(fields[0], rules), State.ACTIVE, location.server)


def _change(name: bytes, state: State, server: str, partition: str, acl: bytes, default_server: str) -> Wanted:
    if not server:
        if not default_server:
            raise InvalidName("mailbox has no server: is this the dump of a backend? name it with --server")
        server = default_server
    location = _location(server, partition)
    return Wanted(check_name(name), int(state), location.server, location.partition, check_acl(acl))


@functools.lru_cache(maxsize=4096)
def _location(server: str, partition: str) -> ServerPartition:
    """The location as a record can hold it; a dump of a million mailboxes has a handful of them."""
    return parse_location(f"{server}!{partition}".encode("utf-8", "surrogateescape"))


def _build_ctl(record: MailboxRecord) -> bytes:
    name = to_text(record.name)
    entry: dict[str, Any] = {
        "name": name,
        "mtime": str(record.changed_at // 1_000_000),
        "uidvalidity": "0",
        "createdmodseq": "0",
        "foldermodseq": "0",
        "mbtype": "ez" if record.state is State.RESERVED else "e",
        "partition": record.partition,
        "server": record.server,
        "acl": _acl_object(record.acl),
        "uniqueid": hashlib.blake2b(record.name, digest_size=12).hexdigest(),
        "name_history": [],
    }
    return to_json(name) + b": " + to_json(entry)


def _acl_object(acl: bytes) -> dict[str, str] | str:
    fields = to_text(acl).split("\t")
    identifiers, rights = fields[:-1:2], fields[1::2]
    pairs = dict(zip(identifiers, rights, strict=False))
    # Only what reads back to the same bytes may become an object: an identifier twice or a lost TAB would not.
    return pairs if _acl(pairs) == acl else to_text(acl)
