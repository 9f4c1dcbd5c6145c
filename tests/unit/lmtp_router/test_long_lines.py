"""The end of data in the middle of a long line, as a backend that reads in pieces sees it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtp_router.protocol.lines import PIECE, LongLines
from lmtp_router.protocol.server import ServerConnection
from lmtp_router.protocol.types import NEED_DATA, BodyData, BodyEnd, BodySpoiled, Data, Verdict


def ends(octets: bytes, step: int = 0, piece: int = PIECE) -> bool:
    lines, step = LongLines(piece), step or max(1, len(octets))
    return any(lines.feed(octets[at : at + step]) for at in range(0, len(octets), step))


def ends_at_cyrus(octets: bytes, piece: int) -> bool:
    """The same as lmtpd does it: piece after piece, each at most so long and none beyond LF."""
    at, line_begins = 0, True
    while at < len(octets):
        newline = octets.find(b"\n", at, at + piece)
        stop = newline + 1 if newline >= 0 else min(at + piece, len(octets))
        if octets[at:stop] == b".\r\n" and not line_begins:
            return True
        line_begins = newline >= 0
        at = stop
    return False


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4096, 8189])
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("before", [b"", b"Subject: x\r\n\r\n", b"\r\n" * 5000])
def test_a_dot_behind_a_whole_number_of_pieces(before: bytes, times: int, step: int) -> None:
    for length, false in ((-1, False), (0, True), (1, False)):
        line = b"x" * (times * PIECE + length)
        assert ends(before + line + b".\r\nNOOP\r\n", step) is false
        # As the last octets, too, and not with one octet more before or behind the dot.
        assert ends(before + line + b".\r\n", step) is false
        assert not ends(before + line + b".x\r\n.x\r\n", step)
        assert ends(before + line + b"x.\r\n.x\r\n", step) is (length == -1)


@settings(max_examples=500)
@given(
    st.lists(st.sampled_from([b"x", b".", b"\r\n", b".\r\n", b"xxxx", b"..\r\n", b"xxx."]), max_size=60),
    st.integers(1, 9),
)
def test_it_is_what_cyrus_does(parts: list[bytes], step: int) -> None:
    octets, piece = b"".join(parts), 5
    assert ends(octets, step, piece) is ends(octets, 0, piece) is ends_at_cyrus(octets, piece)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("pieces", [1, 5000, 1 << 20])
def test_nothing_of_the_false_end_is_passed_on(pieces: int, replace: bool) -> None:
    text = b"Subject: x\r\n\r\n" + b"y" * PIECE + b".\r\nMAIL FROM:<>\r\n"
    connection = ServerConnection(replace_bare_newlines=replace)
    connection.receive_data(b"LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<u@example.org>\r\nDATA\r\n")
    while not isinstance(connection.next_event(), Data):
        pass
    connection.accept_data()
    events = []
    for at in range(0, len(text), pieces):
        connection.receive_data(text[at : at + pieces])
        while (event := connection.next_event()) is not NEED_DATA:
            events.append(event)
    connection.receive_data(b".\r\nNOOP\r\n")
    events.append(connection.next_event())
    passed = b"".join(event.chunk for event in events if isinstance(event, BodyData))
    assert text.startswith(passed)
    assert b"y.\r\n" not in passed
    assert [event for event in events if isinstance(event, BodySpoiled)] == [BodySpoiled(Verdict.FALSE_END)]
    assert isinstance(events[-1], BodyEnd)
    assert events[-1].verdict is Verdict.FALSE_END
