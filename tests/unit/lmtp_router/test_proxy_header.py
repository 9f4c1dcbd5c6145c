"""PROXY headers, whole, octet by octet, and with more behind them, of which not one octet is taken."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyrusext.errors import RemoteProtocolError
from lmtp_router.protocol.proxy import MAX_V1, SIGNATURE, Endpoint, ProxyHeader, ProxyParser, plain

BEHIND = b"LHLO c\r\nPROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n"


def read(octets: bytes, size: int) -> tuple[ProxyHeader | None, bytes]:
    """Read as a socket is read: look at what has come, take what belongs to the header."""
    parser, come, at = ProxyParser(), b"", 0
    while at < len(octets) and parser.header is None:
        come += octets[at : at + size]
        at += size
        used = parser.feed(come)
        come = come[used:]
    return parser.header, come + octets[at:]


def three_ways(octets: bytes, expected: ProxyHeader) -> None:
    for size in (1, 2, 7, 4096):
        assert read(octets, size) == (expected, b"")
        assert read(octets + BEHIND, size) == (expected, BEHIND)
    for end in range(len(octets)):
        parser = ProxyParser()
        parser.feed(octets[:end])
        assert parser.header is None


def v2(command: int, family: int, block: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + bytes([command, family]) + (len(block) if length is None else length).to_bytes(2) + block


def addresses(source: str, destination: str, ports: tuple[int, int] = (1025, 24)) -> bytes:
    packed = b"".join(ipaddress.ip_address(text).packed for text in (source, destination))
    return packed + b"".join(port.to_bytes(2) for port in ports)


FOUR = ProxyHeader(Endpoint("192.0.2.1", 1025), Endpoint("198.51.100.2", 24))
SIX = ProxyHeader(Endpoint("2001:db8::1", 65535), Endpoint("2001:db8::2", 24))


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1025 24\r\n", FOUR),
        (b"PROXY TCP6 2001:db8::1 2001:DB8:0::2 65535 24\r\n", SIX),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 1025 24\r\n", FOUR),
        (b"PROXY UNKNOWN\r\n", ProxyHeader()),
        (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", ProxyHeader()),
        (v2(0x21, 0x11, addresses("192.0.2.1", "198.51.100.2")), FOUR),
        (v2(0x21, 0x11, addresses("192.0.2.1", "198.51.100.2") + b"\x03\0\x04abcd"), FOUR),
        (v2(0x21, 0x21, addresses("2001:db8::1", "2001:db8::2", (65535, 24))), SIX),
        (v2(0x21, 0x11, addresses("192.0.2.1", "198.51.100.2") + b"\x20" * 3000), FOUR),
        (v2(0x20, 0x00, b""), ProxyHeader()),
        (v2(0x20, 0x11, addresses("192.0.2.1", "198.51.100.2")), ProxyHeader()),
        (v2(0x21, 0x00, b"whatever"), ProxyHeader()),
        (v2(0x21, 0x31, b"/sock".ljust(216, b"\0")), ProxyHeader()),
    ],
)
def test_headers(octets: bytes, expected: ProxyHeader) -> None:
    three_ways(octets, expected)


@pytest.mark.parametrize(
    "octets",
    [
        b"LHLO client\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"proxy TCP4 192.0.2.1 198.51.100.2 1025 24\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1025 24\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1025\r\n",
        b"PROXY TCP4 192.0.2.1  198.51.100.2 1025 24\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1025 24 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 01025 24\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 24\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.2 1 24\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 24\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 1 24\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 1 24\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN " + b"x" * MAX_V1 + b"\r\n",
        b"\r\n\r\n\0\r\nQUIX\n" + bytes(20),
        v2(0x11, 0x11, addresses("192.0.2.1", "198.51.100.2")),
        v2(0x22, 0x11, addresses("192.0.2.1", "198.51.100.2")),
        v2(0x21, 0x12, addresses("192.0.2.1", "198.51.100.2")),
        v2(0x21, 0x11, b"short"),
        v2(0x21, 0x21, addresses("192.0.2.1", "198.51.100.2")),
    ],
)
def test_what_is_no_header(octets: bytes) -> None:
    for size in (1, 4096):
        with pytest.raises(RemoteProtocolError, match="PROXY protocol"):
            read(octets, size)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_whatever_comes_is_a_header_or_an_error_or_too_little(octets: bytes, size: int) -> None:
    for prefix in (b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\0\x0c"):
        try:
            header, rest = read(prefix + octets, size)
        except RemoteProtocolError as error:
            assert error.fatal
            continue
        assert header is not None or rest == b""
        assert (prefix + octets).endswith(rest)


def test_a_long_header_is_not_kept() -> None:
    parser = ProxyParser()
    octets = v2(0x21, 0x11, addresses("192.0.2.1", "198.51.100.2") + bytes(60_000))
    assert parser.feed(octets) == len(octets)
    assert len(parser._raw) < 100


def test_plain_addresses() -> None:
    assert plain("::FFFF:10.0.0.1") == "10.0.0.1"
    assert plain("fe80::1%eth0") == "fe80::1"
    with pytest.raises(ValueError, match="does not appear"):
        plain("1.2.3")
