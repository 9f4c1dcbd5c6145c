"""A register's copy as an LDAP entry, and each request as one add or one asserted modify.

Rule: what an entry says is checked before it is believed; one that was edited by hand into nonsense is an error that
names the attribute, never a record.  Nothing here speaks LDAP: attributes, changes and filters are plain values, in the
form that python-ldap takes.  An attribute that would be empty is left out.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cyrusext.directory.ballots import parse_ballot
from cyrusext.directory.register import Copy, Request, Step, Value
from cyrusext.errors import DirectoryError, InvalidName
from cyrusext.model import Flag, MailboxRecord, State, check_acl, check_name

CLASS = "cyxMailboxEntry"
KEY, NAME = "cyxKey", "cyxMailbox"
PROMISED, ACCEPTED, OP = "cyxPromised", "cyxAccepted", "cyxOp"
SEQ, STATE, SERVER, PARTITION, ACL, FLAGS = "cyxSeq", "cyxState", "cyxServer", "cyxPartition", "cyxAcl", "cyxFlags"
CHANGED_AT, CHANGED_BY = "cyxChangedAt", "cyxChangedBy"

VALUE = (OP, SEQ, STATE, SERVER, PARTITION, ACL, FLAGS, CHANGED_AT, CHANGED_BY)
ATTRIBUTES = (NAME, PROMISED, ACCEPTED, *VALUE)
"""What is asked for, in searches and in the post-read control (RFC 4527) of PREPARE."""

REPLACE = 2
"""RFC 4511 section 4.6; replacing by nothing removes the attribute, and is no error where there is none."""

MAX_OP = 32
MAX_INTEGER = (1 << 63) - 1

Attributes = list[tuple[str, list[bytes]]]
Changes = list[tuple[int, str, list[bytes] | None]]


class EntryInvalid(DirectoryError):
    """An entry is not what we write: it was edited by hand, or it is another schema's."""

    code = "entry-invalid"


class Operation(NamedTuple):
    """A request as LDAP: an add of `attributes`, a modify by `changes` under `assertion`, or (neither) a search."""

    dn: str
    attributes: Attributes | None = None
    changes: Changes | None = None
    assertion: str = ""
    post_read: bool = False


def key_of(name: bytes) -> str:
    """Return what names the entry of the mailbox `name`: 43 characters; no textual RDN keeps all names apart."""
    return base64.urlsafe_b64encode(hashlib.sha256(name).digest()).decode().rstrip("=")


def dn_of(name: bytes, base: str) -> str:
    """Return the entry's DN below `base`, the cluster's ([ldap] base)."""
    return f"{KEY}={key_of(name)},ou=mailboxes,{base}"


def operation(request: Request, name: bytes, base: str) -> Operation:
    """Return what `request` for the register of `name` is to one slapd."""
    dn = dn_of(name, base)
    if request.step is Step.LOOK:
        return Operation(dn)
    accepts = request.value is not None
    ballots: list[tuple[str, list[bytes]]] = [(PROMISED, [request.ballot.text])]
    if accepts:
        ballots.append((ACCEPTED, [request.ballot.text]))
    if request.create:
        new: Attributes = [("objectClass", [CLASS.encode()]), (KEY, [key_of(name).encode()]), (NAME, [name]), *ballots]
        values = _values(request.value) if request.value is not None else {}
        return Operation(dn, attributes=new + [(key, [value]) for key, value in values.items() if value])
    changes: Changes = [(REPLACE, key, value) for key, value in ballots]
    if request.value is not None:
        changes += [(REPLACE, key, [value] if value else None) for key, value in _values(request.value).items()]
    return Operation(dn, changes=changes, assertion=assertion(request), post_read=not accepts)


def assertion(request: Request) -> str:
    """Return the filter (RFC 4515) under which a modify may happen; ballots need no escapes."""
    ballot = request.ballot.text.decode()
    if request.step is Step.FOLLOW:
        own = request.own.text.decode() if request.own is not None else ""
        return f"(&({PROMISED}={own})({ACCEPTED}={own}))"
    return f"(!({PROMISED}>={ballot}))" if request.step is Step.PREPARE else f"({PROMISED}<={ballot})"


