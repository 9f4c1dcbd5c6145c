"""The two ends of a connection without a socket; every exchange whole, octet by octet, and with more behind it."""

from __future__ import annotations

import re

import pytest

from cyrusext.errors import LocalProtocolError, RemoteProtocolError
from lmtp_router.protocol.client import ClientConnection
from lmtp_router.protocol.codec import END_OF_DATA
from lmtp_router.protocol.server import Limits, ServerConnection
from lmtp_router.protocol.state import CLIENT, SERVER, ClientInput, ClientState, ServerInput, ServerState
from lmtp_router.protocol.types import (
    NEED_DATA,
    PAUSED,
    Answered,
    BodyData,
    BodyEnd,
    BodySpoiled,
    Data,
    HandshakeFailed,
    Lhlo,
    Mail,
    Quit,
    Rcpt,
    Ready,
    Refused,
    Rset,
    Sent,
    ServerEvent,
    Verdict,
)
from tests.harness.lmtp_events import drive, three_ways

OPENING = b"LHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<u@example.org>\r\nDATA\r\n"


def test_a_session() -> None:
    octets = OPENING + b"Subject: x\r\n\r\n..dot\r\n.\r\nRSET\r\nQUIT\r\n"
    connection_events = drive(octets, len(octets))
    assert connection_events == [
        Lhlo(b"c"),
        Mail(b"<a@example.org>"),
        Rcpt(b"<u@example.org>"),
        Data(),
        BodyData(b"Subject: x\r\n\r\n..dot\r\n"),
        BodyEnd(21, Verdict.GOOD, False),
        Rset(),
        Quit(),
    ]
    assert drive(octets, 1) == connection_events


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b".\r\n", [BodyEnd(0, Verdict.GOOD, False)]),
        (b"\r\n.\r\n", [BodyData(b"\r\n"), BodyEnd(2, Verdict.GOOD, False)]),
        (b"..\r\n.\r\n", [BodyData(b"..\r\n"), BodyEnd(4, Verdict.GOOD, False)]),
        (b"a\0b\r\n.\r\n", [BodyData(b"a\0b\r\n"), BodyEnd(5, Verdict.GOOD, True)]),
    ],
)
def test_bodies(body: bytes, expected: list[ServerEvent]) -> None:
    assert three_ways(OPENING + body)[4:] == expected


@pytest.mark.parametrize(
    "body",
    [
        b"a\n.\nQUIT\r\n.\r\n",
        b"a\n.\r\nMAIL FROM:<b@example.org>\r\n.\r\n",
        b"a\r\n.\nb\r\n.\r\n",
        b"a\r\n.\rb\r\n.\r\n",
        b"a\r.\rb\r\n.\r\n",
        b"a\r.\r\nb\r\n.\r\n",
        b"a\rb\r\n.\r\n",
        b"a\nb\r\n.\r\n",
        b"\n.\r\n\r\n.\r\n",
        b"a\r\r\n.\r\n",
        b"a\r\n\r.\r\n\r\n.\r\n",
    ],
)
def test_a_bare_newline_spoils_the_message_and_ends_nothing(body: bytes) -> None:
    octets = OPENING + body + b"RSET\r\n"
    for size in (1, 2, 3, 4, 100):
        events = drive(octets, size)
        assert events[-1] == Rset()
        assert isinstance(events[-2], BodyEnd)
        assert events[-2].verdict is Verdict.BARE_NEWLINE
        assert [e for e in events if isinstance(e, BodySpoiled)] == [BodySpoiled(Verdict.BARE_NEWLINE)]
        passed = b"".join(e.chunk for e in events if isinstance(e, BodyData))
        assert b"\n" not in passed.replace(b"\r\n", b""), "a bare LF went on"
        assert body.startswith(passed)


