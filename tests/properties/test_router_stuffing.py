"""What comes by BDAT goes on as what would have followed DATA: the same message, and no end in the middle of it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from lmtp_router.protocol._scan import BodyScanner
from lmtp_router.protocol._stuff import BodyStuffer

PIECES = st.lists(
    st.one_of(
        st.sampled_from([b"\r\n", b".", b"..", b"\r", b"\n", b"\0", b"\r\n.\r\n", b"text"]), st.binary(max_size=4)
    ),
    max_size=40,
).map(b"".join)
CUTS = st.lists(st.integers(0, 30), min_size=1, max_size=10)


def stuffed(message: bytes, cuts: list[int]) -> tuple[bytes, BodyStuffer]:
    stuffer = BodyStuffer()
    out, at, turn = b"", 0, 0
    while at < len(message):
        stop = min(len(message), at + cuts[turn % len(cuts)])
        out += stuffer.feed(message, at, stop)
        at, turn = max(stop, at), turn + 1
        if turn % len(cuts) == 0 and not any(cuts):
            out += stuffer.feed(message, at, len(message))
            break
    return out + stuffer.finish(), stuffer


def normal(message: bytes) -> bytes:
    """The message with CRLF for every line end, and one at its end."""
    lines = re.sub(rb"\r\n|\r|\n", b"\r\n", message)
    return lines if lines.endswith(b"\r\n") or not lines else lines + b"\r\n"


@given(PIECES, CUTS)
def test_a_stuffed_message_is_found_whole_by_the_scan(message: bytes, cuts: list[int]) -> None:
    out, stuffer = stuffed(message, cuts)
    scanner = BodyScanner()
    wire = out + b".\r\nQUIT\r\n"
    end, octets = scanner.feed(wire)
    assert end == len(out) + 3, "the end is ours and no other"
    assert octets == out
    assert not scanner.bare_newline
    assert scanner.nul == stuffer.nul == (b"\0" in message)
    assert b"\r\n".join(line.removeprefix(b".") for line in out.split(b"\r\n")) == normal(message)
    assert stuffer.bare_newline == (re.search(rb"(?<!\r)\n|\r(?!\n)", message) is not None)


@given(PIECES, CUTS)
def test_the_cuts_do_not_matter(message: bytes, cuts: list[int]) -> None:
    assert stuffed(message, cuts)[0] == stuffed(message, [max(1, len(message))])[0]
