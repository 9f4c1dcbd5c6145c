"""Commands and replies between bytes and types: tables, read both ways, fed three ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cyrusext.errors import LocalProtocolError, RemoteProtocolError
from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.mupdate.codec import (
    BadCommand,
    decode_banner,
    decode_command,
    decode_reply,
    encode_banner,
    encode_command,
    encode_records,
    encode_reply,
    reply_of,
    tag_of,
)
from cyrusext.mupdate.types import (
    Activate,
    Authenticate,
    Bad,
    Banner,
    Bye,
    Challenge,
    Command,
    Compress,
    Deactivate,
    Delete,
    Find,
    List,
    Logout,
    Mailbox,
    No,
    Noop,
    Ok,
    Reply,
    Reserve,
    Starttls,
    Update,
)
from cyrusext.wire.framer import Framer, Message, Poisoned
from cyrusext.wire.sasl import Secret


def messages(data: bytes, step: int) -> list[Message]:
    framer = Framer()
    found: list[Message] = []
    for start in range(0, len(data), step):
        framer.feed(data[start : start + step])
        while (message := framer.next_message()) is not None:
            assert isinstance(message, tuple)
            assert not isinstance(message, Poisoned)
            found.append(message)
    return found


def decode3(data: bytes, decode: Callable[[Message], object]) -> object:
    """Decode one message whole, byte by byte, and with another behind it; all three must agree."""
    (whole,) = messages(data, len(data))
    (bytewise,) = messages(data, 1)
    first, second = messages(data + b"z9 NOOP\r\n", len(data) + 9)
    assert whole == bytewise == first
    assert second == (b"z9 NOOP",)
    return decode(whole)


COMMANDS: list[tuple[Command, bytes]] = [
    (Authenticate(b"A01", "PLAIN"), b'A01 AUTHENTICATE "PLAIN"\r\n'),
    (
        Authenticate(b"A01", "PLAIN", Secret(b"\0murder\0murderpw")),
        b'A01 AUTHENTICATE "PLAIN" {24+}\r\nAG11cmRlcgBtdXJkZXJwdw==\r\n',
    ),
    (Authenticate(b"A01", "EXTERNAL", Secret(b"")), b'A01 AUTHENTICATE "EXTERNAL" {0+}\r\n\r\n'),
    (Starttls(b"S01"), b"S01 STARTTLS\r\n"),
    (Compress(b"z1", "DEFLATE"), b'z1 COMPRESS "DEFLATE"\r\n'),
    (Reserve(b"X0", b"user.a", b"be1!d"), b"X0 RESERVE {6+}\r\nuser.a {5+}\r\nbe1!d\r\n"),
    (
        Activate(b"X1", b"user.a", b"be1!", b"a\tlrs\t"),
        b"X1 ACTIVATE {6+}\r\nuser.a {4+}\r\nbe1! {6+}\r\na\tlrs\t\r\n",
    ),
    (Activate(b"X1", b"", b"", b""), b"X1 ACTIVATE {0+}\r\n {0+}\r\n {0+}\r\n\r\n"),
    (Deactivate(b"X2", b"user.a", b"be1!d"), b"X2 DEACTIVATE {6+}\r\nuser.a {5+}\r\nbe1!d\r\n"),
    (Delete(b"X3", b"user.a"), b"X3 DELETE {6+}\r\nuser.a\r\n"),
    (Find(b"X4", "user.été".encode()), b"X4 FIND {10+}\r\nuser.\xc3\xa9t\xc3\xa9\r\n"),
    (Find(b"X4", b"a\r\nb LOGOUT"), b"X4 FIND {11+}\r\na\r\nb LOGOUT\r\n"),
    (List(b"L0"), b"L0 LIST\r\n"),
    (List(b"L1", b"be1.lab!"), b"L1 LIST {8+}\r\nbe1.lab!\r\n"),
    (Update(b"U01"), b"U01 UPDATE\r\n"),
    (Update(b"U01", ("be1", "be2")), b"U01 UPDATE {3+}\r\nbe1 {3+}\r\nbe2\r\n"),
    (Noop(b"N0"), b"N0 NOOP\r\n"),
    (Logout(b"Q01"), b"Q01 LOGOUT\r\n"),
]


@pytest.mark.parametrize(("command", "data"), COMMANDS)
def test_commands_both_ways(command: Command, data: bytes) -> None:
    assert encode_command(command) == data
    assert decode3(data, decode_command) == command


@pytest.mark.parametrize(
    ("data", "command"),
    [
        (b'b2 find "user.p1"\r\n', Find(b"b2", b"user.p1")),
        (b'b2 FiNd "user.q\\"uo"\r\n', Find(b"b2", b'user.q"uo')),
        (b'b2 FIND "user.p1"\n', Find(b"b2", b"user.p1")),
        (b'b8 ACTIVATE {2+}\r\nab "l" "a\tl\t"\r\n', Activate(b"b8", b"ab", b"l", b"a\tl\t")),
        (b'L LIST ""\r\n', List(b"L", b"")),
        (b'A authenticate "plain"\r\n', Authenticate(b"A", "PLAIN")),
        (b'A AUTHENTICATE "PLAIN" ""\r\n', Authenticate(b"A", "PLAIN", Secret(b""))),
        (b"t.a-g*1 NOOP\r\n", Noop(b"t.a-g*1")),  # quirk LONG_TAGS
        (b"a" * 128 + b" NOOP\r\n", Noop(b"a" * 128)),
        (b"u UPDATE" + b' "h"' * 30 + b"\r\n", Update(b"u", ("h",) * 30)),  # quirk PARTIAL_UPDATE
    ],
)
def test_other_ways_to_say_a_command(data: bytes, command: Command) -> None:
    assert decode3(data, decode_command) == command


@pytest.mark.parametrize(
    ("data", "tag", "text"),
    [
        (b"\r\n", b"*", "Need command"),
        (b"a6b\r\n", b"*", "Need command"),
        (b" NOOP\r\n", b"*", "Need command"),
        (b"* NOOP\r\n", b"*", "Need command"),
        (b"+ NOOP\r\n", b"*", "Need command"),
        (b'"a" NOOP\r\n', b"*", "Need command"),
        (b"a" * 129 + b" NOOP\r\n", b"*", "Need command"),
        (b"\xff NOOP\r\n", b"*", "Need command"),
        (b"{3+}\r\nabc NOOP\r\n", b"*", "Need command"),
        (b"a7 \r\n", b"a7", "Null command"),
        (b"a7  NOOP\r\n", b"a7", "Null command"),
        (b"a7 {4+}\r\nNOOP\r\n", b"a7", "Null command"),
        (b"a6 BOGUS\r\n", b"a6", "Unrecognized command"),
        (b'a6 "FIND" "x"\r\n', b"a6", "Unrecognized command"),
        (b"b FIND\r\n", b"b", "Missing arguments"),
        (b'b ACTIVATE "user.p1" "loc"\r\n', b"b", "Missing arguments"),
        (b"b AUTHENTICATE\r\n", b"b", "Missing arguments"),
        (b"b FIND \r\n", b"b", "Extra arguments"),
        (b"b FIND user.p1\r\n", b"b", "Extra arguments"),  # quirk STRINGS_ONLY
        (b'b FIND  "user.p1"\r\n', b"b", "Extra arguments"),
        (b'b FIND "user.p1" extra\r\n', b"b", "Extra arguments"),
        (b'b FIND "user.p1" "x"\r\n', b"b", "Extra arguments"),
        (b'b FIND "user.p1" \r\n', b"b", "Extra arguments"),
        (b'b FIND "user.p1\r\n', b"b", "Extra arguments"),
        (b"b FIND{3+}\r\nabc\r\n", b"b", "Extra arguments"),
        (b"b FIND {3+}\r\na\0b\r\n", b"b", "Extra arguments"),
        (b"b NOOP \r\n", b"b", "Extra arguments"),
        (b'b NOOP "x"\r\n', b"b", "Extra arguments"),
        (b'b LIST "x" "y"\r\n', b"b", "Extra arguments"),
        (b"b UPDATE" + b' "h"' * 31 + b"\r\n", b"b", "Extra arguments"),
        (b"b AUTHENTICATE PLAIN AA==\r\n", b"b", "Extra arguments"),
        (b'b AUTHENTICATE "PLAIN" "no base64"\r\n', b"b", "Invalid base64 encoding"),
    ],
)
def test_bad_commands(data: bytes, tag: bytes, text: str) -> None:
    for step in (len(data), 1):
        (message,) = messages(data, step)
        with pytest.raises(BadCommand) as caught:
            decode_command(message)
        assert (caught.value.tag, str(caught.value)) == (tag, text)


REPLIES: list[tuple[Reply, bytes]] = [
    (Ok(b"A01", "Authenticated"), b'A01 OK "Authenticated"\r\n'),
    (No(b"X0", "mailbox already exists"), b'X0 NO "mailbox already exists"\r\n'),
    (Bad(b"*", "Need command"), b'* BAD "Need command"\r\n'),
    (Bye(b"*", "too slow"), b'* BYE "too slow"\r\n'),
    (Ok(b"x", 'say "\\"'), b'x OK "say \\"\\\\\\""\r\n'),
    (Ok(b"x", ""), b'x OK ""\r\n'),
    (
        Mailbox(b"U01", b"user.a", b"be1.lab!default", b"a\tlrs\t"),
        b"U01 MAILBOX {6+}\r\nuser.a {15+}\r\nbe1.lab!default {6+}\r\na\tlrs\t\r\n",
    ),
    (Mailbox(b"U01", b"", b"", b""), b"U01 MAILBOX {0+}\r\n {0+}\r\n {0+}\r\n\r\n"),
    (Reserve(b"U01", b"user.a", b"be1!"), b"U01 RESERVE {6+}\r\nuser.a {4+}\r\nbe1!\r\n"),
    (Delete(b"U01", b"user.a"), b"U01 DELETE {6+}\r\nuser.a\r\n"),
]


@pytest.mark.parametrize(("reply", "data"), REPLIES)
def test_replies_both_ways(reply: Reply, data: bytes) -> None:
    assert encode_reply(reply) == data
    assert decode3(data, decode_reply) == reply


@pytest.mark.parametrize(
    ("challenge", "data"),
    [(Challenge(Secret(b"r=x,s=y")), b"cj14LHM9eQ==\r\n"), (Challenge(Secret(b"")), b"\r\n")],  # quirk EMPTY_CHALLENGE
)
def test_challenges_both_ways(challenge: Challenge, data: bytes) -> None:
    assert encode_reply(challenge) == data
    assert decode3(data, lambda message: decode_reply(message, exchange=True)) == challenge
    with pytest.raises(RemoteProtocolError):
        decode3(data, decode_reply)


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        # quirk QUOTED_TEXT: what the stock master leaves bare
        (b"S01 OK Begin TLS negotiation now\r\n", Ok(b"S01", "Begin TLS negotiation now")),
        (b"A01 NO Client canceled authentication\r\n", No(b"A01", "Client canceled authentication")),
        (b"A01 OK\r\n", Ok(b"A01", "")),
        (b'A01 ok "x"\r\n', Ok(b"A01", "x")),
        (b"A01 OK {4+}\r\ndone\r\n", Ok(b"A01", "done")),
        (b'x MAILBOX "a" "b!c" "d"\r\n', Mailbox(b"x", b"a", b"b!c", b"d")),
        (b'x MAILBOX {1+}\r\na "b!c" {1+}\r\nd\r\n', Mailbox(b"x", b"a", b"b!c", b"d")),
    ],
)
def test_other_ways_to_say_a_reply(data: bytes, reply: Reply) -> None:
    assert decode3(data, decode_reply) == reply


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"a\r\n",
        b"a WHAT\r\n",
        b"+ go ahead\r\n",
        b"x MAILBOX\r\n",
        b'x MAILBOX "a" "b"\r\n',
        b'x MAILBOX "a" "b" "c" "d"\r\n',
        b'x MAILBOX "a" b "c"\r\n',
        b"x MAILBOX {1+}\r\na{1+}\r\nb {1+}\r\nc\r\n",
        b"x DELETE {1+}\r\na x\r\n",
        b'x OK "a" "b"\r\n',
        b'x OK "a\r\n',
    ],
)
def test_bad_replies(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode3(data, decode_reply)


@pytest.mark.parametrize(
    "command",
    [
        Noop(b""),
        Noop(b"*"),
        Noop(b"+"),
        Noop(b"a b"),
        Noop(b"a\r\n"),
        Noop(b"a" * 129),
        Find(b"a", b"x\0"),
        Update(b"a", ("h",) * 31),
    ],
)
def test_commands_that_can_not_be_sent(command: Command) -> None:
    with pytest.raises(LocalProtocolError):
        encode_command(command)


@pytest.mark.parametrize(
    "reply", [Ok(b"", "x"), Ok(b"a b", "x"), Mailbox(b"a", b"x\0", b"", b""), Delete(b"a\n", b"x")]
)
def test_replies_that_can_not_be_sent(reply: Reply) -> None:
    with pytest.raises(LocalProtocolError):
        encode_reply(reply)


def test_text_is_made_printable() -> None:
    assert encode_reply(No(b"x", "disk\r\nfull é")) == b'x NO "disk??full ?"\r\n'


RECORDS = [
    MailboxRecord(b"user.a", State.ACTIVE, "be1", "default", b"a\tlrs\t", 7, Flag.HELD, 1, "x"),
    MailboxRecord(b"user.a.b", State.RESERVED, "be1", "", b"", 8),
    MailboxRecord(b"user.a-b", State.DELETED, "be1", "default", b"", 9),
    MailboxRecord(b"user.\xff {3+}\r", State.ACTIVE, "be2", "p2", b"", 10),
]


def test_the_batch_encoder_equals_the_slow_way() -> None:
    slow = b"".join(encode_reply(reply_of(b"U01", record)) for record in RECORDS)
    assert encode_records(b"U01", RECORDS) == slow
    assert encode_records(b"U01", iter(RECORDS)) == slow
    assert encode_records(b"U01", []) == b""
    assert [type(reply_of(b"x", record)) for record in RECORDS] == [Mailbox, Reserve, Delete, Mailbox]
    with pytest.raises(LocalProtocolError):
        encode_records(b"U 01", RECORDS)


BANNERS = [
    (
        Banner("node1", "cyrusext", "0.1.0", "(master)", ("PLAIN",), partial_update=True),
        b'* AUTH "PLAIN"\r\n* PARTIAL-UPDATE\r\n* OK MUPDATE "node1" "cyrusext" "0.1.0" "(master)"\r\n',
    ),
    (
        Banner("mup.lab", "Cyrus IMAP", "3.6.1", "(master)", ("PLAIN", "SCRAM-SHA-1"), True, ("DEFLATE",), True),
        b'* AUTH "PLAIN" "SCRAM-SHA-1"\r\n* STARTTLS\r\n* COMPRESS "DEFLATE"\r\n* PARTIAL-UPDATE\r\n'
        b'* OK MUPDATE "mup.lab" "Cyrus IMAP" "3.6.1" "(master)"\r\n',
    ),
    (Banner("a", "b", "c", "mupdate://m"), b'* AUTH\r\n* OK MUPDATE "a" "b" "c" "mupdate://m"\r\n'),
]


@pytest.mark.parametrize(("banner", "data"), BANNERS)
def test_banners_both_ways(banner: Banner, data: bytes) -> None:
    assert encode_banner(banner) == data
    assert decode_banner(messages(data, len(data))) == decode_banner(messages(data, 1)) == banner


def test_a_banner_may_hold_more_and_atoms() -> None:
    data = b'* AUTH plain gssapi\r\n* NEW THING "x"\r\n* odd  "\r\n* OK MUPDATE "a" "b" "c" "d"\r\n'
    assert decode_banner(messages(data, 9)) == Banner("a", "b", "c", "d", ("PLAIN", "GSSAPI"))


@pytest.mark.parametrize(
    "data", [b"* OK\r\n", b'* OK IMAP "a" "b" "c" "d"\r\n', b'* OK MUPDATE "a" "b" "c"\r\n', b'* "\r\n', b"*\r\n"]
)
def test_what_is_no_banner(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_banner(messages(data, len(data)))


@pytest.mark.parametrize(
    ("head", "tag"), [(b"a FIND {99+}", b"a"), (b"a", b"*"), (b"", b"*"), (b"\0 x", b"*"), (b"* x", b"*")]
)
def test_the_tag_of_a_refused_line(head: bytes, tag: bytes) -> None:
    assert tag_of(head) == tag
