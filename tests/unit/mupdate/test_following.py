"""The extension between nodes: every value there and back, in any chunks, and what is refused of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import msgpack

from cyrusext.errors import RemoteProtocolError
from cyrusext.model import MAX_ACL, Flag, MailboxRecord, State
from cyrusext.mupdate import following
from cyrusext.mupdate.codec import (
    BadCommand,
    decode_command,
    decode_reply,
    encode_command,
    encode_reply,
)
from cyrusext.mupdate.connection import ServerConnection
from cyrusext.mupdate.leading import Leading
from cyrusext.mupdate.state import AUTHENTICATED
from cyrusext.mupdate.types import Begins, Command, Follow, Forward, ProtocolViolation, Reached, Records, Reply
from cyrusext.store import Store
from cyrusext.wire.framer import Framer, Limits, Message, Poisoned, Signal

RECORDS = (
    MailboxRecord(b"user.alice", State.ACTIVE, "be1", "default", b"a\tlrs\t", 1, Flag.NONE, 5, "murder@10.0.0.1"),
    MailboxRecord(b'user.b\xff.{5+}\\"', State.RESERVED, "be2", "", b"", 2**53, Flag.HELD | Flag.SUSPECT, 2**50, ""),
    MailboxRecord(b"example.org!user.c", State.DELETED, "be1", "default", b"", 3, Flag.MOVING, 0, "cli:root"),
)
LINES: list[Reply] = [
    Begins(b"F1", "0123abcd", "log", 0),
    Begins(b"F1", "0123abcd", "behind", 17),
    Begins(b"F1", "", "full", 2**60),
    Records(b"F1", ()),
    Records(b"F1", RECORDS),
    Reached(b"F1", 12, "00ff00ff", True),
    Reached(b"F1", 0, "", False),
]
COMMANDS: list[Command] = [
    Follow(b"F1", "1", "", "standard", "", 0, "", "node2"),
    Follow(b"F1", "1", 'a "cluster"', "unified", "0123abcd", 2**60, "00ff00ff", "n\u00f6de"),
    Forward(b"W1", "murder@10.0.0.1", "ACTIVATE", b"user.\xff", b"be1!default", b"a\tl\t"),
    Forward(b"W1", "", "DELETE", b"user.a", b"", b""),
]


def framed(data: bytes, size: int) -> list[Message]:
    framer = Framer(Limits(literal=4 << 20, message=5 << 20))
    found = []
    for start in range(0, len(data), size):
        framer.feed(data[start : start + size])
        while (message := framer.next_message()) is not None:
            assert not isinstance(message, Poisoned | Signal)
            found.append(message)
    return found


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_what_is_said_is_understood(size: int) -> None:
    said = b"".join(encode_reply(line) for line in LINES)
    assert [decode_reply(message) for message in framed(said, size)] == LINES
    asked = b"".join(encode_command(command) for command in COMMANDS)
    assert [decode_command(message) for message in framed(asked, size)] == COMMANDS


def test_it_is_no_command_where_nobody_may_follow() -> None:
    for follow, legal in ((False, False), (True, True)):
        server = ServerConnection(hostname="node1", version="1", mechanisms=["PLAIN"], follow=follow)
        server.state = AUTHENTICATED
        server.receive_data(b'F1 X-CYRUSEXT-FOLLOW "1" "" "standard" "" "0" "" "node2"\r\n')
        event = server.next_event()
        assert isinstance(event, Follow) is legal
        if isinstance(event, ProtocolViolation):
            assert event.reply == b'F1 BAD "Unrecognized command"\r\n'
    assert b"CYRUSEXT-" not in server.banner()


@pytest.mark.parametrize(
    "raw",
    [
        b"\xc1",
        msgpack.encode([1]),
        msgpack.encode([RECORDS[0]._replace(name=b"")]),
        msgpack.encode([RECORDS[0]._replace(name=b"x" * 491)]),
        msgpack.encode([RECORDS[0]._replace(server="a!b")]),
        msgpack.encode([RECORDS[0]._replace(server="b\u00e4")]),
        msgpack.encode([RECORDS[0]._replace(acl=b"a\nb")]),
        msgpack.encode([RECORDS[0]._replace(seq=0)]),
        msgpack.encode([RECORDS[0]._replace(changed_at=-1)]),
        msgpack.encode([[*RECORDS[0][:1], 4, *RECORDS[0][2:]]]),
        msgpack.encode([[*RECORDS[0], "more"]])[:-6],
    ],
)
def test_records_that_no_store_can_hold_are_the_leader_s_fault(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="Records can not be read"):
        decode_reply((b"F1 X-RECORDS ", raw, b""))


@pytest.mark.parametrize(
    "line",
    [b'F1 X-BEGIN "a" "half" "1"', b'F1 X-BEGIN "a" "log"', b'F1 X-REACHED "-1" "" "fresh"', b'F1 X-REACHED "1" "" ""'],
)
def test_lines_that_make_no_sense_are_refused(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_reply((line,))


@pytest.mark.parametrize(
    "line",
    [
        b'F1 X-CYRUSEXT-FOLLOW "1" "" "standard" "" "x" "" ""',
        b'F1 X-CYRUSEXT-FOLLOW "1" "" "standard" "" "0" ""',
        b'W1 X-CYRUSEXT-FORWARD "%b" "DELETE" "user.a" "" ""' % (b"x" * 256),
        b'W1 X-CYRUSEXT-FORWARD "\xff" "DELETE" "user.a" "" ""',
    ],
)
def test_commands_that_make_no_sense_are_bad(line: bytes) -> None:
    with pytest.raises(BadCommand):
        decode_command((line,))


def test_a_piece_of_records_is_bounded() -> None:
    small, large = RECORDS[0], RECORDS[0]._replace(acl=b"x" * MAX_ACL)
    assert following.pieces([]) == []
    assert [len(piece) for piece in following.pieces([small] * 1201)] == [500, 500, 201]
    assert [len(piece) for piece in following.pieces([small, large, small, large, large])] == [2, 2, 1]


def test_what_a_leader_tells_a_follower_depends_on_what_it_has(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run", map_size=256 << 20) as store:
        leading = Leading("here", "east", store, "standard")

        def mode(store_id: str, seq: int, mark: str = "") -> str:
            return leading.mode(Follow(b"F1", "1", "east", "standard", store_id, seq, mark, "node2"))

        assert mode("here", 0) == "log"
        with store.begin() as transaction:
            for _ in range(3):
                transaction.put(RECORDS[0])
        assert (mode("", 0), mode("there", 2, leading.mark(2))) == ("full", "full")
        assert (mode("here", 0), mode("here", 2, leading.mark(2))) == ("log", "log")
        assert mode("here", 2, leading.mark(3)) == "full"  # a backup was restored, and went on
        assert mode("here", 4, "00000000") == "full"  # a backup was restored
        with store.begin() as transaction:
            for _ in range(100_000):
                transaction.put(RECORDS[0])
        assert (mode("here", 0), mode("here", 2, "00000000")) == ("behind", "behind")
        assert (
            leading.refusal(Follow(b"F1", "1", "west", "standard", "", 0, "", "node2"))
            == "this is cluster 'east', not 'west'"
        )
        assert "version 1" in leading.refusal(Follow(b"F1", "2", "east", "standard", "", 0, "", "node2"))
        assert "mode 'standard'" in leading.refusal(Follow(b"F1", "1", "east", "unified", "", 0, "", "node2"))
