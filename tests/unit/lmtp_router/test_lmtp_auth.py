"""AUTH at the server's end, without a socket: what is a login, what is none, and what has to wait for one."""

from __future__ import annotations

import base64

import pytest

from cyrusext.errors import LocalProtocolError
from cyrusext.wire.sasl import Secret
from lmtp_router.protocol import codec
from lmtp_router.protocol.server import Limits, ServerConnection
from lmtp_router.protocol.state import ServerState
from lmtp_router.protocol.types import NEED_DATA, PAUSED, Auth, AuthResponse, Lhlo, Mail, Noop, Refused, ServerEvent

PLAIN = base64.b64encode(b"\0murder\0secret")
SECRET = Secret(b"\0murder\0secret")
SIZES = (1, 2, 3, 5, 100_000)
TAIL = b"NOO"


def offering(limits: Limits | None = None) -> ServerConnection:
    connection = ServerConnection(limits)
    connection.offers = ("AUTH PLAIN",)
    return connection


def drive(connection: ServerConnection, octets: bytes, size: int, *, good: bool = True) -> list[ServerEvent]:
    """Feed `octets` in pieces; challenge each AUTH without a response, and decide the others."""
    events: list[ServerEvent] = []
    for at in range(0, len(octets), size):
        connection.receive_data(octets[at : at + size])
        while (event := connection.next_event()) is not NEED_DATA:
            if event is PAUSED and connection.state is ServerState.CLOSED:
                break
            if event is PAUSED:
                assert connection.state is ServerState.LOGIN
                if events[-1] == Auth(b"PLAIN"):
                    connection.challenged()
                else:
                    connection.login_decided(good=good)
            else:
                events.append(event)
    return events


def all_ways(octets: bytes, *, good: bool = True, limits: Limits | None = None) -> list[ServerEvent]:
    whole = drive(offering(limits), b"LHLO c\r\n" + octets, 1 << 20, good=good)
    for size in SIZES:
        assert drive(offering(limits), b"LHLO c\r\n" + octets, size, good=good) == whole
        assert drive(offering(limits), b"LHLO c\r\n" + octets + TAIL, size, good=good) == whole
    return whole[1:]


def codes(events: list[ServerEvent]) -> list[object]:
    return [event.reply.raw[:9] if isinstance(event, Refused) else event for event in events]


@pytest.mark.parametrize("name", [b"AUTH PLAIN", b"auth plain", b"Auth Plain"])
def test_with_and_without_an_initial_response(name: bytes) -> None:
    assert all_ways(name + b" " + PLAIN + b"\r\nNOOP\r\n") == [Auth(b"PLAIN", SECRET), Noop()]
    assert all_ways(name + b"\r\n" + PLAIN + b"\r\nNOOP\r\n") == [Auth(b"PLAIN"), AuthResponse(SECRET), Noop()]


def test_an_empty_response() -> None:
    assert all_ways(b"AUTH PLAIN =\r\n") == [Auth(b"PLAIN", Secret(b""))]
    assert all_ways(b"AUTH PLAIN\r\n\r\n") == [Auth(b"PLAIN"), AuthResponse(Secret(b""))]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"*", b"501 5.7.0"),
        (b"=", b"501 5.5.2"),
        (b"AG11", None),
        (b"AG1", b"501 5.5.2"),
        (b"AG11===", b"501 5.5.2"),
        (b"AG11 AG11", b"501 5.5.2"),
        (b"AG 1", b"501 5.5.2"),
        (b" AG11", b"501 5.5.2"),
        (b"AB==", b"501 5.5.2"),  # bits that say nothing
        (b"\xff\xfe", b"501 5.5.2"),
        (b"AG11\0", b"501 5.5.2"),
        (b"QUIT", None),  # base64 as well as a command
        (b"MAIL FROM:<>", b"501 5.5.2"),
    ],
)
def test_what_a_response_is(line: bytes, answer: bytes | None) -> None:
    """After one that is none, commands are commands again."""
    events = codes(all_ways(b"AUTH PLAIN\r\n" + line + b"\r\nNOOP\r\n"))
    expected = AuthResponse(Secret(base64.b64decode(line))) if answer is None else answer
    assert events == [Auth(b"PLAIN"), expected, Noop()]


@pytest.mark.parametrize("line", [PLAIN + b"\n", b"AG\r11\r\n", b"*\n"])
def test_lines_end_as_all_do(line: bytes) -> None:
    events = codes(all_ways(b"AUTH PLAIN\r\n" + line + b"NOOP\r\n"))
    assert isinstance(events[1], bytes)
    assert events[1][:3] in (b"500", b"501")
    assert events[2] == Noop()


def test_the_longest_response() -> None:
    """12288 octets with the CRLF, which is more than a command may have (RFC 4954 section 4)."""
    most = base64.b64encode(b"\0u\0" + b"p" * 9200)[:12284]
    assert len(most) % 4 == 0
    fits = b"AUTH PLAIN\r\n" + most + b"\r\nNOOP\r\n"
    assert codes(all_ways(fits)) == [Auth(b"PLAIN"), AuthResponse(Secret(base64.b64decode(most))), Noop()]
    for longer in (b"A" * 12287, b"A" * 12288, b"A" * 60_000):
        events = codes(drive(offering(), b"LHLO c\r\nAUTH PLAIN\r\n" + longer + b"\r\nNOOP\r\n", 1000))
        assert events[1:] == [Auth(b"PLAIN"), b"500 5.5.6", Noop()]
    connection = offering()
    drive(connection, b"LHLO c\r\nAUTH PLAIN\r\n", 100)
    drive(connection, b"A" * 10_000_000, 1 << 16)
    assert connection.buffered <= 12288
    assert drive(connection, b"A\r\nNOOP\r\n", 1)[-1] == Noop()


