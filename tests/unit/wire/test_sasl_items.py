"""SASL items: base64, PLAIN, and a Secret that keeps itself."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest

from cyrusext.errors import RemoteProtocolError
from cyrusext.wire.sasl import PlainMessage, Secret, build_plain, decode_item, encode_item, parse_plain


@pytest.mark.parametrize("value", [b"", b"\0murder\0pw", b"n,,n=murder,r=x", bytes(range(256))])
def test_items_both_ways(value: bytes) -> None:
    assert decode_item(encode_item(value)) == Secret(value)
    assert encode_item(Secret(value)) == encode_item(value)
    assert b"\n" not in encode_item(value)


@pytest.mark.parametrize(
    "line", [b"*", b"=", b"abc", b"ab=c", b"AAAA=", b"AB==", b"AA AA", b"AA\0A", b"\xff\xff\xff\xff", b"AAA"]
)
def test_what_is_not_base64(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_item(line)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\0murder\0pw", PlainMessage("", "murder", Secret(b"pw"))),
        (b"a\0murder\0p w", PlainMessage("a", "murder", Secret(b"p w"))),
        ("\0ü\0é".encode(), PlainMessage("", "ü", Secret("é".encode()))),
    ],
)
def test_plain_both_ways(value: bytes, message: PlainMessage) -> None:
    assert parse_plain(Secret(value)) == message
    assert build_plain(message.authcid, message.password, message.authzid) == Secret(value)


@pytest.mark.parametrize(
    "value", [b"", b"\0", b"\0\0", b"murder\0pw", b"\0murder\0", b"\0\0pw", b"\0a\0b\0c", b"\0\xff\0pw"]
)
def test_what_is_no_plain_message(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_plain(Secret(value))


@pytest.mark.parametrize(("user", "password"), [("", b"x"), ("x", b""), ("a\0b", b"x"), ("a", b"x\0")])
def test_plain_that_can_not_be_built(user: str, password: bytes) -> None:
    with pytest.raises(ValueError, match="PLAIN"):
        build_plain(user, Secret(password))


def test_a_secret_never_shows() -> None:
    secret = Secret(b"hunter2")
    shown = [repr(secret), str(secret), f"{secret}", repr([secret]), repr(parse_plain(Secret(b"\0u\0hunter2")))]
    assert not any("hunter2" in text for text in shown)
    assert secret.reveal() == b"hunter2"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.copy(secret)
    with pytest.raises(TypeError):
        hash(secret)
    assert secret != b"hunter2"
    assert secret != Secret(b"hunter3")


def test_a_wrong_item_is_not_in_the_traceback() -> None:
    try:
        decode_item(b"aHVudGVyMg==hunter2")
    except RemoteProtocolError as error:
        assert "hunter2" not in "".join(traceback.format_exception_only(error))
        assert error.__suppress_context__
    else:
        pytest.fail("taken")
