"""BDAT without a socket; every exchange whole, octet by octet, and with more behind it."""

from __future__ import annotations

import pytest

from lmtp_router.protocol.server import Limits, ServerConnection
from lmtp_router.protocol.types import (
    NEED_DATA,
    PAUSED,
    Bdat,
    BodyData,
    BodyEnd,
    BodySpoiled,
    ChunkEnd,
    Lhlo,
    Noop,
    Quit,
    Refused,
    Rset,
    ServerEvent,
    Verdict,
)
from tests.harness.lmtp_events import drive, three_ways

CHUNKS = b"LHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<u@example.org>\r\n"


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"BDAT 5 LAST\r\nabc\r\n", [Bdat(5, True), BodyData(b"abc\r\n"), BodyEnd(5, Verdict.GOOD, False)]),
        (b"BDAT 0 LAST\r\n", [Bdat(0, True), BodyEnd(0, Verdict.GOOD, False)]),
        (
            b"BDAT 3\r\nabcBDAT 0 LAST\r\n",
            [Bdat(3), BodyData(b"abc"), ChunkEnd(3), BodyData(b"\r\n"), BodyEnd(3, Verdict.GOOD, False)],
        ),
        (
            b"BDAT 0\r\nBDAT 4\r\na\r\n.NOOP\r\nBDAT 3 LAST\r\n\r\n.",
            [
                Bdat(0),
                ChunkEnd(0),
                BodyData(b"a\r\n.."),
                ChunkEnd(4),
                Noop(),
                BodyData(b"\r\n..\r\n"),
                BodyEnd(7, Verdict.GOOD, False),
            ],
        ),
        (
            b"BDAT 6 LAST\r\nQUIT\r\n",
            [Bdat(6, True), BodyData(b"QUIT\r\n"), BodyEnd(6, Verdict.GOOD, False)],
        ),
        (
            b"BDAT 2 LAST\r\n\0\xff",
            [Bdat(2, True), BodyData(b"\0\xff\r\n"), BodyEnd(2, Verdict.GOOD, True)],
        ),
    ],
)
def test_chunks(octets: bytes, expected: list[ServerEvent]) -> None:
    assert three_ways(CHUNKS + octets)[3:] == expected
    assert three_ways(CHUNKS + octets + b"RSET\r\n")[3:] == [*expected, Rset()]


@pytest.mark.parametrize("step", [b"RSET", b"LHLO c", b"QUIT"])
def test_a_message_is_given_up_between_chunks(step: bytes) -> None:
    events = three_ways(CHUNKS + b"BDAT 6\r\n.\r\nab\r" + step + b"\r\n")
    assert events[3:6] == [Bdat(6), BodyData(b"..\r\nab"), ChunkEnd(6)]
    assert isinstance(events[6], Rset | Lhlo | Quit)
    assert len(events) == 7


@pytest.mark.parametrize("line", [b"MAIL FROM:<>", b"RCPT TO:<u@example.org>", b"DATA"])
def test_only_chunks_follow_a_chunk(line: bytes) -> None:
    events = three_ways(CHUNKS + b"BDAT 1\r\nx" + line + b"\r\nBDAT 0 LAST\r\n")
    assert isinstance(events[6], Refused)
    assert events[6].reply.code == 503
    assert events[7:] == [BodyData(b"\r\n"), BodyEnd(1, Verdict.GOOD, False)]


@pytest.mark.parametrize("opening", [b"", b"LHLO c\r\n", b"LHLO c\r\nMAIL FROM:<>\r\n", CHUNKS + b"BDAT 0 LAST\r\n"])
def test_chunks_that_nobody_waits_for_are_read_and_are_no_commands(opening: bytes) -> None:
    octets = opening + b"BDAT 6\r\nQUIT\r\nBDAT 0\r\nBDAT 12 LAST\r\nMAIL FROM:<>RSET\r\n"
    events = three_ways(octets, Limits(max_errors=0))
    assert events[-1] == Rset()
    assert [event.reply.code for event in events[-4:-1] if isinstance(event, Refused)] == [503] * 3


def test_a_refused_chunk_is_read_and_is_no_command() -> None:
    octets = CHUNKS + b"BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n"
    for size in (1, 2, 5, 1000):
        connection = ServerConnection()
        found: list[ServerEvent] = []
        for at in range(0, len(octets), size):
            connection.receive_data(octets[at : at + size])
            while (event := connection.next_event()) is not NEED_DATA:
                if event is PAUSED:
                    connection.refuse_data()
                else:
                    found.append(event)
        assert found[3] == Bdat(6)
        assert isinstance(found[4], Refused)
        assert found[5:] == [Noop()]


@pytest.mark.parametrize("line", [b"BDAT x\r\n", b"BDAT 5\n", b"BDAT 5\0\r\n", b"bdat 5 " + b"x" * 3000 + b"\r\n"])
def test_after_a_chunk_without_a_size_nothing_is_understood(line: bytes) -> None:
    for size in (7, 4096):
        events = drive(CHUNKS + line + b"RSET\r\n", size)
        last = events[-1]
        if isinstance(last, Refused) and last.close:
            continue
        assert len(line) > 3000, "only of a line that was thrown away as it came nobody knows what it was"
        assert size == 7


@pytest.mark.parametrize("body", [b"a\nb\r\n", b"a\rb\r\n", b"a\r", b"\n.\n", b"\r\n.\r", b"\r\r\n"])
def test_bare_newlines_in_chunks(body: bytes) -> None:
    for cut in range(len(body) + 1):
        octets = b"BDAT %d\r\n%bBDAT %d LAST\r\n%b" % (cut, body[:cut], len(body) - cut, body[cut:])
        for size in (1, 3, 1000):
            events = drive(CHUNKS + octets + b"RSET\r\n", size)
            assert events[-1] == Rset()
            assert events[-2] == BodyEnd(len(body), Verdict.BARE_NEWLINE, False)
            assert events[-3] == BodySpoiled(Verdict.BARE_NEWLINE) or ChunkEnd(cut) in events
            replaced = drive(CHUNKS + octets, size, replace=True)
            whole = b"".join(event.chunk for event in replaced if isinstance(event, BodyData))
            assert replaced[-1] == BodyEnd(len(body), Verdict.GOOD, False)
            lines = whole.split(b"\r\n")
            assert lines.pop() == b""
            assert b"." not in lines
            assert not any(b"\r" in line or b"\n" in line for line in lines)


def test_the_size_of_chunks_is_counted() -> None:
    limits = Limits(max_size=10)
    events = three_ways(CHUNKS + b"BDAT 6\r\n123456BDAT 4 LAST\r\n78\r\n", limits)
    assert events[-1] == BodyEnd(10, Verdict.GOOD, False)
    events = drive(CHUNKS + b"BDAT 6\r\n123456BDAT 5\r\n789\r\nBDAT 0 LAST\r\nRSET\r\n", 1000, limits)
    assert events[-4:] == [
        BodySpoiled(Verdict.TOO_LARGE),
        ChunkEnd(5),
        BodyEnd(11, Verdict.TOO_LARGE, False),
        Rset(),
    ]
