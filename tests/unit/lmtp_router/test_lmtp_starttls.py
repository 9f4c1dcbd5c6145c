"""STARTTLS at the server's end, without a socket: when it is taken, and what is left of what came before."""

from __future__ import annotations

import pytest

from cyrusext.errors import LocalProtocolError
from lmtp_router.protocol.server import ServerConnection
from lmtp_router.protocol.state import ServerState
from lmtp_router.protocol.types import NEED_DATA, PAUSED, Lhlo, Mail, Refused, ServerEvent, Starttls


def drive(connection: ServerConnection, octets: bytes, size: int) -> list[ServerEvent]:
    events: list[ServerEvent] = []
    for at in range(0, len(octets), size):
        connection.receive_data(octets[at : at + size])
        while (event := connection.next_event()) not in (NEED_DATA, PAUSED):
            events.append(event)
    return events


def offering() -> ServerConnection:
    connection = ServerConnection()
    connection.offers = ("STARTTLS",)
    return connection


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_what_came_in_the_clear_is_forgotten(size: int) -> None:
    connection = offering()
    assert drive(connection, b"LHLO c\r\nSTARTTLS\r\nMAIL FROM:<>\r\nhalf a li", size) == [Lhlo(b"c"), Starttls()]
    assert connection.state is ServerState.TLS
    assert connection.buffered
    connection.secured()
    assert not connection.buffered
    connection.offers = ()
    events = drive(connection, b"MAIL FROM:<>\r\nLHLO c\r\nMAIL FROM:<>\r\n", size)
    assert isinstance(events[0], Refused)
    assert events[0].reply.code == 503
    assert events[1:] == [Lhlo(b"c"), Mail(b"<>")]


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"STARTTLS\r\n", 503),
        (b"LHLO c\r\nSTARTTLS x\r\n", 501),
        (b"LHLO c\r\nMAIL FROM:<>\r\nSTARTTLS\r\n", 503),
        (b"LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<u@example.org>\r\nSTARTTLS\r\n", 503),
    ],
)
def test_where_it_is_refused(octets: bytes, code: int) -> None:
    for size in (1, 1000):
        last = drive(offering(), octets, size)[-1]
        assert isinstance(last, Refused)
        assert last.reply.code == code


def test_to_whom_it_is_not_offered_it_is_unknown() -> None:
    last = drive(ServerConnection(), b"LHLO c\r\nSTARTTLS\r\n", 1000)[-1]
    assert isinstance(last, Refused)
    assert last.reply.code == 500
    hello = Lhlo(b"c"), "h", frozenset[bytes]()
    assert b"STARTTLS" not in ServerConnection().hello(*hello).raw
    assert offering().hello(*hello).raw.endswith(b"250 STARTTLS\r\n")


def test_tls_that_nobody_asked_for() -> None:
    with pytest.raises(LocalProtocolError):
        offering().secured()