@pytest.mark.parametrize(
    ("body", "replaced"),
    [
        (b"a\nb\r\n.\r\n", b"a\r\nb\r\n"),
        (b"a\rb\r\n.\r\n", b"a\r\nb\r\n"),
        (b"a\r\r\n.\r\n", b"a\r\n\r\n"),
        (b"a\n\n.\n\r\n.\r\n", b"a\r\n\r\n..\r\n\r\n"),
        (b"a\n.\r\nb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
        (b"a\n.b\r\n.\r\n", b"a\r\n..b\r\n"),
        (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
        (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
        (b"a\r\n..b\r\n.\r\n", b"a\r\n..b\r\n"),
        (b"a\r\n.b\r\n.\r\n", b"a\r\n.b\r\n"),
    ],
)
def test_replaced_newlines_never_make_an_end(body: bytes, replaced: bytes) -> None:
    events = three_ways(OPENING + body, replace=True)
    assert events[4] == BodyData(replaced)
    assert isinstance(events[5], BodyEnd)
    assert events[5].verdict is Verdict.GOOD
    assert END_OF_DATA not in [line + b"\r\n" for line in replaced.split(b"\r\n")]


def test_size_is_refused_at_mail_and_counted_in_data() -> None:
    limits = Limits(max_size=10)
    events = three_ways(b"LHLO c\r\nMAIL FROM:<a@example.org> SIZE=11\r\n", limits)
    assert isinstance(events[1], Refused)
    assert events[1].reply.code == 552
    events = drive(OPENING + b"12345678\r\n.\r\n", 100, limits)
    assert events[-1] == BodyEnd(10, Verdict.GOOD, False)
    events = drive(OPENING + b"123456789\r\n.\r\nRSET\r\n", 100, limits)
    assert events[4:] == [BodySpoiled(Verdict.TOO_LARGE), BodyEnd(11, Verdict.TOO_LARGE, False), Rset()]


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"MAIL FROM:<>\r\n", 503),
        (b"LHLO c\r\nRCPT TO:<u@example.org>\r\n", 503),
        (b"LHLO c\r\nDATA\r\n", 503),
        (b"LHLO c\r\nMAIL FROM:<>\r\nDATA\r\n", 503),
        (b"LHLO c\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n", 503),
        (b"NOOP\n", 500),
        (b"NOOP " + b"x" * 3000 + b"\r\n", 500),
        (b"NOOP " + b"x" * 300_000 + b"\r\n", 500),
        (b"\xff\xfe\r\n", 500),
    ],
)
def test_out_of_order_or_no_line(octets: bytes, code: int) -> None:
    for size in (1, 7, 4096) if len(octets) < 10_000 else (4096, 1 << 20):
        last = drive(octets, size)[-1]
        assert isinstance(last, Refused)
        assert last.reply.code == code
        assert not last.close


def test_after_too_long_a_line_the_next_one_is_understood() -> None:
    assert three_ways(b"NOOP " + b"x" * 3000 + b"\r\nQUIT\r\n")[1:] == [Quit()]


def test_too_many_errors() -> None:
    events = three_ways(b"FROB\r\n" * 4, Limits(max_errors=2))
    assert [event.close for event in events if isinstance(event, Refused)] == [False, False, True]


def test_too_many_recipients_is_no_error() -> None:
    octets = b"LHLO c\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<u@example.org>\r\n" * 5
    events = three_ways(octets, Limits(max_recipients=2, max_errors=1))
    assert [event.reply.code for event in events if isinstance(event, Refused)] == [452, 452, 452]


def test_nothing_is_read_after_data_before_the_decision() -> None:
    connection = ServerConnection()
    connection.receive_data(OPENING + b"MAIL FROM:<evil@example.org>\r\n")
    events = [connection.next_event() for _ in range(5)]
    assert events[-1] is PAUSED
    assert connection.next_event() is PAUSED
    assert connection.buffered
    connection.refuse_data()
    assert connection.state is ServerState.READY
    with pytest.raises(LocalProtocolError):
        connection.accept_data()


def test_every_row_of_the_server_table_is_the_only_way() -> None:
    assert {state for state, _ in SERVER} | {ServerState.CLOSED} == set(ServerState)
    assert {step for _, step in SERVER} == set(ServerInput)
    assert SERVER[ServerState.DATA, ServerInput.ACCEPT] is ServerState.BODY
    assert [key for key, after in SERVER.items() if after is ServerState.BODY] == [
        (ServerState.DATA, ServerInput.ACCEPT)
    ]
    assert [key for key, after in SERVER.items() if after is ServerState.CHUNK] == [
        (ServerState.CHUNK_ASKED, ServerInput.ACCEPT),
        (ServerState.CHUNKS, ServerInput.BDAT),
    ]


