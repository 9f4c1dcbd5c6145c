"""The two ends of a connection without a socket; every exchange whole, octet by octet, and with more behind it."""

from __future__ import annotations

import pytest

from cyrusext.errors import LocalProtocolError, RemoteProtocolError
from lmtp_router.protocol.connection import END_OF_DATA, ClientConnection, Limits, ServerConnection, offered
from lmtp_router.protocol.state import CLIENT, SERVER, ClientInput, ClientState, ServerInput, ServerState
from lmtp_router.protocol.types import (
    NEED_DATA,
    PAUSED,
    Answered,
    Bdat,
    BodyData,
    BodyEnd,
    BodySpoiled,
    ChunkEnd,
    Data,
    Ehlo,
    HandshakeFailed,
    Helo,
    Lhlo,
    Mail,
    NeedData,
    Noop,
    Quit,
    Rcpt,
    Ready,
    Refused,
    Rset,
    Sent,
    ServerEvent,
    Verdict,
)

OPENING = b"LHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<u@example.org>\r\nDATA\r\n"


def drive(octets: bytes, size: int, limits: Limits | None = None, *, replace: bool = False) -> list[ServerEvent]:
    """Feed `octets` in pieces; accept every DATA and answer every message.  Chunks of a body are joined."""
    connection = ServerConnection(limits, replace_bare_newlines=replace)
    events: list[ServerEvent] = []
    for at in range(0, len(octets), size):
        connection.receive_data(octets[at : at + size])
        while True:
            event = connection.next_event()
            if event is PAUSED and connection.state in (ServerState.DATA, ServerState.CHUNK_ASKED):
                connection.accept_data()
            elif event is PAUSED and connection.state is ServerState.FINAL:
                connection.replied()
            elif isinstance(event, NeedData):
                break
            elif isinstance(event, BodyData) and events and isinstance(events[-1], BodyData):
                events[-1] = BodyData(events[-1].chunk + event.chunk)
            else:
                events.append(event)
    return events


def three_ways(octets: bytes, limits: Limits | None = None, *, replace: bool = False) -> list[ServerEvent]:
    whole = drive(octets, len(octets), limits, replace=replace)
    for size in (1, 2, 3, 5):
        assert drive(octets, size, limits, replace=replace) == whole
    assert drive(octets + b"QUI", len(octets) + 3, limits, replace=replace) == whole
    return whole


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


ALL = frozenset({b"8BITMIME", b"SMTPUTF8", b"DSN", b"CHUNKING", b"BINARYMIME", b"XFOO"})


@pytest.mark.parametrize(
    ("known", "shared"),
    [
        ([], {b"8BITMIME"}),
        ([ALL], {b"8BITMIME", b"SMTPUTF8", b"DSN", b"BINARYMIME"}),
        ([ALL, ALL - {b"DSN"}], {b"8BITMIME", b"SMTPUTF8", b"BINARYMIME"}),
        ([ALL - {b"CHUNKING"}, ALL], {b"8BITMIME", b"SMTPUTF8", b"DSN"}),
        ([ALL, frozenset()], set()),
    ],
)
def test_what_is_offered_is_what_all_known_backends_have(known: list[frozenset[bytes]], shared: set[bytes]) -> None:
    assert offered(known) == shared


def greeted(*words: bytes, smtp: bool = False) -> ServerConnection:
    connection = ServerConnection(smtp=smtp)
    connection.receive_data(b"EHLO c\r\n" if smtp else b"LHLO c\r\n")
    hello = connection.next_event()
    assert isinstance(hello, Ehlo if smtp else Lhlo)
    said = connection.hello(hello, "router", frozenset(words))
    assert {line.split(b" ")[0] for line in said.lines[1:]} == {
        b"PIPELINING",
        b"SIZE",
        b"ENHANCEDSTATUSCODES",
        b"CHUNKING",
        *words,
        *([b"PRDR"] if smtp else []),
    }
    return connection


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"MAIL FROM:<> BODY=8BITMIME", b"8BITMIME"),
        (b"MAIL FROM:<> SMTPUTF8", b"SMTPUTF8"),
        (b"MAIL FROM:<> RET=FULL", b"DSN"),
        (b"MAIL FROM:<> ENVID=x", b"DSN"),
    ],
)
def test_a_parameter_that_was_not_offered_is_refused(line: bytes, word: bytes) -> None:
    for words, taken in (((), False), ((word,), True), ((b"8BITMIME", b"SMTPUTF8", b"DSN"), True)):
        connection = greeted(*words)
        connection.receive_data(line + b"\r\n")
        event = connection.next_event()
        assert isinstance(event, Mail if taken else Refused)
        if isinstance(event, Refused):
            assert event.reply.raw.startswith(b"555 5.5.4")


def test_recipients_of_a_session_without_dsn() -> None:
    connection = greeted()
    connection.receive_data(b"MAIL FROM:<>\r\nRCPT TO:<u> NOTIFY=NEVER\r\nRCPT TO:<u> ORCPT=rfc822;u\r\n")
    events = [connection.next_event() for _ in range(3)]
    assert isinstance(events[1], Refused)
    assert events[1].reply.code == 555
    assert events[2] == Rcpt(b"<u>", b" ORCPT=rfc822;u"), "Dovecot adds it unasked"


