"""Items of a SASL exchange: secrets, their base64 form, and the PLAIN message (RFC 4616).

Rule: what a peer sent to prove who it is lives in a `Secret` from the moment it is decoded, and a Secret never shows
its value in a log, a traceback or a repr.
"""

from __future__ import annotations

import binascii
import hmac
from typing import NamedTuple, NoReturn

from cyrusext.errors import RemoteProtocolError


class Secret:
    """Bytes that must not be shown: `reveal` is the only way to them."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the bytes themselves."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a secret is no key of anything

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret can not be pickled")


class PlainMessage(NamedTuple):
    """What a PLAIN client says (RFC 4616 section 2); `authzid` is empty when it is to be derived from `authcid`."""

    authzid: str
    authcid: str
    password: Secret


def decode_item(line: bytes) -> Secret:
    """Return what one base64 line of an exchange holds; an empty line is an empty item.

    Raises RemoteProtocolError for anything that is not canonical base64.
    """
    try:
        value = binascii.a2b_base64(line, strict_mode=True) if line else b""
    except binascii.Error:
        raise RemoteProtocolError("SASL item is not base64") from None
    # The strict mode is not strict about everything that stands at the end.
    if not hmac.compare_digest(binascii.b2a_base64(value, newline=False), line):
        raise RemoteProtocolError("SASL item is not canonical base64")
    return Secret(value)


def encode_item(item: Secret | bytes) -> bytes:
    """Return the base64 form of one item, without a line end."""
    return binascii.b2a_base64(item.reveal() if isinstance(item, Secret) else item, newline=False)


def parse_plain(item: Secret) -> PlainMessage:
    """Split a PLAIN message: authzid NUL authcid NUL password, in UTF-8.

    Raises RemoteProtocolError for another number of parts, an empty authcid or password, and invalid UTF-8.
    """
    parts = item.reveal().split(b"\0")
    if len(parts) != 3:
        raise RemoteProtocolError("PLAIN message has not three parts")
    authzid, authcid, password = parts
    if not authcid or not password:
        raise RemoteProtocolError("PLAIN message without user name or password")
    try:
        return PlainMessage(authzid.decode(), authcid.decode(), Secret(password))
    except UnicodeDecodeError:
        raise RemoteProtocolError("PLAIN message is not UTF-8") from None


def build_plain(authcid: str, password: Secret, authzid: str = "") -> Secret:
    """Return the PLAIN message of a user; raises ValueError where a part has a NUL or must not be empty."""
    if not authcid or not password.reveal():
        raise ValueError("PLAIN needs a user name and a password")
    parts = [authzid.encode(), authcid.encode(), password.reveal()]
    if any(b"\0" in part for part in parts):
        raise ValueError("NUL can not stand in a PLAIN message")
    return Secret(b"\0".join(parts))
