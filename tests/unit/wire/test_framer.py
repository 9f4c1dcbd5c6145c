"""The framer: each case fed whole, byte by byte, and with more behind it."""

from __future__ import annotations

import pytest

from cyrusext.wire.framer import Framer, Limits, Message, Poisoned, Problem, Signal

SMALL = Limits(line=40, literal=20, message=60, literals=3, drain=100)
GO_AHEAD = Signal.GO_AHEAD
Out = list[Message | Poisoned | Signal]


def drain(framer: Framer) -> Out:
    out: Out = []
    while (event := framer.next_message()) is not None:
        out.append(event)
    return out


def feed3(data: bytes, expected: Out, limits: Limits = SMALL, *, bare_lf: bool = True) -> None:
    """`data` gives `expected`: fed at once, byte by byte, and with a command and a half behind it."""
    framer = Framer(limits, bare_lf=bare_lf)
    framer.feed(data)
    assert drain(framer) == expected

    framer = Framer(limits, bare_lf=bare_lf)
    out: Out = []
    for index in range(len(data)):
        framer.feed(data[index : index + 1])
        out += drain(framer)
    assert out == expected

    framer = Framer(limits, bare_lf=bare_lf)
    framer.feed(data + b"z NOOP\r\nhalf")
    if expected and isinstance(expected[-1], Poisoned) and expected[-1].fatal:
        assert drain(framer) == expected
        assert framer.buffered == 0
    else:
        assert drain(framer) == [*expected, (b"z NOOP",)]
        assert framer.buffered == 4


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a NOOP\r\n", [(b"a NOOP",)]),
        (b"\r\n", [(b"",)]),
        (b"a NOOP\n", [(b"a NOOP",)]),  # quirk BARE_LF
        (b"a 1\r\nb 2\r\n", [(b"a 1",), (b"b 2",)]),
        (b"a F {3+}\r\nabc\r\n", [(b"a F ", b"abc", b"")]),
        (b"a F {3+}\nabc\n", [(b"a F ", b"abc", b"")]),
        (b"a F {0+}\r\n\r\n", [(b"a F ", b"", b"")]),
        (b"a F {003+}\r\nabc\r\n", [(b"a F ", b"abc", b"")]),
        (b"a F {3+}\r\nabc {2+}\r\nde f\r\n", [(b"a F ", b"abc", b" ", b"de", b" f")]),
        (b"a F {3+}\r\n\r\n\0\r\n", [(b"a F ", b"\r\n\0", b"")]),
        (b"a F {10+}\r\nb LOGOUT\r\n\r\n", [(b"a F ", b"b LOGOUT\r\n", b"")]),
        (b"a F {3}\r\nabc\r\n", [GO_AHEAD, (b"a F ", b"abc", b"")]),
        (b"a {1}\r\nb {1+}\r\nc {1}\r\nd\r\n", [GO_AHEAD, GO_AHEAD, (b"a ", b"b", b" ", b"c", b" ", b"d", b"")]),
        # what looks like a literal and is none
        (b"a {}\r\n", [(b"a {}",)]),
        (b"a {+}\r\n", [(b"a {+}",)]),
        (b"a {3x}\r\n", [(b"a {3x}",)]),
        (b"a {-3}\r\n", [(b"a {-3}",)]),
        (b"a {3++}\r\n", [(b"a {3++}",)]),
        (b"a 3+}\r\n", [(b"a 3+}",)]),
        (b'a "{3}"\r\n', [(b'a "{3}"',)]),
        (b"a {3} \r\n", [(b"a {3} ",)]),
        # and what is one wherever it stands: its data must not become a command
        (b"{3+}\r\nabc\r\n", [(b"", b"abc", b"")]),
        (b"a x{3+}\r\nabc\r\n", [(b"a x", b"abc", b"")]),
        (b'a "x {3+}\r\nabc\r\n', [(b'a "x ', b"abc", b"")]),
    ],
)
def test_messages(data: bytes, expected: Out) -> None:
    feed3(data, expected)


