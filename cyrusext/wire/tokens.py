"""Tokens of a framed message: atoms, quoted strings, literals; and the same back into bytes.

Rule: exactly one blank stands between two tokens and none at the ends (Cyrus refuses everything else).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cyrusext.errors import RemoteProtocolError
from cyrusext.wire.types import Message


class Atom(bytes):
    """A bare word; quoted strings and literals come as plain `bytes`."""

    __slots__ = ()


Token = Atom | bytes

# A backslash makes the next byte stand for itself, whichever it is: Cyrus reads so, RFC 3656 knows only \" and \\.
_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*)"(?= |\Z)|([^" {}][^" ]*)(?= |\Z)', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_TO_ESCAPE = re.compile(rb'(["\\])')
_UNQUOTABLE = re.compile(rb"[\0\r\n]")


def tokenize(message: Message | Sequence[bytes]) -> list[Token]:
    """Return the tokens of `message` (line, literal, line, ... line; see wire.types.Message).

    Raises RemoteProtocolError for a stray blank, an unterminated quoted string, and a literal or quoted string that
    touches another token.
    """
    tokens: list[Token] = []
    last = len(message) - 1
    for index, part in enumerate(message):
        if index & 1:
            tokens.append(part)
            continue
        if index and part:
            if not part.startswith(b" "):
                raise RemoteProtocolError("no blank after a literal")
            if index < last and len(part) == 1:
                continue
            part = part[1:]
            if not part:
                raise RemoteProtocolError("blank at the end of a line")
        elif index and index < last:
            raise RemoteProtocolError("no blank between two literals")
        if index < last and part:
            if not part.endswith(b" "):
                raise RemoteProtocolError("no blank before a literal")
            part = part[:-1]
            if not part:
                raise RemoteProtocolError("two blanks before a literal")
        if part:
            _scan(part, tokens)
    return tokens


def _scan(line: bytes, tokens: list[Token]) -> None:
    position = 0
    end = len(line)
    while True:
        found = _TOKEN.match(line, position)
        if found is None:
            raise RemoteProtocolError("stray blank or unterminated quoted string")
        quoted, atom = found.groups()
        if atom is not None:
            tokens.append(Atom(atom))
        else:
            tokens.append(_ESCAPED.sub(rb"\1", quoted) if b"\\" in quoted else quoted)
        position = found.end() + 1
        if position > end:
            return


def quoted(value: bytes) -> bytes:
    """Return `value` as a quoted string; raises ValueError for NUL, CR and LF, which only a literal may hold."""
    if _UNQUOTABLE.search(value):
        raise ValueError("NUL, CR and LF can not stand in a quoted string")
    return b'"%b"' % _TO_ESCAPE.sub(rb"\\\1", value)


def literal(value: bytes) -> bytes:
    """Return `value` as a non-synchronising literal."""
    return b"{%d+}\r\n%b" % (len(value), value)