@pytest.mark.parametrize("line", [b"RCPT TO:<\xc3\xbc@example.org>\r\n", b"RCPT TO:<u> ORCPT=utf-8;\xc3\xbc\r\n"])
def test_only_mail_with_smtputf8_has_recipients_that_are_not_ascii(line: bytes) -> None:
    connection = greeted(b"SMTPUTF8")
    connection.receive_data(b"MAIL FROM:<>\r\n" + line + b"RSET\r\nMAIL FROM:<> SMTPUTF8\r\n" + line)
    events = [connection.next_event() for _ in range(5)]
    assert isinstance(events[1], Refused)
    assert events[1].reply.raw.startswith(b"553 5.6.7")
    assert isinstance(events[4], Rcpt)


def test_smtp_and_lmtp_are_not_mixed() -> None:
    for smtp, good, bad in ((False, [b"LHLO"], [b"EHLO", b"HELO"]), (True, [b"EHLO", b"HELO"], [b"LHLO"])):
        for verb in bad:
            connection = ServerConnection(smtp=smtp)
            connection.receive_data(verb + b" c\r\nMAIL FROM:<>\r\n")
            events = [connection.next_event(), connection.next_event()]
            assert [event.reply.code for event in events if isinstance(event, Refused)] == [500, 503]
        for verb in good:
            connection = ServerConnection(smtp=smtp)
            connection.receive_data(verb + b" c\r\nMAIL FROM:<>\r\n")
            assert isinstance(connection.next_event(), Lhlo | Ehlo | Helo)
            mail = connection.next_event()
            assert isinstance(mail, Mail)
            assert mail.one_reply is smtp


def test_prdr_is_smtp_only_and_not_for_helo() -> None:
    connection = greeted(smtp=True)
    connection.receive_data(b"MAIL FROM:<> PRDR\r\n")
    assert connection.next_event() == Mail(b"<>", prdr=True)
    connection = greeted()
    connection.receive_data(b"MAIL FROM:<> PRDR\r\n")
    assert isinstance(connection.next_event(), Refused)
    connection = greeted(b"8BITMIME", smtp=True)
    connection.receive_data(b"HELO c\r\n")
    hello = connection.next_event()
    assert isinstance(hello, Helo)
    assert connection.hello(hello, "router", ALL).raw == b"250 router\r\n"
    connection.receive_data(b"MAIL FROM:<> PRDR\r\nMAIL FROM:<> BODY=8BITMIME\r\nMAIL FROM:<>\r\n")
    assert [type(connection.next_event()) for _ in range(3)] == [Refused, Refused, Mail]


CHUNKS = b"LHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<u@example.org>\r\n"


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"BDAT 5 LAST\r\nabc\r\n", [Bdat(5, True), BodyData(b"abc\r\n"), BodyEnd(5, Verdict.GOOD, False)]),
        (b"BDAT 0 LAST\r\n", [Bdat(0, True), BodyEnd(0, Verdict.GOOD, False)]),
        (
            b"BDAT 3\r\nabcBDAT 0 LAST\r\n",
            [Bdat(3), BodyData(b"abc"), ChunkEnd(3), BodyData(b"\r\n"), BodyEnd(3, Verdict.GOOD, False)],
        ),
        (
            b"BDAT 0\r\nBDAT 4\r\na\r\n.NOOP\r\nBDAT 3 LAST\r\n\r\n.",
            [
                Bdat(0),
                ChunkEnd(0),
                BodyData(b"a\r\n.."),
                ChunkEnd(4),
                Noop(),
                BodyData(b"\r\n..\r\n"),
                BodyEnd(7, Verdict.GOOD, False),
            ],
        ),
        (
            b"BDAT 6 LAST\r\nQUIT\r\n",
            [Bdat(6, True), BodyData(b"QUIT\r\n"), BodyEnd(6, Verdict.GOOD, False)],
        ),
        (
            b"BDAT 2 LAST\r\n\0\xff",
            [Bdat(2, True), BodyData(b"\0\xff\r\n"), BodyEnd(2, Verdict.GOOD, True)],
        ),
    ],
)
def test_chunks(octets: bytes, expected: list[ServerEvent]) -> None:
    assert three_ways(CHUNKS + octets)[3:] == expected
    assert three_ways(CHUNKS + octets + b"RSET\r\n")[3:] == [*expected, Rset()]


@pytest.mark.parametrize("step", [b"RSET", b"LHLO c", b"QUIT"])
def test_a_message_is_given_up_between_chunks(step: bytes) -> None:
    events = three_ways(CHUNKS + b"BDAT 6\r\n.\r\nab\r" + step + b"\r\n")
    assert events[3:6] == [Bdat(6), BodyData(b"..\r\nab"), ChunkEnd(6)]
    assert isinstance(events[6], Rset | Lhlo | Quit)
    assert len(events) == 7