def _values(value: Value) -> dict[str, bytes]:
    record = value.record
    return {
        OP: value.op,
        SEQ: b"%d" % record.seq,
        STATE: b"%d" % record.state,
        SERVER: record.server.encode(),
        PARTITION: record.partition.encode(),
        ACL: record.acl,
        FLAGS: b"%d" % record.flags,
        CHANGED_AT: b"%d" % record.changed_at,
        CHANGED_BY: record.changed_by.encode(),
    }


def entry(name: bytes, copy: Copy) -> Attributes:
    """Return the whole entry of a copy, as it is added when a voter is filled from others."""
    found: Attributes = [("objectClass", [CLASS.encode()]), (KEY, [key_of(name).encode()]), (NAME, [name])]
    found.append((PROMISED, [copy.promised.text]))
    if copy.accepted is not None and copy.value is not None:
        found.append((ACCEPTED, [copy.accepted.text]))
        found += [(key, [value]) for key, value in _values(copy.value).items() if value]
    return found


def parse(attributes: Mapping[str, Sequence[bytes]], key: str = "") -> tuple[bytes, Copy]:
    """Return the mailbox' name and the copy that an entry holds; raises EntryInvalid, which says what is wrong.

    `key` is what names the entry where that is known: it must be the name's own, else the entry answers for another
    mailbox.
    """
    try:
        name = check_name(_one(attributes, NAME))
        if key and key != key_of(name):
            raise EntryInvalid(f"{KEY} is not that of {name!r}")
        promised = parse_ballot(_one(attributes, PROMISED))
        if ACCEPTED not in attributes:
            stray = [attribute for attribute in VALUE if attribute in attributes]
            if stray:
                raise EntryInvalid(f"{stray[0]} without {ACCEPTED}")
            return name, Copy(promised)
        accepted = parse_ballot(_one(attributes, ACCEPTED))
        if accepted > promised:
            raise EntryInvalid(f"{ACCEPTED} is above {PROMISED}")
        return name, Copy(promised, accepted, _value(attributes, name))
    except InvalidName as error:
        raise EntryInvalid(str(error)) from error
    except EntryInvalid:
        raise
    except DirectoryError as error:
        raise EntryInvalid(str(error)) from error


def _value(attributes: Mapping[str, Sequence[bytes]], name: bytes) -> Value:
    op = _one(attributes, OP)
    if len(op) > MAX_OP:
        raise EntryInvalid(f"{OP} has {len(op)} bytes")
    state, flags = _number(attributes, STATE), _number(attributes, FLAGS)
    if state not in State.__members__.values():
        raise EntryInvalid(f"{STATE} is {state}")
    if flags & ~sum(Flag):
        raise EntryInvalid(f"{FLAGS} is {flags}")
    seq = _number(attributes, SEQ)
    if not seq:
        raise EntryInvalid(f"{SEQ} is 0")
    record = MailboxRecord(
        name,
        State(state),
        _text(attributes, SERVER),
        _text(attributes, PARTITION),
        check_acl(_one(attributes, ACL, b"")),
        seq,
        Flag(flags),
        _number(attributes, CHANGED_AT),
        _text(attributes, CHANGED_BY),
    )
    return Value(record, op)


def _one(attributes: Mapping[str, Sequence[bytes]], attribute: str, default: bytes | None = None) -> bytes:
    values = attributes.get(attribute, ())
    if len(values) == 1:
        return values[0]
    if values or default is None:
        raise EntryInvalid(f"{attribute} has {len(values)} values")
    return default


def _number(attributes: Mapping[str, Sequence[bytes]], attribute: str) -> int:
    text = _one(attributes, attribute)
    if not text.isdigit() or len(text) > 19 or int(text) > MAX_INTEGER:
        raise EntryInvalid(f"{attribute} is no number: {text[:30]!r}")
    return int(text)


def _text(attributes: Mapping[str, Sequence[bytes]], attribute: str) -> str:
    try:
        return _one(attributes, attribute, b"").decode()
    except UnicodeDecodeError:
        raise EntryInvalid(f"{attribute} is no UTF-8") from None
