"""What the framer gives out: messages, refused messages, the wish for a go-ahead; and the limits that it keeps.

Rule: a refused message says why, and whether the next message's beginning is still known (`Poisoned.fatal`).
"""

from __future__ import annotations

import enum
from typing import NamedTuple

Message = tuple[bytes, ...]
"""One message: line, literal, line, literal, ... line.

An odd number of parts.  Lines come without their line end and without the ``{n}`` or ``{n+}`` that announced the
literal after them, so literal data can never be taken for anything else.
"""


class Signal(enum.Enum):
    """What the framer says besides messages."""

    GO_AHEAD = "go ahead"
    """A synchronising literal ``{n}`` is within the limits; its sender waits for ``+ go ahead``."""


class Problem(enum.Enum):
    """Why a message was refused; the value is the sentence for the peer."""

    LINE_TOO_LONG = "line too long"
    LITERAL_TOO_LONG = "literal too long"
    MESSAGE_TOO_LONG = "message too long"
    TOO_MANY_LITERALS = "too many literals"
    BARE_CR = "CR without LF"
    BARE_LF = "LF without CR"
    NUL = "NUL in a line"


class Poisoned(NamedTuple):
    """A message that was read past, not kept.

    ``head`` is the beginning of its first line (at most `HEAD` bytes: enough for a tag).  ``fatal``: the framer gave up
    looking for its end; nothing more will be read and the connection has to be closed.
    """

    head: bytes
    problem: Problem
    fatal: bool


HEAD = 256
"""Bytes of a refused message's first line that are kept."""


class Limits(NamedTuple):
    """Bounds of one message, in bytes (`literals`: a count)."""

    line: int = 65536
    """One line, without its end.  A longer one ends the connection."""
    literal: int = 1 << 20
    """One literal."""
    message: int = (1 << 20) + (1 << 17)
    """All lines and literals of one message."""
    literals: int = 40
    """Literals in one message."""
    drain: int = 1 << 22
    """How much of one refused message is read past before the connection is given up."""
