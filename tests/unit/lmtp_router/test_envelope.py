"""What is read in one pass is what the codec reads, command by command and reply by reply."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyrusext.errors import RemoteProtocolError
from cyrusext.runtime import logging
from lmtp_router._lines import passed_lines, recipient_lines
from lmtp_router.journal import Journal, Passed, _each
from lmtp_router.privacy import Disclosure
from lmtp_router.protocol import codec
from lmtp_router.protocol._envelope import plain_envelope, take_lines
from lmtp_router.protocol.types import Data, Rcpt

PLAIN = b"MAIL FROM:<a@b> SIZE=1\r\nRCPT TO:<u1@example.org>\r\nRCPT TO:<u2>\r\nDATA\r\n"
lines = st.one_of(
    st.sampled_from(
        [b"MAIL FROM:<a@b>", b"RCPT TO:<u@example.org>", b"RCPT TO:<u>", b"DATA", b"rcpt to:<u>", b"RCPT TO:<@a:u>"]
    ),
    st.binary(max_size=12).map(lambda raw: b"RCPT TO:<%b>" % raw),
    st.text(alphabet='<>"\\@: a\x7f', max_size=8).map(lambda text: b"RCPT TO:" + text.encode()),
)


def test_an_envelope() -> None:
    assert plain_envelope(PLAIN) == (b"MAIL FROM:<a@b> SIZE=1", [b"<u1@example.org>", b"<u2>"])
    for cut in range(len(PLAIN)):
        assert plain_envelope(PLAIN[:cut]) is None
    assert plain_envelope(PLAIN + b"x") is None
    assert plain_envelope(PLAIN.replace(b"u2", b"u" * 600)) is None
    assert plain_envelope(b"MAIL FROM:<a@b>\r\nDATA\r\n") is None
    assert plain_envelope(PLAIN.replace(b"1\r\n", b"1\n")) is None


@given(st.lists(lines, max_size=5), st.sampled_from([b"\r\n", b"\n", b"\r\r\n"]))
def test_envelopes_are_those_of_the_codec(said: list[bytes], end: bytes) -> None:
    octets = b"".join(line + end for line in [b"MAIL FROM:<>", *said, b"DATA"])
    found = plain_envelope(octets)
    if found is None:
        return
    first, paths = found
    commands = [codec.parse_command(line) for line in octets.split(b"\r\n")[1:-1]]
    assert first == b"MAIL FROM:<>"
    assert commands == [*(Rcpt(path) for path in paths), Data()]


replies = st.one_of(
    st.sampled_from([b"250 2.1.5 ok", b"250 ", b"250", b"250-x", b"354 go", b"450 4.2.1 x", b"250 \xff", b"250 a\tb"]),
    st.binary(max_size=6).map(lambda raw: b"250 " + raw),
)


@given(st.lists(replies, max_size=6), st.integers(0, 4), st.integers(0, 8))
def test_replies_are_those_of_the_codec(said: list[bytes], count: int, cut: int) -> None:
    octets = b"".join(reply + b"\r\n" for reply in said)
    octets = octets[: max(len(octets) - cut, 0)]
    taken: list[bytes] = []
    at = take_lines(octets, 0, count, b"250 ", taken)
    try:
        parsed = [reply.raw for reply in codec.ReplyParser().feed(octets)]
    except RemoteProtocolError:
        parsed = None
    if parsed is not None:
        assert taken == parsed[: len(taken)]
    assert len(taken) <= count
    if at >= 0:
        assert b"".join(taken) == octets[:at]
        assert len(taken) == count or b"\r\n" not in octets[at:] or parsed is None
    elif parsed is not None and len(parsed) > len(taken):
        assert not parsed[len(taken)].startswith(b"250 ") or len(parsed[len(taken)]) > 2048


def test_replies_piece_by_piece() -> None:
    octets = b"250 2.1.0 ok\r\n250 2.1.5 a\r\n250 2.1.5 a\r\n354 go\r\n"
    for cut in range(len(octets)):
        taken: list[bytes] = []
        at = take_lines(octets[:cut], 0, 3, b"250 ", taken)
        assert at >= 0
        at = take_lines(octets, at, 3 - len(taken), b"250 ", taken)
        assert len(taken) == 3
        assert take_lines(octets, at, 1, b"354 ", taken) == len(octets)
    assert taken[1] is taken[2] or taken[1] == taken[2]
    assert take_lines(b"250 " + b"x" * 3000, 0, 1, b"250 ", []) == -1
    with pytest.raises(ValueError, match="offset"):
        take_lines(b"", 1, 1, b"250 ", [])


paths = st.lists(st.sampled_from([b"<u@example.org>", b"<a b>", b'<"x"@y>', b"<\xc3\xa9>", b"<=>"]), max_size=4)


@given(paths, st.lists(st.floats(0.001, 200), min_size=4, max_size=4), st.integers(0, 10**9))
def test_lines_are_those_of_recipients_one_by_one(to: list[bytes], times: list[float], size: int) -> None:
    asked, opened, ended, at = sorted(times)
    said = [b"250 2.1.5 %d\r\n" % (n // 2) for n in range(len(to))]
    parts = [Passed(server, to, said, asked, opened, ended, at) for server in ("be1", "b e2")]
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
        parts = [Passed("a", [b"<u@x>", b"<v@x>"], [b"250 ok\r\n"] * 2, 1.0, 2.0, 3.0, 4.0)]
        parts.append(Passed("b", [b"<w@x>"], [b"250 ok\r\n"], 1.0, 1.5, 3.0, 3.5))
        whole.passed("s-1", b"<f@b>", parts, 10)
        single.note("s-1", b"<f@b>", [one for part in parts for one in _each(part, 10)])
    finally:
        logging.setup()
    assert (whole.tally.express, single.tally.express) == (1, 0)
    whole.tally.express = 0
    assert whole.tally == single.tally
    written = stream.getvalue().splitlines()
    assert len(written) == 6
    assert [line.split(" ", 1)[1] for line in written[:3]] == [line.split(" ", 1)[1] for line in written[3:]]
    assert ("<u@x>" in stream.getvalue()) is (disclosure is Disclosure.FULL)
