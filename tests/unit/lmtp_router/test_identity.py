"""XCLIENT and XFORWARD: what stands in their attributes, and what is told onward."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtp_router.protocol.codec import parse_command
from lmtp_router.protocol.identity import (
    XCLIENT,
    XFORWARD,
    Origin,
    build_xclient,
    build_xforward,
    iter_known,
    parse_attributes,
)
from lmtp_router.protocol.server import ServerConnection
from lmtp_router.protocol.state import ServerState
from lmtp_router.protocol.types import NEED_DATA, Lhlo, Refused, ServerEvent, Xclient, Xforward

ALL = frozenset(name.encode() for name in XFORWARD)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"XCLIENT NAME=c.example.org ADDR=192.0.2.1", {"NAME": "c.example.org", "ADDR": "192.0.2.1"}),
        (b"xclient addr=IPV6:2001:DB8::1 port=25", {"ADDR": "2001:db8::1", "PORT": "25"}),
        (b"XCLIENT ADDR=ipv6:::ffff:10.0.0.1", {"ADDR": "10.0.0.1"}),
        (b"XCLIENT NAME=[UNAVAILABLE] ADDR=[TEMPUNAVAIL]", {"NAME": "", "ADDR": ""}),
        (b"XCLIENT HELO=a+20b LOGIN=x+2By+3Dz", {"HELO": "a b", "LOGIN": "x+y=z"}),
        (b"XCLIENT LOGIN=j+C3+BCrgen", {"LOGIN": "jürgen"}),
        (b"XCLIENT PROTO=esmtp DESTPORT=25", {"PROTO": "ESMTP", "DESTPORT": "25"}),
    ],
)
def test_xclient(line: bytes, expected: dict[str, str]) -> None:
    assert parse_command(line) == Xclient(expected)


def test_xforward() -> None:
    line = b"XFORWARD NAME=c.example.org ADDR=10.0.0.1 PORT=4 PROTO=SMTP HELO=h IDENT=4Xy SOURCE=remote"
    command = parse_command(line)
    assert isinstance(command, Xforward)
    origin = Origin().claimed(command.attributes)
    assert origin == Origin("c.example.org", "10.0.0.1", 4, "SMTP", "h", ident="4Xy", source="REMOTE")
    assert dict(iter_known(origin))["port"] == 4


@pytest.mark.parametrize(
    "line",
    [
        b"XCLIENT",
        b"XCLIENT ",
        b"XCLIENT NAME",
        b"XCLIENT NAME=",
        b"XCLIENT NAME=a NAME=b",
        b"XCLIENT IDENT=x",
        b"XCLIENT FROB=x",
        b"XCLIENT ADDR=example.org",
        b"XCLIENT ADDR=1.2.3",
        b"XCLIENT ADDR=IPV6:1.2.3",
        b"XCLIENT PORT=0",
        b"XCLIENT PORT=65536",
        b"XCLIENT PORT=-1",
        b"XCLIENT PORT=\xd9\xa3",
        b"XCLIENT NAME=+0A",
        b"XCLIENT NAME=a+0D+0AMAIL",
        b"XCLIENT NAME=+4",
        b"XCLIENT NAME=+4g",
        b"XCLIENT NAME=a=b",
        b"XCLIENT NAME=+FF",
        b"XCLIENT NAME=a+00",
        b"XCLIENT PROTO=a+20b",
        b"XCLIENT NAME=" + b"a" * 256,
        b"XFORWARD LOGIN=x",
        b"XFORWARD SOURCE=elsewhere",
    ],
)
def test_what_is_no_attribute(line: bytes) -> None:
    command = parse_command(line)
    assert isinstance(command, Refused)
    assert command.reply.code == 501


def drive(connection: ServerConnection, octets: bytes, size: int) -> list[ServerEvent]:
    events: list[ServerEvent] = []
    for at in range(0, len(octets), size):
        connection.receive_data(octets[at : at + size])
        while (event := connection.next_event()) is not NEED_DATA:
            events.append(event)
    return events


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_when_they_are_taken(size: int) -> None:
    connection = ServerConnection()
    connection.offers = ("XCLIENT NAME ADDR", "XFORWARD NAME")
    octets = b"XCLIENT NAME=a\r\nLHLO c\r\nXFORWARD NAME=b\r\nXCLIENT NAME=d\r\n"
    assert drive(connection, octets, size) == [
        Xclient({"NAME": "a"}),
        Lhlo(b"c"),
        Xforward({"NAME": "b"}),
        Xclient({"NAME": "d"}),
    ]
    assert connection.state is ServerState.GREETED, "the session begins anew"
    for command in (b"XCLIENT NAME=a\r\n", b"XFORWARD NAME=a\r\n"):
        last = drive(connection, b"LHLO c\r\nMAIL FROM:<>\r\n" + command, size)[-1]
        assert isinstance(last, Refused)
        assert last.reply.code == 503
        drive(connection, b"RSET\r\n", size)


def test_who_is_not_trusted_is_told_so() -> None:
    for command in (b"XCLIENT NAME=a\r\n", b"XFORWARD NAME=a\r\n"):
        last = drive(ServerConnection(), b"LHLO c\r\n" + command, 1000)[-1]
        assert isinstance(last, Refused)
        assert last.reply.code == 550


def test_what_is_told_onward() -> None:
    origin = Origin("client.example.org", "2001:db8::1", 2525, "ESMTP", "hé lo", ident="a-1")
    assert build_xforward(origin, ALL) == [
        b"XFORWARD NAME=client.example.org ADDR=IPV6:2001:db8::1 PORT=2525 PROTO=ESMTP HELO=h+C3+A9+20lo IDENT=a-1"
        b" SOURCE=[UNAVAILABLE]\r\n"
    ]
    assert build_xforward(origin, frozenset({b"ADDR", b"FROB"})) == [b"XFORWARD ADDR=IPV6:2001:db8::1\r\n"]
    assert build_xforward(origin, frozenset()) == []


@given(
    st.builds(
        Origin,
        name=st.text(max_size=300),
        address=st.sampled_from(["", "10.0.0.1", "2001:db8::1"]),
        port=st.integers(0, 65535),
        helo=st.text(max_size=300),
        ident=st.text(max_size=300),
    )
)
def test_every_command_is_short_and_can_be_read_back(origin: Origin) -> None:
    for line in build_xforward(origin, ALL):
        assert len(line) <= 1024
        assert line.endswith(b"\r\n")
        assert line[:-2].isascii()
        assert not set(line[:-2]) & set(b"\r\n\0")


def test_attributes_are_those_of_the_command() -> None:
    assert parse_attributes(b"LOGIN=x", XCLIENT) == {"LOGIN": "x"}
    assert parse_attributes(b"LOGIN=x", XFORWARD) is None


def test_what_is_said_by_xclient_are_the_attributes_that_are_offered() -> None:
    origin = Origin(address="2001:db8::1", port=25, protocol="ESMTP", helo="a b", ident="5-1", login="alice")
    dovecot = frozenset({b"ADDR", b"PORT", b"PROTO", b"HELO", b"LOGIN", b"SESSION", b"TTL", b"TIMEOUT"})
    assert build_xclient(origin, dovecot) == (
        b"XCLIENT ADDR=IPV6:2001:db8::1 PORT=25 HELO=a+20b LOGIN=alice SESSION=5-1\r\n"
    )
    assert (
        build_xclient(Origin(), frozenset({b"NAME", b"PORT"})) == b"XCLIENT NAME=[UNAVAILABLE] PORT=[UNAVAILABLE]\r\n"
    )
    assert build_xclient(origin, frozenset({b"TTL"})) == b""