def test_only_354_leads_to_the_body() -> None:
    assert {state for state, _ in CLIENT} | {ClientState.CLOSED} == set(ClientState)
    assert [key for key, after in CLIENT.items() if after is ClientState.BODY] == [
        (ClientState.GATED, ClientInput.GO_AHEAD)
    ]


def backend(octets: bytes = b"220 b\r\n250-b\r\n250 PIPELINING\r\n", **kwargs: object) -> ClientConnection:
    """A connection whose backend has said `octets`, each reply after the command before it was taken; the last one is
    still to be looked at."""
    connection = ClientConnection("router", **kwargs)  # type: ignore[arg-type]
    *before, last = re.findall(rb"(?:[0-9]{3}-.*\r\n)*[0-9]{3} .*\r\n", octets)
    for answer in before:
        connection.receive_data(answer)
        assert connection.next_event() is NEED_DATA
        assert connection.data_to_send()
    connection.receive_data(last)
    return connection


def ready(octets: bytes = b"220 b\r\n250-b\r\n250 PIPELINING\r\n") -> ClientConnection:
    connection = backend(octets)
    assert connection.next_event() == Ready()
    connection.data_to_send()
    return connection


def test_handshake() -> None:
    connection = ClientConnection("router")
    assert connection.next_event() is NEED_DATA
    connection.receive_data(b"220 b\r\n")
    assert connection.next_event() is NEED_DATA
    assert connection.data_to_send() == b"LHLO router\r\n"
    connection.receive_data(b"250-b\r\n250 8BITMIME\r\n")
    assert connection.next_event() == Ready()
    assert connection.extensions == {b"8BITMIME"}
    assert connection.reusable


def test_handshake_with_auth() -> None:
    connection = backend(b"220 b\r\n250-b\r\n250 AUTH PLAIN\r\n", credentials=("murder", "secret"))
    assert connection.next_event() is NEED_DATA
    assert connection.data_to_send().endswith(b"AUTH PLAIN AG11cmRlcgBzZWNyZXQ=\r\n")
    connection.receive_data(b"235 ok\r\n")
    assert connection.next_event() == Ready()


def test_a_backend_that_offers_no_plain_is_used_without() -> None:
    connection = backend(credentials=("murder", "secret"))
    assert connection.next_event() == Ready()


@pytest.mark.parametrize(
    ("octets", "command"),
    [(b"554 no\r\n", "greeting"), (b"220 b\r\n421 no\r\n", "lhlo"), (b"220 b\r\n250 AUTH PLAIN\r\n", "")],
)
def test_handshake_refused(octets: bytes, command: str) -> None:
    event = backend(octets).next_event()
    assert event == Ready() if not command else isinstance(event, HandshakeFailed) and event.command == command


def test_auth_refused() -> None:
    connection = backend(b"220 b\r\n250-b\r\n250 AUTH PLAIN\r\n535 no\r\n", credentials=("murder", "wrong"))
    event = connection.next_event()
    assert isinstance(event, HandshakeFailed)
    assert event.command == "auth"


