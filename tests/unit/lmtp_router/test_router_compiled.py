"""The compiled short cuts say what the Python that they stand for says."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyrusext.runtime import logging
from lmtp_router._lines import recipient_lines
from lmtp_router.journal import Done, Journal
from lmtp_router.privacy import Disclosure
from lmtp_router.protocol import codec
from lmtp_router.protocol._plain import plain_command
from lmtp_router.protocol.types import Rcpt, Reply
from lmtp_router.recipient import Recipient, Times
from lmtp_router.results import Slot
from lmtp_router.turn import JOINED, Outlet, Turn
from tests.harness.sandbox import CHECKOUT

paths = st.one_of(
    st.from_regex(rb"<[a-z0-9.+\-_]{0,20}@[a-z0-9.\-]{0,20}>", fullmatch=True),
    st.binary(max_size=40).map(lambda raw: b"<%b>" % raw),
    st.text(alphabet=' ab@<>"\\:;=é\t', max_size=12).map(lambda text: text.encode()),
)
replies = st.one_of(
    st.sampled_from(
        [b"250 2.1.5 OK\r\n", b"250\r\n", b"250 \r\n", b"452-4.2.2 a\r\n452 4.2.2 b\r\n", b'550 5.1.1 "x"=y\r\n']
    )
)
seconds = st.one_of(st.floats(0, 200), st.sampled_from([0.0, 1e-5, 0.00004, 98.99999, 1e6]))


@given(
    st.lists(st.tuples(paths, replies, st.integers(0, 10**12), st.lists(seconds, min_size=6, max_size=6)), max_size=3)
)
def test_lines_are_those_of_the_logger(drawn: list[tuple[bytes, bytes, int, list[float]]]) -> None:
    done = []
    for path, raw, size, (started, asked, linked, opened, ended, at) in drawn:
        one = Recipient(Rcpt(path), Slot(), started)
        one.server, one.times = "be1", Times()
        times = one.times
        times.asked, times.linked, times.opened, times.ended = asked, linked, opened, ended
        done.append(Done(one, Reply(int(raw[:3]), raw), size, at))
    stream = io.StringIO()
    journal = Journal(Disclosure.FULL)
    logging.setup("info", stream)
    try:
        logging.get().info_lines("lmtp.recipient", [journal._fields("s-1", b"<a b@c>", one) for one in done])
    finally:
        logging.setup()
    written = recipient_lines("lmtp.recipient", "s-1", b"<a b@c>", done).decode()
    ours, theirs = ([_fields_of(line) for line in text.splitlines()] for text in (written, stream.getvalue()))
    assert len(ours) == len(theirs) == len(done)
    for mine, other in zip(ours, theirs, strict=True):
        assert [name for name, _ in mine] == [name for name, _ in other]
        for (name, value), (_, wanted) in zip(mine[1:], other[1:], strict=True):
            if name.endswith("_ms"):
                assert float(value) == pytest.approx(float(wanted), abs=0.11, rel=1e-5)
            else:
                assert value == wanted


def _fields_of(line: str) -> list[tuple[str, str]]:
    """Split at the blanks that are not inside quotes."""
    found, quoted, start = [], False, 0
    for at, character in enumerate(line + " "):
        if character == '"' and line[at - 1 : at] != "\\":
            quoted = not quoted
        elif character == " " and not quoted:
            name, _, value = line[start:at].partition("=")
            found.append((name, value))
            start = at + 1
    return found


@given(
    st.sampled_from([b"RCPT TO:", b"MAIL FROM:", b"DATA", b"rcpt to:", b"RCPT  TO:"]),
    paths,
    st.sampled_from([b"", b" ", b" SIZE=1", b"\r", b"\0"]),
)
def test_plain_commands_are_those_of_the_codec(verb: bytes, path: bytes, rest: bytes) -> None:
    line = verb + path + rest if verb != b"DATA" else verb + rest
    found = plain_command(line)
    if found is not None:
        codec_says = codec._VERBS[line.partition(b" ")[0].upper()](line.partition(b" ")[2])
        assert found == codec_says


def test_most_commands_are_plain() -> None:
    assert plain_command(b"RCPT TO:<u0000001@example.org>") == Rcpt(b"<u0000001@example.org>")
    assert plain_command(b"DATA") is not None
    assert plain_command(b"MAIL FROM:<>") is not None
    assert plain_command(b"RCPT TO:<@hop:u@example.org>") is None


class Recorder:
    def __init__(self) -> None:
        self.calls: list[object] = []
        self.closing = False

    def write(self, octets: bytes) -> None:
        self.calls.append(octets)

    def writelines(self, pieces: list[bytes]) -> None:
        self.calls.append(list(pieces))

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return self.closing


def outlet() -> tuple[Outlet, Turn, Recorder, list[object]]:
    due: list[object] = []
    turn, recorder = Turn(due.append), Recorder()
    return Outlet(recorder, turn), turn, recorder, due  # type: ignore[arg-type]


def test_pieces_of_one_turn_are_one_write() -> None:
    out, turn, recorder, due = outlet()
    out.write(b"a")
    out.write(b"b")
    assert (recorder.calls, len(due)) == ([], 1)
    turn.run()
    assert recorder.calls == [b"ab"]
    out.write(b"c" * JOINED)
    out.write(b"d")
    turn.run()
    assert recorder.calls[1:] == [[b"c" * JOINED, b"d"]], "large pieces are not copied"


def test_what_is_asked_of_an_outlet_is_done_in_order() -> None:
    out, turn, recorder, _ = outlet()
    out.write(b"last words")
    out.close()
    turn.run()
    assert recorder.calls == [b"last words", "close"]
    out.write(b"never said")
    out.abort()
    turn.run()
    assert recorder.calls[2:] == ["abort"]


def test_what_was_lost_meanwhile_is_not_written_to() -> None:
    stream, turn, recorder, _ = outlet()
    stream.write(b"a")
    recorder.closing = True
    turn.run()
    stream.write_eof()
    stream.resume_reading()
    assert recorder.calls == []


def test_what_was_said_before_is_not_said_again() -> None:
    stream, turn, recorder, _ = outlet()
    stream.expect(b"abcdef")
    stream.write(b"abc")
    stream.write(b"defgh")
    turn.run()
    assert recorder.calls == [b"gh"]
    stream.expect(b"x")
    stream.write(b"y")
    stream.write(b"more")
    turn.run()
    assert recorder.calls == [b"gh", "abort"], "two that do not know the same must not go on"


def test_a_turn_does_what_comes_of_it_and_survives_an_error() -> None:
    due: list[object] = []
    turn, seen = Turn(due.append), []

    def more() -> None:
        seen.append(1)
        turn.soon(lambda: seen.append(2))

    def broken() -> None:
        raise RuntimeError

    turn.soon(more)
    turn.run()
    assert (seen, len(due)) == ([1, 2], 1)
    turn.soon(broken)
    turn.soon(more)
    with pytest.raises(RuntimeError):
        turn.run()
    assert len(due) == 3, "the rest is done in the next turn"
    turn.run()
    assert seen == [1, 2, 1, 2]


def test_a_turn_that_had_much_to_write_waits_for_more() -> None:
    due: list[Callable[[], object]] = []
    turn, recorder = Turn(due.append), Recorder()
    streams = [Outlet(recorder, turn) for _ in range(4)]  # type: ignore[arg-type]

    def rounds(*writing: Outlet) -> int:
        """How many rounds of the loop it takes until what is written is out."""
        for stream in writing:
            stream.write(b"x")
        before, count = len(recorder.calls), 0
        while len(recorder.calls) == before:
            due.pop(0)()
            count += 1
        assert len(recorder.calls) - before == len(writing)
        assert not due
        return count

    assert [rounds(*streams[:few]) for few in (1, 2, 3, 3, 2, 1, 1)] == [1, 1, 1, 2, 2, 1, 1]


@pytest.mark.parametrize(
    "name", ["session", "transaction", "delivery", "_express", "backends", "protocol.client", "protocol.server", "turn"]
)
def test_the_data_path_is_compiled(name: str) -> None:
    module = importlib.import_module(f"lmtp_router.{name}")
    assert Path(str(module.__file__)).suffix == ".so"
    assert (CHECKOUT / "lmtp_router" / f"{name.replace('.', '/')}.pxd").exists()


def test_lines_are_written_together() -> None:
    later: list[tuple[float, object]] = []
    stream = io.StringIO()
    logging.setup("info", stream)
    try:
        journal = Journal(Disclosure.FULL, later=lambda seconds, flush: later.append((seconds, flush)))
        one = Recipient(Rcpt(b"<u@example.org>"), Slot(), 0.0)
        for _ in range(2):
            journal.note("s-1", b"<>", [Done(one, Reply(250, b"250 OK\r\n"), 1, 1.0)])
        assert (stream.getvalue(), len(later)) == ("", 1)
        journal.flush()
        assert len(stream.getvalue().splitlines()) == 2
    finally:
        logging.setup()
