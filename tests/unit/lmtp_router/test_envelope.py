"""What is read in one pass is what the codec reads, command by command and reply by reply."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyrusext.errors import RemoteProtocolError
from cyrusext.runtime import logging
from lmtp_router._lines import recipient_lines
from lmtp_router._passed import Sums, Taken, passed_lines
from lmtp_router.journal import Journal, _each
from lmtp_router.privacy import Disclosure
from lmtp_router.protocol import codec
from lmtp_router.protocol._envelope import Envelope, Part, read_envelope, woven_finals, woven_replies
from lmtp_router.protocol.types import Data, Rcpt

PLAIN = b"MAIL FROM:<a@b> SIZE=1\r\nRCPT TO:<u1@example.org>\r\nRCPT TO:<u2>\r\nDATA\r\n"
lines = st.one_of(
    st.sampled_from(
        [b"MAIL FROM:<a@b>", b"RCPT TO:<u@example.org>", b"RCPT TO:<u>", b"DATA", b"rcpt to:<u>", b"RCPT TO:<@a:u>"]
    ),
    st.binary(max_size=12).map(lambda raw: b"RCPT TO:<%b>" % raw),
    st.text(alphabet='<>"\\@: a\x7f', max_size=8).map(lambda text: b"RCPT TO:" + text.encode()),
)


def envelope_of(*paths: bytes) -> Envelope:
    found = read_envelope(b"MAIL FROM:<a@b>\r\n" + b"".join(b"RCPT TO:%b\r\n" % path for path in paths) + b"DATA\r\n")
    assert found is not None
    return found


def part_of(envelope: Envelope, *numbers: int) -> Part:
    part = Part(envelope)
    for number in numbers:
        part.add(number)
    return part


def test_an_envelope() -> None:
    found = read_envelope(PLAIN)
    assert found is not None
    assert (found.line, found.addresses()) == (b"MAIL FROM:<a@b> SIZE=1", [b"u1@example.org", b"u2"])
    assert (found.octets, found.count) == (PLAIN, 2)
    for cut in range(len(PLAIN)):
        assert read_envelope(PLAIN[:cut]) is None
    assert read_envelope(PLAIN + b"x") is None
    assert read_envelope(PLAIN.replace(b"u2", b"u" * 600)) is None
    assert read_envelope(b"MAIL FROM:<a@b>\r\nDATA\r\n") is None
    assert read_envelope(PLAIN.replace(b"1\r\n", b"1\n")) is None


@given(st.lists(lines, max_size=5), st.sampled_from([b"\r\n", b"\n", b"\r\r\n"]))
def test_envelopes_are_those_of_the_codec(said: list[bytes], end: bytes) -> None:
    octets = b"".join(line + end for line in [b"MAIL FROM:<>", *said, b"DATA"])
    found = read_envelope(octets)
    if found is None:
        return
    commands = [codec.parse_command(line) for line in octets.split(b"\r\n")[1:-1]]
    assert found.line == b"MAIL FROM:<>"
    assert commands == [*(Rcpt(b"<%b>" % address) for address in found.addresses()), Data()]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 200])
def test_the_parts_of_an_envelope(count: int) -> None:
    paths = [b"<u%d@example.org>" % number for number in range(count)]
    envelope = envelope_of(*paths)
    parts = [part_of(envelope, *range(start, count, 3)) for start in range(min(count, 3))]
    for start, part in enumerate(parts):
        assert (part.count, part.numbers, part.paths) == (
            len(paths[start::3]),
            [*range(start, count, 3)],
            paths[start::3],
        )
        assert part.rcpts() == b"".join(b"RCPT TO:%b\r\n" % path for path in paths[start::3]) + b"DATA\r\n"
        said = b"".join(b"250 2.1.5 %d\r\n" % number for number in part.numbers)
        assert part.hear(b"250 2.1.0 ok\r\n" + said + b"354 go\r\n")
        assert part.is_open
    assert woven_replies(envelope, parts, b"head ", b"tail") == b"head %btail" % b"".join(
        b"250 2.1.5 %d\r\n" % number for number in range(count)
    )
    known = 0
    for part in reversed(parts):
        part.sent()
        assert woven_finals(envelope, parts, 0) == b"".join(b"250 f%d\r\n" % number for number in range(known))
        assert part.hear(b"".join(b"250 f%d\r\n" % number for number in part.numbers))
        assert part.is_over
        assert part.finals == [b"250 f%d\r\n" % number for number in part.numbers]
    assert woven_finals(envelope, parts, 0) == b"".join(b"250 f%d\r\n" % number for number in range(count))
    assert woven_finals(envelope, parts, count) == b""


def test_a_recipient_has_one_part() -> None:
    envelope = envelope_of(b"<u@x>", b"<v@x>", b"<w@x>")
    part = part_of(envelope, 1)
    for wrong in (0, 1, 3, -1):
        with pytest.raises(IndexError):
            part.add(wrong)
    with pytest.raises(IndexError):
        Part(envelope).add(1)
    assert part.hear(b"250 ok\r\n250 ok\r\n")
    with pytest.raises(IndexError):
        woven_replies(envelope, [], b"", b"")


replies = st.one_of(
    st.sampled_from([b"250 2.1.5 ok", b"250 ", b"250", b"250-x", b"354 go", b"450 4.2.1 x", b"250 \xff", b"250 a\tb"]),
    st.binary(max_size=6).map(lambda raw: b"250 " + raw),
)


@given(st.lists(replies, max_size=6), st.integers(1, 4), st.integers(0, 8))
def test_replies_are_those_of_the_codec(said: list[bytes], count: int, cut: int) -> None:
    octets = b"".join(reply + b"\r\n" for reply in said)
    octets = octets[: max(len(octets) - cut, 0)]
    envelope = envelope_of(*[b"<u@x>"] * count)
    part = part_of(envelope, *range(count))
    part.sent()
    taken = part.hear(octets)
    try:
        parsed = [reply.raw for reply in codec.ReplyParser().feed(octets)]
    except RemoteProtocolError:
        parsed = None
    finals = [raw for raw in part.finals if raw]
    assert octets.startswith(b"".join(finals))
    if parsed is not None:
        assert finals == parsed[: len(finals)]
        if taken and not part.is_over:
            assert finals == parsed, "what is complete is taken"
    if part.is_over and taken:
        assert b"".join(finals) == octets
    elif not taken and parsed is not None and len(parsed) > len(finals) and len(finals) < count:
        assert not parsed[len(finals)].startswith(b"250 ") or len(parsed[len(finals)]) > 2048


def test_replies_piece_by_piece() -> None:
    octets = b"250 2.1.0 ok\r\n250 2.1.5 a\r\n250 2.1.5 a\r\n354 go\r\n"
    for cut in range(1, len(octets)):
        part = part_of(envelope_of(b"<u@x>", b"<v@x>"), 0, 1)
        assert part.hear(octets[:cut])
        assert not part.is_open
        assert part.hear(octets[cut:])
        assert (part.is_open, part.before) == (True, octets)
    part = part_of(envelope_of(b"<u@x>"), 0)
    assert not part.hear(b"250 " + b"x" * 3000)
    part = part_of(envelope_of(b"<u@x>"), 0)
    assert not part.hear(b"250 a\r\n250 a\r\n354 go\r\n250 too early\r\n")
    part = part_of(envelope_of(b"<u@x>"), 0)
    assert part.hear(b"250 a\r\n250 a\r\n354 go\r\n")
    assert not part.hear(b"250 before the message\r\n")


def taken(server: str, envelope: Envelope, numbers: list[int], said: list[bytes], times: tuple[float, ...]) -> Taken:
    part = Taken(envelope, server)
    for number in numbers:
        part.add(number)
    part.asked, part.opened, part.ended, part.at = times
    part.sent()
    assert part.hear(b"".join(said))
    return part


paths = st.lists(st.sampled_from([b"<u@example.org>", b"<a=b>", b"<=>", b"<'%>"]), min_size=1, max_size=5)


@given(paths, st.lists(st.floats(0.001, 200), min_size=4, max_size=4), st.integers(0, 10**9), st.integers(1, 3))
def test_lines_are_those_of_recipients_one_by_one(to: list[bytes], times: list[float], size: int, step: int) -> None:
    asked, opened, ended, at = sorted(times)
    envelope = envelope_of(*to)
    parts = []
    for start, server in zip(range(min(step, len(to))), ("be1", "b e2", "b\xe9"), strict=False):
        numbers = [*range(start, len(to), step)]
        said = [b"250 2.1.5 %d\r\n" % (number // 2) for number in numbers]
        parts.append(taken(server, envelope, numbers, said, (asked, opened, ended, at)))
    done = [one for part in parts for one in _each(part, size)]
    ours = passed_lines("lmtp.recipient", "s-1", b"<f@b>", parts, size)
    theirs = recipient_lines("lmtp.recipient", "s-1", b"<f@b>", done)
    assert [line.split(b" ", 1)[1:] for line in ours.split(b"\n")] == [
        line.split(b" ", 1)[1:] for line in theirs.split(b"\n")
    ]


@pytest.mark.parametrize("disclosure", Disclosure)
def test_figures_are_those_of_recipients_one_by_one(disclosure: Disclosure) -> None:
    stream = io.StringIO()
    logging.setup("info", stream)
    try:
        whole, single = Journal(disclosure), Journal(disclosure)
        envelope = envelope_of(b"<u@x>", b"<w@x>", b"<v@x>")
        parts = [taken("a", envelope, [0, 2], [b"250 ok\r\n"] * 2, (1.0, 2.0, 3.0, 4.0))]
        parts.append(taken("b", envelope, [1], [b"250 ok\r\n"], (1.0, 1.5, 3.0, 400.0)))
        whole.passed("s-1", b"<f@b>", parts, 10)
        single.note("s-1", b"<f@b>", [one for part in parts for one in _each(part, 10)])
    finally:
        logging.setup()
    assert (whole.tally.express, single.tally.express) == (1, 0)
    whole.tally.express = 0
    assert whole.tally == single.tally
    assert whole.tally == single.tally, "it is counted once"
    written = stream.getvalue().splitlines()
    assert len(written) == 6
    assert [line.split(" ", 1)[1] for line in written[:3]] == [line.split(" ", 1)[1] for line in written[3:]]
    assert ("<u@x>" in stream.getvalue()) is (disclosure is Disclosure.FULL)


def test_there_are_only_so_many_ranges() -> None:
    with pytest.raises(ValueError, match="at most"):
        Sums(tuple(range(32)))
