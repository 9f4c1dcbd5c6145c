"""MUPDATE between bytes and types, both ways for both sides.

Rule: decode takes framed messages only (cyrusext.wire.framer) and fails with an error that says whose fault it is;
encode writes what Cyrus writes: strings as non-synchronising literals (Quirk.LITERAL_PLUS), text quoted
(Quirk.QUOTED_TEXT).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from cyrusext.errors import LocalProtocolError, RemoteProtocolError
from cyrusext.model import MailboxRecord, ServerPartition, State
from cyrusext.mupdate import following
from cyrusext.mupdate.types import (
    MAX_HOSTS,
    UNTAGGED,
    Activate,
    Authenticate,
    Bad,
    Banner,
    Begins,
    Bye,
    Challenge,
    Command,
    Compress,
    Deactivate,
    Delete,
    Find,
    Follow,
    Forward,
    Line,
    List,
    Logout,
    Mailbox,
    No,
    Noop,
    Ok,
    Reached,
    Records,
    Reply,
    Reserve,
    Starttls,
    Update,
)
from cyrusext.wire.sasl import decode_item, encode_item
from cyrusext.wire.tokens import Atom, literal, quoted, tokenize
from cyrusext.wire.types import Message

GO_AHEAD = b"+ go ahead\r\n"
CANCEL = b"*"
"""The client's line that gives up a SASL exchange."""

MAX_TAG = 128
# Quirk.LONG_TAGS.  "*" and "+" alone are no tags: their replies could not be told from untagged ones.
_TAG = re.compile(rb"(?![*+]\Z)[!#-\'*-z|}~]{1,%d}\Z" % MAX_TAG)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class BadCommand(RemoteProtocolError):
    """A command that can not be understood; `str` is the text of the BAD, `tag` the tag to answer with."""

    def __init__(self, tag: bytes, text: str) -> None:
        super().__init__(text)
        self.tag = tag


class CommandHead(NamedTuple):
    """Tag and kind of a command, its arguments not yet looked at (a state refuses before arguments do)."""

    tag: bytes
    kind: type[Command]
    arguments: Message


_KINDS: Mapping[bytes, type[Command]] = {
    b"AUTHENTICATE": Authenticate,
    b"STARTTLS": Starttls,
    b"COMPRESS": Compress,
    b"RESERVE": Reserve,
    b"ACTIVATE": Activate,
    b"DEACTIVATE": Deactivate,
    b"DELETE": Delete,
    b"FIND": Find,
    b"LIST": List,
    b"UPDATE": Update,
    b"NOOP": Noop,
    b"LOGOUT": Logout,
    b"X-CYRUSEXT-FOLLOW": Follow,
    b"X-CYRUSEXT-FORWARD": Forward,
}
_WORDS: Mapping[type[Command], bytes] = {kind: word for word, kind in _KINDS.items()}
_ARGUMENTS: Mapping[type[Command], tuple[int, int]] = {
    Authenticate: (1, 2),
    Starttls: (0, 0),
    Compress: (1, 1),
    Reserve: (2, 2),
    Activate: (3, 3),
    Deactivate: (2, 2),
    Delete: (1, 1),
    Find: (1, 1),
    List: (0, 1),
    Update: (0, MAX_HOSTS),
    Noop: (0, 0),
    Logout: (0, 0),
    Follow: (7, 7),
    Forward: (5, 5),
}
"""How many strings each command takes, least and most."""


def tag_of(head: bytes) -> bytes:
    """Return the tag with which a line begins, `UNTAGGED` where there is none to answer with."""
    tag, blank, _ = head.partition(b" ")
    return tag if blank and _TAG.match(tag) else UNTAGGED