@pytest.mark.parametrize("line", [b"MAIL FROM:<>", b"RCPT TO:<u@example.org>", b"DATA"])
def test_only_chunks_follow_a_chunk(line: bytes) -> None:
    events = three_ways(CHUNKS + b"BDAT 1\r\nx" + line + b"\r\nBDAT 0 LAST\r\n")
    assert isinstance(events[6], Refused)
    assert events[6].reply.code == 503
    assert events[7:] == [BodyData(b"\r\n"), BodyEnd(1, Verdict.GOOD, False)]


@pytest.mark.parametrize("opening", [b"", b"LHLO c\r\n", b"LHLO c\r\nMAIL FROM:<>\r\n", CHUNKS + b"BDAT 0 LAST\r\n"])
def test_chunks_that_nobody_waits_for_are_read_and_are_no_commands(opening: bytes) -> None:
    octets = opening + b"BDAT 6\r\nQUIT\r\nBDAT 0\r\nBDAT 12 LAST\r\nMAIL FROM:<>RSET\r\n"
    events = three_ways(octets, Limits(max_errors=0))
    assert events[-1] == Rset()
    assert [event.reply.code for event in events[-4:-1] if isinstance(event, Refused)] == [503] * 3


def test_a_refused_chunk_is_read_and_is_no_command() -> None:
    octets = CHUNKS + b"BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n"
    for size in (1, 2, 5, 1000):
        connection = ServerConnection()
        found: list[ServerEvent] = []
        for at in range(0, len(octets), size):
            connection.receive_data(octets[at : at + size])
            while (event := connection.next_event()) is not NEED_DATA:
                if event is PAUSED:
                    connection.refuse_data()
                else:
                    found.append(event)
        assert found[3] == Bdat(6)
        assert isinstance(found[4], Refused)
        assert found[5:] == [Noop()]


@pytest.mark.parametrize("line", [b"BDAT x\r\n", b"BDAT 5\n", b"BDAT 5\0\r\n", b"bdat 5 " + b"x" * 3000 + b"\r\n"])
def test_after_a_chunk_without_a_size_nothing_is_understood(line: bytes) -> None:
    for size in (7, 4096):
        events = drive(CHUNKS + line + b"RSET\r\n", size)
        last = events[-1]
        if isinstance(last, Refused) and last.close:
            continue
        assert len(line) > 3000, "only of a line that was thrown away as it came nobody knows what it was"
        assert size == 7


@pytest.mark.parametrize("body", [b"a\nb\r\n", b"a\rb\r\n", b"a\r", b"\n.\n", b"\r\n.\r", b"\r\r\n"])
def test_bare_newlines_in_chunks(body: bytes) -> None:
    for cut in range(len(body) + 1):
        octets = b"BDAT %d\r\n%bBDAT %d LAST\r\n%b" % (cut, body[:cut], len(body) - cut, body[cut:])
        for size in (1, 3, 1000):
            events = drive(CHUNKS + octets + b"RSET\r\n", size)
            assert events[-1] == Rset()
            assert events[-2] == BodyEnd(len(body), Verdict.BARE_NEWLINE, False)
            assert events[-3] == BodySpoiled(Verdict.BARE_NEWLINE) or ChunkEnd(cut) in events
            replaced = drive(CHUNKS + octets, size, replace=True)
            whole = b"".join(event.chunk for event in replaced if isinstance(event, BodyData))
            assert replaced[-1] == BodyEnd(len(body), Verdict.GOOD, False)
            lines = whole.split(b"\r\n")
            assert lines.pop() == b""
            assert b"." not in lines
            assert not any(b"\r" in line or b"\n" in line for line in lines)


def test_the_size_of_chunks_is_counted() -> None:
    limits = Limits(max_size=10)
    events = three_ways(CHUNKS + b"BDAT 6\r\n123456BDAT 4 LAST\r\n78\r\n", limits)
    assert events[-1] == BodyEnd(10, Verdict.GOOD, False)
    events = drive(CHUNKS + b"BDAT 6\r\n123456BDAT 5\r\n789\r\nBDAT 0 LAST\r\nRSET\r\n", 1000, limits)
    assert events[-4:] == [
        BodySpoiled(Verdict.TOO_LARGE),
        ChunkEnd(5),
        BodyEnd(11, Verdict.TOO_LARGE, False),
        Rset(),
    ]


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
    connection = ClientConnection("router", **kwargs)  # type: ignore[arg-type]
    connection.receive_data(octets)
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
    connection.receive_data(answers)
    with pytest.raises(RemoteProtocolError):
        for _ in range(4):
            connection.next_event()


def test_reset_after_a_refused_envelope_makes_it_reusable() -> None:
    connection = ready()
    connection.mail(Mail(b"<>"))
    connection.rset()
    connection.receive_data(b"452 full\r\n")
    assert isinstance(connection.next_event(), Answered)
    assert not connection.reusable
    connection.receive_data(b"250 ok\r\n")
    assert isinstance(connection.next_event(), Answered)
    assert connection.reusable