def poisoned(head: bytes, problem: Problem, *, fatal: bool = False) -> Poisoned:
    return Poisoned(head, problem, fatal)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a \0 b\r\n", [poisoned(b"a \0 b", Problem.NUL)]),
        (b"a \r b\r\n", [poisoned(b"a \r b", Problem.BARE_CR)]),
        (b"a \r\r\n", [poisoned(b"a \r", Problem.BARE_CR)]),
        (b"a \r {4+}\r\nx\r\ny\r\n", [poisoned(b"a \r {4+}", Problem.BARE_CR)]),
        (b"a {2+}\r\nxy\0\r\n", [poisoned(b"a {2+}", Problem.NUL)]),
        # a literal over its limit is read past, and so is the rest of its message
        (b"a F {21+}\r\n" + b"x" * 21 + b" {2+}\r\nyz\r\n", [poisoned(b"a F {21+}", Problem.LITERAL_TOO_LONG)]),
        # one that waits is told no and not awaited
        (b"a F {21}\r\n", [poisoned(b"a F {21}", Problem.LITERAL_TOO_LONG)]),
        (b"a F {21+}\r\n" + b"x" * 21 + b" {2}\r\n", [poisoned(b"a F {21+}", Problem.LITERAL_TOO_LONG)]),
        (b"a F {50000000}\r\n", [poisoned(b"a F {50000000}", Problem.LITERAL_TOO_LONG)]),
        # too much to read past
        (b"a F {50000000+}\r\n", [poisoned(b"a F {50000000+}", Problem.LITERAL_TOO_LONG, fatal=True)]),
        (b"a F {101+}\r\n", [poisoned(b"a F {101+}", Problem.LITERAL_TOO_LONG, fatal=True)]),
        (
            b"a F {" + b"9" * 30 + b"+}\r\n",
            [poisoned(b"a F {" + b"9" * 30 + b"+}", Problem.LITERAL_TOO_LONG, fatal=True)],
        ),
        (
            b"a F {60+}\r\n" + b"x" * 60 + b" {60+}\r\n",
            [poisoned(b"a F {60+}", Problem.LITERAL_TOO_LONG, fatal=True)],
        ),
        # lines
        (b"a" * 40 + b"\r\n", [(b"a" * 40,)]),
        (b"a" * 41 + b"\r\n", [poisoned(b"a" * 40, Problem.LINE_TOO_LONG, fatal=True)]),
        (b"a" * 42, [poisoned(b"a" * 40, Problem.LINE_TOO_LONG, fatal=True)]),
        (b"a {1+}\r\nb" + b"c" * 41 + b"\n", [poisoned(b"a {1+}", Problem.LINE_TOO_LONG, fatal=True)]),
        # all lines and literals together
        (
            b"a {20+}\r\n" + b"x" * 20 + b" {20+}\r\n" + b"y" * 20 + b" " + b"z" * 20 + b"\r\n",
            [poisoned(b"a {20+}", Problem.MESSAGE_TOO_LONG)],
        ),
        (
            b"a {20+}\r\n" + b"x" * 20 + b" {20+}\r\n" + b"y" * 20 + b" {20+}\r\n" + b"z" * 20 + b"\r\n",
            [poisoned(b"a {20+}", Problem.MESSAGE_TOO_LONG)],
        ),
        (b"a {1+}\r\nb {1+}\r\nc {1+}\r\nd {1+}\r\ne\r\n", [poisoned(b"a {1+}", Problem.TOO_MANY_LITERALS)]),
    ],
)
def test_refused_messages(data: bytes, expected: Out) -> None:
    feed3(data, expected)


def test_bare_lf_can_be_refused() -> None:
    feed3(b"a NOOP\r\n", [(b"a NOOP",)], bare_lf=False)
    framer = Framer(SMALL, bare_lf=False)
    framer.feed(b"a NOOP\nb NOOP\r\n")
    assert drain(framer) == [poisoned(b"a NOOP", Problem.BARE_LF), (b"b NOOP",)]


def test_a_poisoned_message_keeps_no_memory() -> None:
    limits = Limits(drain=1 << 22)
    framer = Framer(limits)
    framer.feed(b"a F {4000000+}\r\n")
    for _ in range(4000):
        framer.feed(b"x" * 1000)
        assert framer.next_message() is None
        assert framer.buffered <= 1000
    framer.feed(b"\r\n")
    assert framer.next_message() == poisoned(b"a F {4000000+}", Problem.LITERAL_TOO_LONG)


def test_nothing_is_read_after_a_fatal_problem() -> None:
    framer = Framer(SMALL)
    framer.feed(b"a" * 100 + b"\r\nb NOOP\r\n")
    assert drain(framer) == [poisoned(b"a" * 40, Problem.LINE_TOO_LONG, fatal=True)]
    assert framer.dead
    framer.feed(b"c NOOP\r\n")
    assert framer.next_message() is None
    assert framer.next_line() is None
    assert framer.buffered == 0


def test_clear_forgets_half_a_message() -> None:
    framer = Framer(SMALL)
    framer.feed(b"a F {3+}\r\nab")
    assert framer.next_message() is None
    assert framer.clear() == 2
    framer.feed(b"b NOOP\r\n")
    assert drain(framer) == [(b"b NOOP",)]


def test_lines_of_an_exchange_have_no_literals() -> None:
    framer = Framer(SMALL)
    framer.feed(b"x{3+}\r\n\r\ny\0\r\nz\nhalf")
    assert framer.next_line() == b"x{3+}"
    assert framer.next_line() == b""
    assert framer.next_line() == poisoned(b"", Problem.NUL)
    assert framer.next_line() == b"z"
    assert framer.next_line() is None
    framer.feed(b"x" * 100)
    assert framer.next_line() == poisoned(b"", Problem.LINE_TOO_LONG, fatal=True)


def test_limits_can_be_raised_between_messages() -> None:
    framer = Framer(SMALL)
    framer.limits = SMALL._replace(line=100, message=100)
    framer.feed(b"a" * 90 + b"\r\n")
    assert drain(framer) == [(b"a" * 90,)]
    assert framer.limits.line == 100
