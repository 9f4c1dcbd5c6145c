"""The parameters of MAIL and RCPT, from a client and for a backend (RFC 1870, 3030, 3461, 6152, 6531).

Rule: a parameter is understood, or the command is refused; what is passed on is what the client wrote.  Whether an
extension is offered here is the connection's to judge, whether a backend has it is the delivery's.
"""

from __future__ import annotations

import re

from lmtp_router.protocol.types import NOTHING, Mail, Rcpt, Refused, reply

SYNTAX = reply(501, "5.5.4 Syntax error in parameters")
UNKNOWN_PARAMETER = reply(555, "5.5.4 Parameter not recognised or not implemented")
TWICE = reply(501, "5.5.4 Parameter given twice")
BAD_SIZE = reply(501, "5.5.4 SIZE is not a number")
BAD_BODY = reply(501, "5.5.4 BODY is neither 7BIT nor 8BITMIME nor BINARYMIME")
BAD_UTF8 = reply(501, "5.5.4 SMTPUTF8 takes no value")
BAD_PRDR = reply(501, "5.5.4 PRDR takes no value")
BAD_RET = reply(501, "5.5.4 RET is neither FULL nor HDRS")
BAD_ENVID = reply(501, "5.5.4 ENVID is no xtext of at most 100 characters")
BAD_NOTIFY = reply(501, "5.5.4 NOTIFY is neither NEVER nor a list of SUCCESS, FAILURE and DELAY")
BAD_AUTH = reply(501, "5.5.4 AUTH is no xtext of at most 500 characters")
BAD_ORCPT = reply(501, "5.5.4 ORCPT is no address type and xtext of at most 500 characters")

SMTPUTF8 = b"SMTPUTF8"
DSN = b"DSN"
EIGHT_BIT = b"8BITMIME"
BINARY = b"BINARYMIME"
CHUNKING = b"CHUNKING"
AUTH = b"AUTH"

MAX_ENVID = 100
MAX_ORCPT = 500
"""Longest values in characters (RFC 3461 sections 4.2 and 4.4)."""
MAX_AUTH = 500
"""Longest value in characters (RFC 4954 section 3)."""

_BODY_NEEDS: dict[bytes, frozenset[bytes]] = {
    b"": NOTHING,
    b"7BIT": NOTHING,
    b"8BITMIME": frozenset({EIGHT_BIT}),
    b"BINARYMIME": frozenset({BINARY, CHUNKING}),
}
_UTF8_NEEDS = frozenset({SMTPUTF8})
_DSN_NEEDS = frozenset({DSN})
_AUTH_NEEDS = frozenset({AUTH})

_KEY = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]*\Z")
_VALUE = re.compile(rb"[\x21-\x3c\x3e-\x7e\x80-\xff]+\Z")
_DIGITS = re.compile(rb"[0-9]{1,20}\Z")
# RFC 3461 section 4: xtext; hexadecimal digits are upper case.
_XTEXT = re.compile(rb"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*\Z")
# RFC 6533 section 3: utf-8-addr-xtext and utf-8-addr-unitext.
_UNITEXT = re.compile(
    rb"(?:[\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e\x80-\xff]|\\x\{(?:[2-7][0-9A-F]|[89A-F][0-9A-F]|[1-9A-F][0-9A-F]{2,5})\})+\Z"
)
_ADDRESS_TYPE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]*\Z")
_EVENTS = frozenset({b"SUCCESS", b"FAILURE", b"DELAY"})


def parse(raw: bytes) -> dict[bytes, bytes] | Refused:
    """Return the parameters in `raw` by their keywords in upper case; a missing value is empty."""
    parameters: dict[bytes, bytes] = {}
    for word in raw.split(b" "):
        if not word:
            continue
        key, equals, value = word.partition(b"=")
        if not _KEY.match(key) or (equals and not _VALUE.match(value)):
            return Refused(SYNTAX)
        key = key.upper()
        if key in parameters:
            return Refused(TWICE)
        parameters[key] = value
    return parameters


def mail_with(path: bytes, raw: bytes) -> Mail | Refused:
    """Return MAIL for `path` (with brackets) with the parameters in `raw`."""
    parameters = parse(raw)
    if isinstance(parameters, Refused):
        return parameters
    size = parameters.pop(b"SIZE", b"0")
    body = parameters.pop(b"BODY", b"").upper()
    if not _DIGITS.match(size):
        return Refused(BAD_SIZE)
    needs = _BODY_NEEDS.get(body)
    if needs is None:
        return Refused(BAD_BODY)
    if not parameters:
        return Mail(path, int(size), body, b"", needs)
    passed = b""
    if (utf8 := parameters.pop(SMTPUTF8, None)) is not None:
        if utf8:
            return Refused(BAD_UTF8)
        passed += b" SMTPUTF8"
        needs |= _UTF8_NEEDS
    if (ret := parameters.pop(b"RET", None)) is not None:
        if ret.upper() not in (b"FULL", b"HDRS"):
            return Refused(BAD_RET)
        passed += b" RET=" + ret
        needs |= _DSN_NEEDS
    if (envid := parameters.pop(b"ENVID", None)) is not None:
        if not 0 < len(envid) <= MAX_ENVID or not _XTEXT.match(envid):
            return Refused(BAD_ENVID)
        passed += b" ENVID=" + envid
        needs |= _DSN_NEEDS
    if (submitter := parameters.pop(AUTH, None)) is not None:
        # RFC 4954 section 5: nobody need believe it, and who does not says nothing of it to whom he passes the message.
        if not 0 < len(submitter) <= MAX_AUTH or not _XTEXT.match(submitter):
            return Refused(BAD_AUTH)
        needs |= _AUTH_NEEDS
    prdr = parameters.pop(b"PRDR", None)
    if prdr:
        return Refused(BAD_PRDR)
    if parameters:
        return Refused(UNKNOWN_PARAMETER)
    return Mail(path, int(size), body, passed, needs, prdr is not None)


def rcpt_with(path: bytes, raw: bytes) -> Rcpt | Refused:
    """Return RCPT for `path` (with brackets) with the parameters in `raw`."""
    parameters = parse(raw)
    if isinstance(parameters, Refused):
        return parameters
    passed = b""
    needs_dsn = False
    if (notify := parameters.pop(b"NOTIFY", None)) is not None:
        if not _is_notify(notify):
            return Refused(BAD_NOTIFY)
        passed += b" NOTIFY=" + notify
        needs_dsn = True
    if (orcpt := parameters.pop(b"ORCPT", None)) is not None:
        if not _is_orcpt(orcpt):
            return Refused(BAD_ORCPT)
        passed += b" ORCPT=" + orcpt
    return Refused(UNKNOWN_PARAMETER) if parameters else Rcpt(path, passed, needs_dsn)


def _is_notify(value: bytes) -> bool:
    events = value.upper().split(b",")
    return events == [b"NEVER"] or (len(set(events)) == len(events) and _EVENTS.issuperset(events))


def _is_orcpt(value: bytes) -> bool:
    kind, semicolon, text = value.partition(b";")
    if not semicolon or not text or len(value) > MAX_ORCPT or not _ADDRESS_TYPE.match(kind):
        return False
    if _XTEXT.match(text):
        return True
    return kind.lower() == b"utf-8" and is_utf8(text) and _UNITEXT.match(text) is not None


def is_utf8(octets: bytes) -> bool:
    """Tell whether `octets` are UTF-8."""
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
