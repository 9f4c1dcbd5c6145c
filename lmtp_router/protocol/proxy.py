"""The header that a balancer sends before a client's first octet: PROXY protocol, version 1 and 2.

Rule: it is taken octet for octet, never one more: what follows may be a TLS handshake.  Anything that is no such header
is an error, for who must send one and does not is not who we think.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from cyrusext.errors import RemoteProtocolError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MAX_V1 = 107
"""Longest header of version 1 in octets, with its CRLF."""
_PREFIX = 6
_V2_HEAD = 16
_V2_KEPT = _V2_HEAD + 36
"""What can hold addresses; the rest, up to 65535 octets of additions, is passed over."""
_LINE = re.compile(rb"PROXY (TCP4|TCP6) (\S+) (\S+) ([1-9][0-9]{0,4}|0) ([1-9][0-9]{0,4}|0)\r\n\Z")
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n\Z")


class Endpoint(NamedTuple):
    """An IP address and a port."""

    address: str
    port: int


class ProxyHeader(NamedTuple):
    """Where the client is and which address it called; both None where the balancer speaks for itself, or can not
    tell."""

    source: Endpoint | None = None
    destination: Endpoint | None = None


class ProxyParser:
    """Takes octets until ``header`` is there."""

    __slots__ = ("_length", "_raw", "_seen", "header")

    def __init__(self) -> None:
        self.header: ProxyHeader | None = None
        self._raw = bytearray()
        self._seen = 0
        """Octets of the header so far; those that can not matter are not in `_raw`."""
        self._length = _V2_HEAD

    def feed(self, data: bytes) -> int:
        """Return how many of the octets from the start of `data` belong to the header.

        Raises RemoteProtocolError (fatal) for what is no header.
        """
        used = 0
        while self.header is None and used < len(data):
            piece = data[used : used + self._wanted(data, used)]
            self._raw += piece[: max(_V2_KEPT - len(self._raw), 0)] if self._is_v2 else piece
            self._seen += len(piece)
            used += len(piece)
            self._look()
        return used

    @property
    def _is_v2(self) -> bool:
        return self._raw[:_PREFIX] == SIGNATURE[:_PREFIX]

    def _wanted(self, data: bytes, at: int) -> int:
        """How many octets, of those at `at`, surely belong to the header."""
        if self._seen < _PREFIX:
            return _PREFIX - self._seen
        if self._is_v2:
            return self._length - self._seen
        room = MAX_V1 - self._seen
        end = data.find(b"\n", at, at + room)
        return room if end < 0 else end + 1 - at

    def _look(self) -> None:
        if self._seen < _PREFIX:
            return
        if self._is_v2:
            self._look_v2()
        elif self._raw[:_PREFIX] != b"PROXY ":
            raise _no_header("no PROXY header")
        elif self._raw.endswith(b"\n"):
            self.header = _parse_v1(bytes(self._raw))
        elif self._seen >= MAX_V1:
            raise _no_header("the line is too long")

    def _look_v2(self) -> None:
        if self._seen < _V2_HEAD:
            return
        if self._seen == _V2_HEAD:
            if self._raw[:12] != SIGNATURE:
                raise _no_header("no PROXY header")
            if self._raw[12] not in (0x20, 0x21):
                raise _no_header("unknown version or command")
            self._length = _V2_HEAD + int.from_bytes(self._raw[14:16])
        if self._seen == self._length:
            self.header = _parse_v2(bytes(self._raw), self._length - _V2_HEAD)


def _parse_v1(line: bytes) -> ProxyHeader:
    if _UNKNOWN.match(line):
        return ProxyHeader()
    match = _LINE.match(line)
    if match is None:
        raise _no_header("bad line")
    kind = ipaddress.IPv4Address if match[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        source, destination = (str(kind(match[part].decode("ascii"))) for part in (2, 3))
    except ValueError:
        raise _no_header("bad address") from None
    ports = int(match[4]), int(match[5])
    if max(ports) > 65535:
        raise _no_header("bad port")
    return ProxyHeader(Endpoint(plain(source), ports[0]), Endpoint(plain(destination), ports[1]))


def _parse_v2(raw: bytes, length: int) -> ProxyHeader:
    command, family = raw[12] & 0x0F, raw[13]
    if command == 0 or family in (0x00, 0x31, 0x32):
        # LOCAL: the balancer itself asks how we are.  A UNIX socket's name tells nothing here.
        return ProxyHeader()
    size = {0x11: 4, 0x21: 16}.get(family)
    if size is None:
        raise _no_header(f"unknown family and transport {family:#04x}")
    if length < 2 * size + 4:
        raise _no_header("too short for its addresses")
    at = _V2_HEAD
    source, destination = (str(ipaddress.ip_address(raw[start : start + size])) for start in (at, at + size))
    ports = (int.from_bytes(raw[start : start + 2]) for start in (at + 2 * size, at + 2 * size + 2))
    return ProxyHeader(Endpoint(plain(source), next(ports)), Endpoint(plain(destination), next(ports)))


def plain(address: str) -> str:
    """Return an IP address in its plainest form: an IPv4 address that is mapped into IPv6 as such.

    Raises ValueError for what is no address.
    """
    value = ipaddress.ip_address(address.partition("%")[0])
    mapped = value.ipv4_mapped if isinstance(value, ipaddress.IPv6Address) else None
    return str(mapped or value)


def _no_header(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"PROXY protocol: {reason}", fatal=True)