def decode_head(message: Message) -> CommandHead:
    """Read tag and command word; raises BadCommand in the stock master's words."""
    tag, blank, rest = message[0].partition(b" ")
    if not blank or not _TAG.match(tag):
        raise BadCommand(UNTAGGED, "Need command")
    word, blank, rest = rest.partition(b" ")
    if not word:
        raise BadCommand(tag, "Null command")
    kind = _KINDS.get(word.upper())
    if kind is None:
        raise BadCommand(tag, "Unrecognized command")
    if blank and not rest and len(message) == 1:
        raise BadCommand(tag, "Extra arguments")
    if not blank and len(message) > 1:
        raise BadCommand(tag, "Extra arguments")
    return CommandHead(tag, kind, (rest, *message[1:]))


def decode_command(message: Message) -> Command:
    """Return the command that `message` holds; raises BadCommand."""
    return decode_arguments(decode_head(message))


def decode_arguments(head: CommandHead) -> Command:
    """Return the whole command; raises BadCommand."""
    tag, kind, rest = head
    try:
        strings = tokenize(rest)
    except RemoteProtocolError:
        raise BadCommand(tag, "Extra arguments") from None
    for string in strings:
        # Quirk.STRINGS_ONLY, Quirk.NUL_REFUSED
        if isinstance(string, Atom) or b"\0" in string:
            raise BadCommand(tag, "Extra arguments")
    least, most = _ARGUMENTS[kind]
    if len(strings) < least:
        raise BadCommand(tag, "Missing arguments")
    if len(strings) > most:
        raise BadCommand(tag, "Extra arguments")
    if kind is Authenticate:
        initial = None
        if len(strings) == 2:
            try:
                initial = decode_item(strings[1])
            except RemoteProtocolError:
                raise BadCommand(tag, "Invalid base64 encoding") from None
        return Authenticate(tag, _word(strings[0]).upper(), initial)
    if kind is Update:
        return Update(tag, tuple(_word(host) for host in strings))
    if kind is Compress:
        return Compress(tag, _word(strings[0]).upper())
    if kind is Follow or kind is Forward:
        try:
            return (following.read_follow if kind is Follow else following.read_forward)(tag, strings)
        except ValueError:
            raise BadCommand(tag, "Extra arguments") from None
    return kind(tag, *strings)  # type: ignore[arg-type]  # every other command is a tag and strings, counted above


def _word(string: bytes) -> str:
    """Return a name that is ASCII wherever it means something; other bytes become U+FFFD and match nothing."""
    return string.decode("ascii", "replace")


def _tagged(tag: bytes) -> bytes:
    if tag != UNTAGGED and not _TAG.match(tag):
        raise LocalProtocolError(f"{tag!r} is no tag")
    return tag


def _string(value: bytes) -> bytes:
    if b"\0" in value:
        raise LocalProtocolError("a string can not hold NUL")
    return literal(value)


@lru_cache(maxsize=256)
def text(words: str) -> bytes:
    """Return reply text as a quoted string.  It is for people: what is not printable ASCII becomes ``?``."""
    return quoted(_CONTROL.sub("?", words).encode("ascii", "replace"))


def encode_command(command: Command) -> bytes:
    """Return the bytes of a command; raises LocalProtocolError for a tag or string that can not be sent."""
    tag = _tagged(command.tag)
    if tag == UNTAGGED:
        raise LocalProtocolError("a command needs a tag")
    word = _WORDS[type(command)]
    match command:
        case Authenticate(mechanism=mechanism, initial=initial):
            strings = [quoted(mechanism.encode("ascii"))]
            if initial is not None:
                strings.append(literal(encode_item(initial)))
        case Compress(algorithm=algorithm):
            strings = [quoted(algorithm.encode("ascii"))]
        case Reserve(name=name, location=location) | Deactivate(name=name, location=location):
            strings = [_string(name), _string(location)]
        case Activate(name=name, location=location, acl=acl):
            strings = [_string(name), _string(location), _string(acl)]
        case Delete(name=name) | Find(name=name):
            strings = [_string(name)]
        case List(prefix=prefix):
            strings = [_string(prefix)] if prefix else []
        case Follow():
            strings = [_string(value) for value in following.follow_arguments(command)]
        case Forward():
            strings = [_string(value) for value in following.forward_arguments(command)]
        case Update(hosts=hosts):
            if len(hosts) > MAX_HOSTS:
                raise LocalProtocolError(f"UPDATE takes at most {MAX_HOSTS} hosts")
            strings = [_string(host.encode("ascii")) for host in hosts]
        case _:
            strings = []
    return b"%b %b\r\n" % (tag, b" ".join([word, *strings]))


