"""What is offered to clients, and that they get no more of it than was offered."""

from __future__ import annotations

import pytest

from lmtp_router.protocol.server import ServerConnection, offered
from lmtp_router.protocol.types import Ehlo, Helo, Lhlo, Mail, Rcpt, Refused

ALL = frozenset({b"8BITMIME", b"SMTPUTF8", b"DSN", b"CHUNKING", b"BINARYMIME", b"XFOO"})


@pytest.mark.parametrize(
    ("known", "shared"),
    [
        ([], {b"8BITMIME"}),
        ([ALL], {b"8BITMIME", b"SMTPUTF8", b"DSN"}),
        ([ALL, ALL - {b"DSN"}], {b"8BITMIME", b"SMTPUTF8"}),
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
