"""AUTH as clients say it, and its lines of base64 (RFC 4954, RFC 4648 section 4).

Rule: what proves who a client is, is a `Secret` from the moment that it is decoded; no refusal repeats any of it.
"""

from __future__ import annotations

import re

from cyrusext.errors import RemoteProtocolError
from cyrusext.wire.sasl import Secret, decode_item
from lmtp_router.protocol.parameters import SYNTAX
from lmtp_router.protocol.types import Auth, AuthResponse, Refused, reply

MAX_RESPONSE = 12288
"""Longest line of a response in octets with its CRLF (RFC 4954 section 4)."""
MECHANISM = b"PLAIN"
"""The one that is offered; others would need passwords that most who check them do not have."""

NOT_OFFERED = reply(502, "5.5.1 AUTH is not offered to you as you come")
UNKNOWN_MECHANISM = reply(504, "5.5.4 Mechanism is not offered")
ALREADY = reply(503, "5.5.1 You are logged in")
REQUIRED = reply(530, "5.7.0 Authentication required")
CANCELLED = reply(501, "5.7.0 Authentication cancelled")
NOT_BASE64 = reply(501, "5.5.2 Response is not base64")
LONG_RESPONSE = reply(500, "5.5.6 Response is too long")

# RFC 4422 section 3.1: at most 20 of these; one that is in lower case is not refused for that.
_NAME = re.compile(rb"[A-Za-z0-9_-]{1,20}\Z")


def parse_auth(argument: bytes) -> Auth | Refused:
    """Parse what stands behind AUTH: a mechanism, and an initial response where there is one (`=`: an empty one)."""
    name, blank, initial = argument.rstrip(b" ").partition(b" ")
    if not _NAME.match(name):
        return Refused(SYNTAX)
    if not blank:
        return Auth(name.upper())
    item = Secret(b"") if initial == b"=" else _decode(initial)
    return Auth(name.upper(), item) if item is not None else Refused(NOT_BASE64)


def parse_response(line: bytes) -> AuthResponse | Refused:
    """Parse a `line`, without its CRLF, that answers a challenge; `*` gives up."""
    if line == b"*":
        return Refused(CANCELLED)
    item = _decode(line)
    return AuthResponse(item) if item is not None else Refused(NOT_BASE64)


def _decode(line: bytes) -> Secret | None:
    try:
        return decode_item(line)
    except RemoteProtocolError:
        return None