def test_a_transaction_with_a_backend() -> None:
    connection = ready()
    connection.mail(Mail(b"<>"))
    connection.rcpt(b"<u@example.org>", "u")
    connection.rcpt(b"<v@example.org>", "v")
    connection.data()
    assert connection.data_to_send() == (
        b"MAIL FROM:<>\r\nRCPT TO:<u@example.org>\r\nRCPT TO:<v@example.org>\r\nDATA\r\n"
    )
    with pytest.raises(LocalProtocolError):
        connection.body(b"x")
    connection.receive_data(b"250 ok\r\n250 u\r\n550-no\r\n550 v\r\n354 go\r\n")
    events = [connection.next_event() for _ in range(4)]
    assert [(e.sent, e.context) for e in events if isinstance(e, Answered)] == [
        (Sent.MAIL, None),
        (Sent.RCPT, "u"),
        (Sent.RCPT, "v"),
        (Sent.DATA, None),
    ]
    assert connection.body(b"x\r\n") == b"x\r\n"
    assert connection.end(["u"]) == END_OF_DATA
    with pytest.raises(LocalProtocolError):
        connection.body(b"x")
    assert not connection.reusable
    connection.receive_data(b"250 u\r\n")
    event = connection.next_event()
    assert isinstance(event, Answered)
    assert (event.sent, event.context) == (Sent.MESSAGE, "u")
    assert connection.reusable
    connection.receive_data(b"250 u again\r\n")
    assert not connection.reusable
    with pytest.raises(RemoteProtocolError):
        connection.next_event()


def test_without_pipelining_commands_take_turns() -> None:
    connection = ready(b"220 b\r\n250 b\r\n")
    connection.mail(Mail(b"<>"))
    connection.rcpt(b"<u@example.org>", "u")
    connection.data()
    sent = []
    for answer in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
        sent.append(connection.data_to_send())
        connection.receive_data(answer)
        assert isinstance(connection.next_event(), Answered)
    assert sent == [b"MAIL FROM:<>\r\n", b"RCPT TO:<u@example.org>\r\n", b"DATA\r\n"]


@pytest.mark.parametrize("answers", [b"354 go\r\n", b"250 ok\r\n354 go\r\n", b"250 ok\r\n250 ok\r\n250 what\r\n"])
def test_a_reply_that_can_not_be_one_of_that_command(answers: bytes) -> None:
    connection = ready()
    connection.mail(Mail(b"<>"))
    connection.rcpt(b"<u@example.org>", "u")
    connection.data()
    connection.data_to_send()
    connection.receive_data(answers)
    with pytest.raises(RemoteProtocolError):
        for _ in range(4):
            connection.next_event()


def test_reset_after_a_refused_envelope_makes_it_reusable() -> None:
    connection = ready()
    connection.mail(Mail(b"<>"))
    connection.rset()
    connection.data_to_send()
    connection.receive_data(b"452 full\r\n")
    assert isinstance(connection.next_event(), Answered)
    assert not connection.reusable
    connection.receive_data(b"250 ok\r\n")
    assert isinstance(connection.next_event(), Answered)
    assert connection.reusable


@pytest.mark.parametrize(
    "octets",
    [
        b"220 b\r\n250 b\r\n",
        b"220 b\r\n" * 2,
        b"220-b\r\n220 b\r\n554 no\r\n",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_reply_to_a_greeting_that_was_not_yet_said(octets: bytes, whole: bool) -> None:
    """Told before LHLO was written: whoever says it answers something else, or tries to be in front of the answers."""
    connection = ClientConnection("router")
    with pytest.raises(RemoteProtocolError):
        for at in range(0, len(octets), len(octets) if whole else 1):
            connection.receive_data(octets[at : at + (len(octets) if whole else 1)])
            connection.next_event()


def test_a_reply_before_its_command_was_written() -> None:
    connection = ready()
    connection.mail(Mail(b"<>"))
    connection.rcpt(b"<u@example.org>", "u")
    connection.data_to_send()
    connection.rcpt(b"<v@example.org>", "v")
    connection.receive_data(b"250 ok\r\n250 u\r\n250 u again\r\n")
    assert [connection.next_event().context for _ in range(2)] == [None, "u"]  # type: ignore[union-attr]
    with pytest.raises(RemoteProtocolError):
        connection.next_event()


def test_a_reply_to_a_command_whose_turn_has_not_come() -> None:
    connection = ready(b"220 b\r\n250 b\r\n")
    connection.mail(Mail(b"<>"))
    connection.rcpt(b"<u@example.org>", "u")
    assert connection.data_to_send() == b"MAIL FROM:<>\r\n"
    connection.receive_data(b"250 ok\r\n550 not asked\r\n")
    assert isinstance(connection.next_event(), Answered)
    with pytest.raises(RemoteProtocolError):
        connection.next_event()
