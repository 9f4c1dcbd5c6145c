"""How a connection to a backend begins: what is said under TLS and what is not."""

from __future__ import annotations

import re

import pytest

from cyrusext.errors import RemoteProtocolError
from lmtp_router.protocol.client import ClientConnection
from lmtp_router.protocol.handshake import NO_TLS, Tls
from lmtp_router.protocol.state import ClientState
from lmtp_router.protocol.types import NEED_DATA, ClientEvent, HandshakeFailed, Mail, Ready, TlsWanted

GREETING = b"220 b\r\n"
OFFERS = b"250-b\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
GO = b"220 go\r\n"
SECRET = ("murder", "secret")


class Told(ClientConnection):
    """A connection that remembers what it has been given to write."""

    said = b""


def feed(connection: Told, octets: bytes, size: int) -> list[ClientEvent]:
    """Have the backend say `octets`, in pieces, each reply after what it answers was written."""
    events: list[ClientEvent] = []
    connection.said += connection.data_to_send()
    for answer in re.findall(rb"(?:[0-9]{3}-.*\r\n)*[0-9]{3} .*\r\n", octets):
        for at in range(0, len(answer), size):
            connection.receive_data(answer[at : at + size])
            while (event := connection.next_event()) is not NEED_DATA:
                events.append(event)
        connection.said += connection.data_to_send()
    return events


def said(connection: Told) -> bytes:
    """What was written since this was asked last."""
    octets, connection.said = connection.said + connection.data_to_send(), b""
    return octets


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("tls", [Tls.MAY, Tls.VERIFY])
def test_lhlo_is_said_anew_under_tls(tls: Tls, size: int) -> None:
    connection = Told("router", SECRET, tls)
    assert feed(connection, GREETING + OFFERS, size) == []
    assert said(connection) == b"LHLO router\r\nSTARTTLS\r\n"
    assert feed(connection, GO, size) == [TlsWanted()]
    assert said(connection) == b""
    connection.secured()
    assert said(connection) == b"LHLO router\r\n"
    assert feed(connection, b"250-b\r\n250 AUTH PLAIN\r\n", size) == []
    assert connection.extensions == {b"AUTH"}, "what was offered in the clear counts no more"
    assert said(connection).startswith(b"AUTH PLAIN ")
    assert feed(connection, b"235 ok\r\n", size) == [Ready()]
    assert connection.reusable


def test_tls_once_is_enough() -> None:
    connection = Told("router", None, Tls.VERIFY)
    feed(connection, GREETING + OFFERS + GO, 1000)
    connection.secured()
    assert feed(connection, OFFERS, 1000) == [Ready()]


def test_a_password_is_not_sent_before_tls() -> None:
    connection = Told("router", SECRET, Tls.VERIFY)
    feed(connection, GREETING + b"250-b\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n", 1000)
    assert b"AUTH" not in said(connection)


def test_a_backend_without_tls_where_it_must_be() -> None:
    connection = Told("router", SECRET, Tls.VERIFY)
    events = feed(connection, GREETING + b"250-b\r\n250 AUTH PLAIN\r\n", 1000)
    assert events == [HandshakeFailed("lhlo", NO_TLS)]
    assert connection.state is ClientState.CLOSED
    assert b"AUTH" not in said(connection)


def test_a_backend_without_tls_where_it_may_be() -> None:
    connection = Told("router", None, Tls.MAY)
    assert feed(connection, GREETING + b"250 b\r\n", 1000) == [Ready()]


@pytest.mark.parametrize("size", [1, 1000])
def test_a_refused_starttls(size: int) -> None:
    must = Told("router", None, Tls.VERIFY)
    events = feed(must, GREETING + OFFERS + b"454 4.7.0 not now\r\n", size)
    assert [event.command for event in events if isinstance(event, HandshakeFailed)] == ["starttls"]
    may = Told("router", None, Tls.MAY)
    assert feed(may, GREETING + OFFERS + b"454 4.7.0 not now\r\n", size) == []
    said(may)
    assert feed(may, OFFERS, size) == [Ready()], "it is not asked again"
    may.mail(Mail(b"<>"))
    assert said(may) == b"MAIL FROM:<>\r\n"


@pytest.mark.parametrize("behind", [b"250-b\r\n250 AUTH PLAIN\r\n", b"250 b\r\n", b"2"])
def test_what_stands_behind_the_reply_to_starttls_is_no_reply_under_tls(behind: bytes) -> None:
    connection = Told("router", SECRET, Tls.VERIFY)
    feed(connection, GREETING + OFFERS, 1000)
    connection.receive_data(GO + behind)
    with pytest.raises(RemoteProtocolError, match="STARTTLS"):
        connection.next_event()


def test_what_comes_while_tls_is_to_begin_is_no_reply_either() -> None:
    connection = Told("router", SECRET, Tls.VERIFY)
    assert feed(connection, GREETING + OFFERS + GO, 1) == [TlsWanted()]
    connection.receive_data(b"250 b\r\n")
    with pytest.raises(RemoteProtocolError):
        connection.next_event()


@pytest.mark.parametrize(
    ("mechanisms", "line"),
    [
        (b"EXTERNAL PLAIN", b"AUTH EXTERNAL =\r\n"),
        (b"PLAIN", b"AUTH PLAIN AG11cmRlcgBzZWNyZXQ=\r\n"),
        (b"SCRAM-SHA-256", b""),
    ],
)
def test_a_certificate_comes_before_a_password(mechanisms: bytes, line: bytes) -> None:
    connection = Told("router", SECRET, Tls.VERIFY, external=True)
    feed(connection, GREETING + OFFERS + GO, 1000)
    connection.secured()
    said(connection)
    events = feed(connection, b"250-b\r\n250 AUTH " + mechanisms + b"\r\n", 1000)
    assert said(connection) == line
    assert events == ([] if line else [Ready()])


def test_external_is_nothing_without_tls() -> None:
    connection = Told("router", None, Tls.MAY, external=True)
    assert feed(connection, GREETING + b"250-b\r\n250 AUTH EXTERNAL\r\n", 1000) == [Ready()]