_COMPLETIONS: Mapping[bytes, type[Ok] | type[No] | type[Bad] | type[Bye]] = {
    b"OK": Ok,
    b"NO": No,
    b"BAD": Bad,
    b"BYE": Bye,
}
_COMPLETION_WORDS = {kind: word for word, kind in _COMPLETIONS.items()}
_LINES: Mapping[bytes, tuple[type[Line], int]] = {
    b"MAILBOX": (Mailbox, 3),
    b"RESERVE": (Reserve, 2),
    b"DELETE": (Delete, 1),
}


def encode_reply(reply: Reply) -> bytes:
    """Return the bytes of a reply; raises LocalProtocolError for a tag or string that can not be sent."""
    match reply:
        case Mailbox(tag=tag, name=name, location=location, acl=acl):
            return b"%b MAILBOX %b %b %b\r\n" % (_tagged(tag), _string(name), _string(location), _string(acl))
        case Reserve(tag=tag, name=name, location=location):
            return b"%b RESERVE %b %b\r\n" % (_tagged(tag), _string(name), _string(location))
        case Delete(tag=tag, name=name):
            return b"%b DELETE %b\r\n" % (_tagged(tag), _string(name))
        case Begins() | Records() | Reached():
            word, strings = following.line_arguments(reply)
            return b" ".join([_tagged(reply.tag), word, *map(literal, strings)]) + b"\r\n"
        case Challenge(data=data):
            return encode_item(data) + b"\r\n"
        case _:
            return b"%b %b %b\r\n" % (_tagged(reply.tag), _COMPLETION_WORDS[type(reply)], text(reply.text))


def reply_of(tag: bytes, record: MailboxRecord) -> Line:
    """Return the line that reports `record`: MAILBOX, RESERVE, or DELETE for a tombstone."""
    if record.state is State.ACTIVE:
        return Mailbox(tag, record.name, record.location.to_wire(), record.acl)
    if record.state is State.RESERVED:
        return Reserve(tag, record.name, record.location.to_wire())
    return Delete(tag, record.name)


def encode_records(tag: bytes, records: Iterable[MailboxRecord]) -> bytes:
    """Return the lines that report `records`, in their order: the fast way for LIST, UPDATE and pushes.

    Equal to encode_reply(reply_of(tag, record)) of each; NUL in names and ACLs is not looked for (model.check_name
    keeps it out of records).
    """
    _tagged(tag)
    locations: dict[tuple[str, str], bytes] = {}
    lines = []
    for name, state, server, partition, acl, *_ in records:
        if state == State.DELETED:
            lines.append(b"%b DELETE {%d+}\r\n%b\r\n" % (tag, len(name), name))
            continue
        location = locations.get((server, partition))
        if location is None:
            location = locations[server, partition] = literal(ServerPartition(server, partition).to_wire())
        if state == State.ACTIVE:
            line = b"%b MAILBOX {%d+}\r\n%b %b {%d+}\r\n%b\r\n" % (tag, len(name), name, location, len(acl), acl)
        else:
            line = b"%b RESERVE {%d+}\r\n%b %b\r\n" % (tag, len(name), name, location)
        lines.append(line)
    return b"".join(lines)