def test_an_initial_response_has_the_room_of_a_command() -> None:
    events = codes(all_ways(b"AUTH PLAIN " + b"A" * 4000 + b"\r\nNOOP\r\n"))
    assert events == [b"500 5.5.2", Noop()]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (b"AUTH", b"501 5.5.4"),
        (b"AUTH ", b"501 5.5.4"),
        (b"AUTH =", b"501 5.5.4"),
        (b"AUTH " + b"X" * 21, b"501 5.5.4"),
        (b"AUTH PLAIN AG1", b"501 5.5.2"),
        (b"AUTH PLAIN *", b"501 5.5.2"),
        (b"AUTH PLAIN " + PLAIN + b" x", b"501 5.5.2"),
        (b"AUTH LOGIN", b"504 5.5.4"),
        (b"AUTH CRAM-MD5", b"504 5.5.4"),
        (b"AUTH EXTERNAL =", b"504 5.5.4"),
    ],
)
def test_refused(command: bytes, answer: bytes) -> None:
    assert codes(all_ways(command + b"\r\nNOOP\r\n")) == [answer, Noop()]
    assert isinstance(codec.parse_command(command), Auth | Refused)


def test_only_where_it_is_offered() -> None:
    for octets in (b"AUTH PLAIN " + PLAIN, b"AUTH PLAIN", b"AUTH LOGIN"):
        last = drive(ServerConnection(), b"LHLO c\r\n" + octets + b"\r\n", 1000)[-1]
        assert codes([last]) == [b"502 5.5.1"]
    assert b"250 AUTH PLAIN\r\n" in offering().hello(Lhlo(b"c"), "h", frozenset()).raw


def test_when() -> None:
    """After LHLO, between transactions, and once."""
    command = b"AUTH PLAIN " + PLAIN + b"\r\n"
    for octets in (command, b"LHLO c\r\nMAIL FROM:<>\r\n" + command):
        assert codes(drive(offering(), octets, 1)[-1:]) == [b"503 5.5.1"]
    connection = offering()
    events = drive(connection, b"LHLO c\r\n" + 2 * command + b"LHLO c\r\n" + command + b"MAIL FROM:<>\r\n", 1)
    assert codes(events[1:]) == [Auth(b"PLAIN", SECRET), b"503 5.5.1", Lhlo(b"c"), b"503 5.5.1", Mail(b"<>")]
    assert connection.logged_in
    refused = drive(offering(), b"LHLO c\r\n" + 2 * command, 1, good=False)
    assert refused[1:] == [Auth(b"PLAIN", SECRET), Auth(b"PLAIN", SECRET)]


def test_tls_forgets_a_login() -> None:
    connection = offering()
    connection.offers = ("STARTTLS", "AUTH PLAIN")
    drive(connection, b"LHLO c\r\nAUTH PLAIN " + PLAIN + b"\r\n", 100)
    connection.receive_data(b"STARTTLS\r\n")
    connection.next_event()
    connection.secured()
    assert not connection.logged_in


def test_mail_waits_for_a_login_where_it_has_to() -> None:
    connection = offering()
    connection.login_required = True
    events = drive(connection, b"LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<u@x>\r\nDATA\r\nBDAT 3 LAST\r\nabcNOOP\r\n", 1)
    assert codes(events[1:]) == [b"530 5.7.0", b"503 5.5.1", b"503 5.5.1", b"503 5.5.1", Noop()]
    wrong = drive(connection, b"AUTH PLAIN " + PLAIN + b"\r\nMAIL FROM:<>\r\n", 1, good=False)
    assert codes(wrong[1:]) == [b"530 5.7.0"]
    events = drive(connection, b"AUTH PLAIN " + PLAIN + b"\r\nMAIL FROM:<>\r\n", 1)
    assert events[1:] == [Mail(b"<>")]


def test_what_is_no_login_is_an_error_like_others() -> None:
    octets = b"LHLO c\r\n" + b"AUTH PLAIN\r\n*\r\n" * 4
    last = drive(offering(Limits(max_errors=3)), octets, 1)
    assert isinstance(last[-1], Refused)
    assert last[-1].close


def test_decisions_that_nobody_asked_for() -> None:
    connection = offering()
    with pytest.raises(LocalProtocolError):
        connection.challenged()
    with pytest.raises(LocalProtocolError):
        connection.login_decided(good=True)
    assert not connection.logged_in


@pytest.mark.parametrize("value", [b"<>", b"user+40example.org", b"a" * 500])
def test_mails_auth_is_taken_and_not_passed_on(value: bytes) -> None:
    """RFC 4954 section 5; it needs nothing of a backend."""
    command = b"MAIL FROM:<a@example.org> AUTH=" + value
    assert all_ways(command + b"\r\n") == [Mail(b"<a@example.org>")]
    mail = all_ways(command + b" SIZE=5 BODY=8BITMIME\r\n")[0]
    assert isinstance(mail, Refused), "8BITMIME was not offered"
    without = drive(ServerConnection(), b"LHLO c\r\n" + command + b"\r\n", 1)[-1]
    assert codes([without]) == [b"555 5.5.4"]


@pytest.mark.parametrize("value", [b"", b"=", b"+4", b"+zz", b"a" * 501, b"\xc3\xbc", b"<> AUTH=<>"])
def test_mails_auth_is_checked(value: bytes) -> None:
    assert codes(all_ways(b"MAIL FROM:<> AUTH=" + value + b"\r\n")) == [b"501 5.5.4"]


def test_nothing_shows_a_password() -> None:
    assert "secret" not in repr(Auth(b"PLAIN", SECRET)) + repr(AuthResponse(SECRET))
