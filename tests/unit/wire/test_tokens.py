"""Tokens of framed messages, both ways."""

from __future__ import annotations

import pytest

from cyrusext.errors import RemoteProtocolError
from cyrusext.wire.framer import Framer, Poisoned
from cyrusext.wire.tokens import Atom, Token, literal, quoted, tokenize


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ((b"",), []),
        ((b"NOOP",), [Atom(b"NOOP")]),
        ((b"a-b*c {",), None),
        ((b"t.a-g*1 FIND",), [Atom(b"t.a-g*1"), Atom(b"FIND")]),
        ((b'"a b" c',), [b"a b", Atom(b"c")]),
        ((b'""',), [b""]),
        ((rb'"q\"u\\o"',), [rb"q" + b'"u' + b"\\o"]),
        ((rb'"\u"',), [b"u"]),  # quirk ANY_ESCAPE
        (('"é"'.encode(),), ["é".encode()]),  # quirk EIGHT_BIT
        ((b"", b"lit", b""), [b"lit"]),
        ((b"a ", b"lit", b""), [Atom(b"a"), b"lit"]),
        ((b"a ", b"l1", b" ", b"l2", b' "q"'), [Atom(b"a"), b"l1", b"l2", b"q"]),
        ((b"a ", b"l1", b" b ", b"l2", b""), [Atom(b"a"), b"l1", Atom(b"b"), b"l2"]),
    ],
)
def test_tokens(message: tuple[bytes, ...], tokens: list[Token] | None) -> None:
    if tokens is None:
        with pytest.raises(RemoteProtocolError):
            tokenize(message)
        return
    found = tokenize(message)
    assert found == tokens
    assert [type(token) for token in found] == [type(token) for token in tokens]


@pytest.mark.parametrize(
    "message",
    [
        (b" ",),
        (b" a",),
        (b"a ",),
        (b"a  b",),
        (b'"a',),
        (b'a"b"',),
        (b'"a"b',),
        (b'"a""b"',),
        (b'"a\\"',),
        (b"{3} b",),
        (b"a", b"lit", b""),
        (b"a  ", b"lit", b""),
        (b" ", b"lit", b""),
        (b"a ", b"lit", b"b"),
        (b"a ", b"lit", b" "),
        (b"a ", b"l1", b"", b"l2", b""),
        (b"a ", b"l1", b"  ", b"l2", b""),
    ],
)
def test_what_is_no_row_of_tokens(message: tuple[bytes, ...]) -> None:
    with pytest.raises(RemoteProtocolError):
        tokenize(message)


@pytest.mark.parametrize("value", [b"", b"a", b'q"u\\o', b"user.\xc3\xa9", b" {3}", bytes(range(1, 10))])
def test_quoted_and_back(value: bytes) -> None:
    assert tokenize((quoted(value),)) == [value]


@pytest.mark.parametrize("value", [b"a\0b", b"a\rb", b"a\nb"])
def test_what_can_not_be_quoted(value: bytes) -> None:
    with pytest.raises(ValueError, match="quoted string"):
        quoted(value)


@pytest.mark.parametrize("value", [b"", b"a", b"\r\n\0", b"x {3+}\r\n"])
def test_literal_and_back(value: bytes) -> None:
    framer = Framer()
    framer.feed(literal(value) + b"\r\n")
    message = framer.next_message()
    assert isinstance(message, tuple)
    assert not isinstance(message, Poisoned)
    assert tokenize(message) == [value]