def encode_banner(banner: Banner) -> bytes:
    """Return all lines of a banner, as the stock master orders them (Quirk.QUOTED_MECHANISMS)."""
    lines = [b" ".join([b"* AUTH", *(quoted(mechanism.encode("ascii")) for mechanism in banner.mechanisms)])]
    if banner.starttls:
        lines.append(b"* STARTTLS")
    if banner.compress:
        lines.append(b" ".join([b"* COMPRESS", *(quoted(name.encode("ascii")) for name in banner.compress)]))
    if banner.partial_update:
        lines.append(b"* PARTIAL-UPDATE")
    who = b" ".join(text(words) for words in (banner.hostname, banner.software, banner.version, banner.role))
    lines.append(b"* OK MUPDATE " + who)
    return b"".join(line + b"\r\n" for line in lines)


def decode_banner(lines: Iterable[Message]) -> Banner:
    """Return what the lines of a banner say; the last one is ``* OK MUPDATE ...``.

    What is not known or can not be read is passed over (RFC 3656 section 3.8).  Raises RemoteProtocolError where the
    last line does not name its server.
    """
    offers: dict[bytes, tuple[str, ...]] = {}
    for message in lines:
        try:
            _, word, *rest = tokenize(message)
        except (RemoteProtocolError, ValueError):
            continue
        offers[word.upper()] = tuple(value.decode("ascii", "replace") for value in rest)
    who = offers.get(b"OK", ())
    if len(who) != 5 or who[0].upper() != "MUPDATE":
        raise RemoteProtocolError("banner does not say OK MUPDATE and four strings")
    return Banner(
        *who[1:],
        mechanisms=tuple(mechanism.upper() for mechanism in offers.get(b"AUTH", ())),
        starttls=b"STARTTLS" in offers,
        compress=tuple(name.upper() for name in offers.get(b"COMPRESS", ())),
        partial_update=b"PARTIAL-UPDATE" in offers,
    )


def decode_reply(message: Message, *, exchange: bool = False) -> Reply:
    """Return the reply that `message` holds; `exchange`: a SASL exchange is on, so a bare word is a challenge.

    Raises RemoteProtocolError.
    """
    tag, blank, rest = message[0].partition(b" ")
    if exchange and not blank and len(message) == 1:
        return Challenge(decode_item(tag))
    word, _, rest = rest.partition(b" ")
    if tag != UNTAGGED and not _TAG.match(tag):
        raise RemoteProtocolError("reply has no tag")
    arguments = (rest, *message[1:])
    word = word.upper()
    line = _LINES.get(word)
    if line is not None:
        kind, count = line
        # All of Cyrus' strings are literals: then there is nothing to scan.
        if len(arguments) == 2 * count + 1 and not rest and not arguments[-1]:
            strings: Sequence[bytes] = arguments[1::2]
            if any(gap != b" " for gap in arguments[2:-1:2]):
                raise RemoteProtocolError(f"{word.decode()} line can not be read")
        else:
            strings = tokenize(arguments)
        if len(strings) != count or any(isinstance(string, Atom) for string in strings):
            raise RemoteProtocolError(f"{word.decode()} line has not {count} strings")
        return kind(tag, *strings)
    if (said := following.LINES.get(word)) is not None:
        strings = tokenize(arguments)
        if len(strings) != said[1]:
            raise RemoteProtocolError(f"{word.decode()} line has not {said[1]} strings", fatal=True)
        return following.read_line(said[0], tag, strings)
    completion = _COMPLETIONS.get(word)
    if completion is None:
        raise RemoteProtocolError("reply is none that MUPDATE knows")
    return completion(tag, _read_text(arguments))


def _read_text(arguments: Message) -> str:
    """Return the text of a completion; a bare one too, as the stock master sends some (Quirk.QUOTED_TEXT)."""
    if arguments[0].startswith(b'"') or len(arguments) > 1:
        strings = tokenize(arguments)
        if len(strings) != 1:
            raise RemoteProtocolError("reply text is more than one string")
        return strings[0].decode("utf-8", "replace")
    return arguments[0].decode("utf-8", "replace")
