"""Who sends a message, as proxies tell each other: the attributes of XCLIENT and XFORWARD, in and out.

Rule: a value is what stands in the attribute, decoded (xtext, RFC 3461 section 4) and checked; what is said to be
unknown is empty.  Nothing here says whether whoever claims it is to be believed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from lmtp_router.protocol.proxy import plain

MAX_LINE = 512
"""Longest XFORWARD that is sent, in octets with its CRLF; Postfix keeps to it too."""
MAX_VALUE = 255

_XTEXT = re.compile(rb"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})+\Z")
_PLAIN = re.compile(rb"[^\x21-\x2a\x2c-\x3c\x3e-\x7e]")
_ATOM = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*\Z")
_UNKNOWN = frozenset({b"[UNAVAILABLE]", b"[TEMPUNAVAIL]"})


class Origin(NamedTuple):
    """Who is at the other end, or at the end behind it: empty or 0 where that is not known."""

    name: str = ""
    """Of the host; never looked up here."""
    address: str = ""
    port: int = 0
    protocol: str = ""
    """``LMTP``, ``SMTP``, ``ESMTP`` … as it came to whoever says so."""
    helo: str = ""
    login: str = ""
    """Whom the client logged in as."""
    ident: str = ""
    """Under which name its session, or its message, is found in the log of whoever says so."""
    source: str = ""
    """``LOCAL`` or ``REMOTE``."""
    destination: str = ""
    """The address that the client called."""
    destination_port: int = 0

    def claimed(self, attributes: Mapping[str, str]) -> Origin:
        """Return this with what `attributes`, as the functions below give them, say otherwise."""
        if not attributes:
            return self
        values = self._asdict()
        for key, value in attributes.items():
            values[_FIELD[key]] = int(value or 0) if key in _PORTS else value
        return Origin(**values)


_FIELD = {
    "NAME": "name",
    "ADDR": "address",
    "PORT": "port",
    "PROTO": "protocol",
    "HELO": "helo",
    "LOGIN": "login",
    "IDENT": "ident",
    "SOURCE": "source",
    "DESTADDR": "destination",
    "DESTPORT": "destination_port",
}
_PORTS = frozenset({"PORT", "DESTPORT"})

XCLIENT = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
TOLD = ("NAME", "ADDR", "PORT", "HELO", "LOGIN", "SESSION")
"""What is said onward by XCLIENT: how the client spoke to us is not how we speak."""
XFORWARD = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")


def parse_attributes(argument: bytes, known: tuple[str, ...]) -> dict[str, str] | None:
    """Return the attributes of a command by name, "" for those said to be unknown; None where one is no attribute of
    this command, is there twice, or has a value that it can not have."""
    attributes: dict[str, str] = {}
    for word in argument.split():
        raw_name, equals, raw = word.partition(b"=")
        name = raw_name.decode("ascii", "replace").upper()
        if not equals or name not in known or name in attributes:
            return None
        value = "" if raw.upper() in _UNKNOWN else _decoded(raw)
        if value and (check := _CHECKS.get(name)) is not None:
            value = check(value)
        if value is None:
            return None
        attributes[name] = value
    return attributes or None


def _decoded(raw: bytes) -> str | None:
    if not _XTEXT.match(raw):
        return None
    octets = re.sub(rb"\+(..)", lambda match: bytes.fromhex(match[1].decode("ascii")), raw)
    try:
        value = octets.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return value if value.isprintable() and len(value) <= MAX_VALUE else None


def _address(value: str) -> str | None:
    text = value[5:] if value[:5].upper() == "IPV6:" else value
    try:
        return plain(text)
    except ValueError:
        return None


def _port(value: str) -> str | None:
    return value if value.isascii() and value.isdigit() and len(value) <= 5 and 0 < int(value) <= 65535 else None


def _word(value: str) -> str | None:
    return value.upper() if _ATOM.match(value) else None


def _source(value: str) -> str | None:
    return value.upper() if value.upper() in ("LOCAL", "REMOTE") else None


_CHECKS: dict[str, Callable[[str], str | None]] = {
    "ADDR": _address,
    "DESTADDR": _address,
    "PORT": _port,
    "DESTPORT": _port,
    "PROTO": _word,
    "SOURCE": _source,
}


def build_xclient(origin: Origin, offered: frozenset[bytes]) -> bytes:
    """Return the command that has a backend take our client for its own, of the attributes that it offers to hear;
    nothing, if it offers none that are known here.

    SESSION is Dovecot's: under which name the session is found in its log.
    """
    values = _values(origin)
    words = [b" %b=%b" % (name.encode("ascii"), _encoded(values[name])) for name in TOLD if name.encode() in offered]
    return b"XCLIENT%b\r\n" % b"".join(words) if words else b""


def _values(origin: Origin) -> dict[str, str]:
    """The attributes of both commands, encoded as addresses and numbers are."""
    return {
        "NAME": origin.name,
        "ADDR": f"IPV6:{origin.address}" if ":" in origin.address else origin.address,
        "PORT": str(origin.port or ""),
        "PROTO": origin.protocol,
        "HELO": origin.helo,
        "IDENT": origin.ident,
        "SOURCE": origin.source,
        "LOGIN": origin.login,
        "SESSION": origin.ident,
    }


def build_xforward(origin: Origin, offered: frozenset[bytes]) -> list[bytes]:
    """Return the commands that tell a backend who sends, of the attributes that it offers to hear."""
    values = _values(origin)
    lines = [b"XFORWARD"]
    for name in XFORWARD:
        if name.encode("ascii") not in offered:
            continue
        word = b" %b=%b" % (name.encode("ascii"), _encoded(values[name]))
        if len(lines[-1]) + len(word) + 2 > MAX_LINE and len(lines[-1]) > len(b"XFORWARD"):
            lines.append(b"XFORWARD")
        lines[-1] += word
    return [line + b"\r\n" for line in lines if line != b"XFORWARD"]


def _encoded(value: str) -> bytes:
    if not value:
        return b"[UNAVAILABLE]"
    octets = value.encode("utf-8", "replace")[: MAX_VALUE // 2]
    return _PLAIN.sub(lambda match: b"+%02X" % match[0][0], octets)


def iter_known(origin: Origin) -> Iterator[tuple[str, object]]:
    """Yield name and value of what is known of `origin`, for a log."""
    for name, value in zip(Origin._fields, origin, strict=True):
        if value:
            yield name, value
