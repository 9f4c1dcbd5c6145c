"""Command lines to commands, replies of backends to replies."""

from __future__ import annotations

import pytest

from cyrusext.errors import RemoteProtocolError
from cyrusext.names import NameRules, mailbox_of_address
from lmtp_router.protocol import codec
from lmtp_router.protocol.types import (
    Bdat,
    Data,
    Ehlo,
    Helo,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Refused,
    Reply,
    Rset,
    Vrfy,
    reply,
)

EIGHT = frozenset({b"8BITMIME"})
UTF8 = frozenset({b"SMTPUTF8"})
DSN = frozenset({b"DSN"})

COMMANDS = [
    (b"LHLO client.example.org", Lhlo(b"client.example.org")),
    (b"lhlo [127.0.0.1]", Lhlo(b"[127.0.0.1]")),
    (b"MAIL FROM:<>", Mail(b"<>")),
    (b"MAIL FROM:<a@example.org>", Mail(b"<a@example.org>")),
    (b"mail from:<a@example.org> size=1234 body=8bitmime", Mail(b"<a@example.org>", 1234, b"8BITMIME", b"", EIGHT)),
    (b"MAIL FROM:<a@example.org> BODY=7BIT", Mail(b"<a@example.org>", 0, b"7BIT")),
    (b'MAIL FROM:<"a b>c"@example.org>', Mail(b'<"a b>c"@example.org>')),
    (b'MAIL FROM:<"a"@example.org>', Mail(b'<"a"@example.org>')),
    (
        b"MAIL FROM:<a@example.org> BODY=BINARYMIME",
        Mail(b"<a@example.org>", 0, b"BINARYMIME", b"", frozenset({b"BINARYMIME", b"CHUNKING"})),
    ),
    (b"MAIL FROM:<a@example.org> SMTPUTF8", Mail(b"<a@example.org>", 0, b"", b" SMTPUTF8", UTF8)),
    (
        b"MAIL FROM:<\xc3\xa4@example.org> smtputf8 SIZE=7",
        Mail(b"<\xc3\xa4@example.org>", 7, b"", b" SMTPUTF8", UTF8),
    ),
    (b"MAIL FROM:<> RET=hdrs ENVID=a+2Bb", Mail(b"<>", 0, b"", b" RET=hdrs ENVID=a+2Bb", DSN)),
    (
        b"MAIL FROM:<> SMTPUTF8 RET=FULL BODY=8BITMIME",
        Mail(b"<>", 0, b"8BITMIME", b" SMTPUTF8 RET=FULL", EIGHT | UTF8 | DSN),
    ),
    (b"MAIL FROM:<> ENVID=" + b"x" * 100, Mail(b"<>", 0, b"", b" ENVID=" + b"x" * 100, DSN)),
    (b"MAIL FROM:<> PRDR", Mail(b"<>", prdr=True)),
    (b"RCPT TO:<u@example.org>", Rcpt(b"<u@example.org>")),
    (b"RCPT TO:<u+Folder@example.org>", Rcpt(b"<u+Folder@example.org>")),
    (b"RCPT TO:<@a.example,@b.example:u@example.org>", Rcpt(b"<u@example.org>")),
    (b"RCPT TO:<postmaster>", Rcpt(b"<postmaster>")),
    (b"RCPT TO:<u@[127.0.0.1]>", Rcpt(b"<u@[127.0.0.1]>")),
    (b'RCPT TO:<"u"@example.org>', Rcpt(b"<u@example.org>")),
    (b'RCPT TO:<"\\u\\+x.y"@example.org>', Rcpt(b"<u+x.y@example.org>")),
    (b'RCPT TO:<"u">', Rcpt(b"<u>")),
    (b'RCPT TO:<"u v"@example.org>', Rcpt(b'<"u v"@example.org>')),
    (b'RCPT TO:<".u"@example.org>', Rcpt(b'<".u"@example.org>')),
    (b'RCPT TO:<""@example.org>', Rcpt(b'<""@example.org>')),
    (b'RCPT TO:<"a@b"@example.org>', Rcpt(b'<"a@b"@example.org>')),
    (b"RCPT TO:<\xc3\xbc@example.org>", Rcpt(b"<\xc3\xbc@example.org>")),
    (
        b"RCPT TO:<u@example.org> ORCPT=rfc822;U@example.org",
        Rcpt(b"<u@example.org>", b" ORCPT=rfc822;U@example.org"),
    ),
    (b"RCPT TO:<u@example.org> notify=never", Rcpt(b"<u@example.org>", b" NOTIFY=never", True)),
    (
        b"RCPT TO:<u@example.org> ORCPT=rfc822;a+2Bb@x NOTIFY=SUCCESS,delay,FAILURE",
        Rcpt(b"<u@example.org>", b" NOTIFY=SUCCESS,delay,FAILURE ORCPT=rfc822;a+2Bb@x", True),
    ),
    (b"RCPT TO:<u> ORCPT=utf-8;\xc3\xbc\\x{E4}@x", Rcpt(b"<u>", b" ORCPT=utf-8;\xc3\xbc\\x{E4}@x")),
    (b"RCPT TO:<u> ORCPT=utf-8;\\x{10FFFF}", Rcpt(b"<u>", b" ORCPT=utf-8;\\x{10FFFF}")),
    (b"EHLO client.example.org", Ehlo(b"client.example.org")),
    (b"helo c", Helo(b"c")),
    (b"DATA", Data()),
    (b"BDAT 0", Bdat(0)),
    (b"bdat 86 last", Bdat(86, True)),
    (b"BDAT 12345678901234567890  LAST ", Bdat(12345678901234567890, True)),
    (b"RSET", Rset()),
    (b"NOOP whatever it is", Noop()),
    (b"VRFY u", Vrfy(b"u")),
    (b"quit", Quit()),
]

REFUSED = [
    (b"EHLO", b"501 5.5.4"),
    (b"HELO a b", b"501 5.5.4"),
    (b"LHLO", b"501 5.5.4"),
    (b"LHLO two words", b"501 5.5.4"),
    (b"", b"500 5.5.1"),
    (b"FROB", b"500 5.5.1"),
    (b"DATA now", b"501 5.5.4"),
    (b"BDAT", b"501 5.5.4"),
    (b"BDAT LAST", b"501 5.5.4"),
    (b"BDAT -1", b"501 5.5.4"),
    (b"BDAT +1", b"501 5.5.4"),
    (b"BDAT 1x", b"501 5.5.4"),
    (b"BDAT 5 FIRST", b"501 5.5.4"),
    (b"BDAT 5LAST", b"501 5.5.4"),
    (b"BDAT " + b"1" * 21, b"501 5.5.4"),
    (b"VRFY", b"501 5.5.4"),
    (b"MAIL", b"501 5.5.4"),
    (b"MAIL FROM:", b"501 5.1.7"),
    (b"MAIL FROM:a@example.org", b"501 5.1.7"),
    (b"MAIL FROM: <a@example.org>", b"501 5.1.7"),
    (b"MAIL FROM:< a@example.org>", b"501 5.1.7"),
    (b"MAIL FROM:<a@example.org", b"501 5.1.7"),
    (b"MAIL FROM:<a@example.org>SIZE=1", b"501 5.1.7"),
    (b"MAIL FROM:<a<b@example.org>", b"501 5.1.7"),
    (b'MAIL FROM:<"a@example.org>', b"501 5.1.7"),
    (b"MAIL FROM:<a@example.org> SIZE=", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> SIZE=-1", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> SIZE=1 SIZE=2", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> BODY=9BIT", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> SMTPUTF8=1", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> PRDR=1", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> RET=ALL", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> ENVID=", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> ENVID=a+b", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> ENVID=a+2b", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> ENVID=a+", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> ENVID=a\tb", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> ENVID=\xc3\xbc", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> ENVID=" + b"x" * 101, b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> =x", b"501 5.5.4"),
    (b"MAIL FROM:<a@example.org> FROB", b"555 5.5.4"),
    (b"MAIL FROM:<\xc3\xa4@example.org>", b"553 5.6.7"),
    (b"MAIL FROM:<\xc3\xa4@example.org> SIZE=1", b"553 5.6.7"),
    (b"MAIL FROM:<\xc3@example.org> SMTPUTF8", b"501 5.1.7"),
    (b"MAIL FROM:<a@example.org> AUTH=", b"501 5.5.4"),
    (b"RCPT TO:<>", b"501 5.1.3"),
    (b"RCPT TO:<@a.example:>", b"501 5.1.3"),
    (b"RCPT TO:<@a.example>", b"501 5.1.3"),
    (b"RCPT TO:<u@example.org> NOTIFY=", b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> NOTIFY=OFTEN", b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> NOTIFY=NEVER,DELAY", b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> NOTIFY=DELAY,DELAY", b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> NOTIFY=DELAY,", b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> ORCPT=rfc822", b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> ORCPT=;u", b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> ORCPT=rfc822;", b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> ORCPT=rfc822;a+b", b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> ORCPT=rfc822;\xc3\xbc", b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> ORCPT=utf-8;\xc3", b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> ORCPT=utf-8;\xc3\xbc\\", b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> ORCPT=rfc822;" + b"x" * 500, b"501 5.5.4"),
    (b"RCPT TO:<u@example.org> SIZE=3", b"555 5.5.4"),
    (b"RCPT TO:<\xbc@example.org>", b"501 5.1.3"),
    (b"RCPT TO:<" + b"u" * 2000 + b"@example.org>", b"501 5.1.3"),
    (b"RCPT TO:<u\0@example.org>", b"500 5.5.2"),
    (b"NOOP\rRSET", b"500 5.5.2"),
]


@pytest.mark.parametrize(("line", "command"), COMMANDS)
def test_commands(line: bytes, command: object) -> None:
    assert codec.parse_command(line) == command


@pytest.mark.parametrize(("line", "answer"), REFUSED)
def test_refused(line: bytes, answer: bytes) -> None:
    parsed = codec.parse_command(line)
    assert isinstance(parsed, Refused)
    assert parsed.reply.raw.startswith(answer)


@pytest.mark.parametrize(
    ("path", "mailbox"),
    [
        (b"<u@example.org>", b"user.u"),
        (b'<"u"@example.org>', b"user.u"),
        (b'<"a b"@example.org>', b"user.a b"),
        (b'<"a\\"b c"@example.org>', b'user.a"b c'),
        (b'<"a@b"@example.org>', b"user.a@b"),
        (b'<"a\\+b"@example.org>', b"user.a"),
        (b"<postmaster>", b"user.postmaster"),
    ],
)
def test_recipients_name_the_mailbox_that_the_lookup_finds(path: bytes, mailbox: bytes) -> None:
    parsed = codec.parse_command(b"RCPT TO:" + path)
    assert isinstance(parsed, Rcpt)
    assert mailbox_of_address(parsed.address, NameRules()) == mailbox


def test_mail_for_a_backend_has_what_the_backend_takes() -> None:
    mail = Mail(b"<a@example.org>", 10, b"8BITMIME", b"", EIGHT)
    assert codec.build_mail(mail, frozenset()) == b"MAIL FROM:<a@example.org>\r\n"
    full = codec.build_mail(mail, frozenset({b"SIZE", b"8BITMIME"}))
    assert full == b"MAIL FROM:<a@example.org> SIZE=10 BODY=8BITMIME\r\n"
    assert codec.parse_command(full[:-2]) == mail
    mail = Mail(b"<a@example.org>", 0, b"", b" SMTPUTF8 RET=FULL ENVID=x", UTF8 | DSN)
    full = codec.build_mail(mail, UTF8 | DSN)
    assert full == b"MAIL FROM:<a@example.org> SMTPUTF8 RET=FULL ENVID=x\r\n"
    assert codec.parse_command(full[:-2]) == mail


def test_extensions() -> None:
    answer = Reply(250, b"250-host\r\n250-AUTH PLAIN login\r\n250-size 100\r\n250 PIPELINING\r\n")
    assert codec.parse_extensions(answer) == (
        frozenset({b"AUTH", b"SIZE", b"PIPELINING"}),
        frozenset({b"PLAIN", b"LOGIN"}),
    )


def test_auth_plain() -> None:
    assert codec.build_auth_plain("murder", "secret") == b"AUTH PLAIN AG11cmRlcgBzZWNyZXQ=\r\n"


REPLIES = [
    [b"250 2.0.0 ok\r\n"],
    [b"250\r\n"],
    [b"550-Mailbox unknown.\r\n550-Either there is none or you may not see it.\r\n550 5.1.1 User unknown\r\n"],
    [b"250-a\r\n250-b\r\n250 c\r\n", b"354 go\r\n", b"452 4.2.2 Over quota\tnow\r\n"],
    [b"250 \xc3\xbc\r\n"],
]


@pytest.mark.parametrize("answers", REPLIES)
def test_replies_in_any_pieces(answers: list[bytes]) -> None:
    whole = b"".join(answers)
    for size in (1, 2, 3, 7, len(whole)):
        parser = codec.ReplyParser()
        found = [r for at in range(0, len(whole), size) for r in parser.feed(whole[at : at + size])]
        assert [r.raw for r in found] == answers
        assert [r.code for r in found] == [int(answer[:3]) for answer in answers]
        assert not parser.partial
    parser = codec.ReplyParser()
    assert [r.raw for r in parser.feed(whole + b"250-more")] == answers
    assert parser.partial


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"25\r\n",
        b"hello\r\n",
        b"250ok\r\n",
        b"150 no\r\n",
        b"650 no\r\n",
        b"250-a\r\n251 b\r\n",
        b"250 a\n250 b\r\n",
        b"250 a\rb\r\n",
        b"250 a\0\r\n",
        b"250 " + b"x" * 3000,
        b"250 " + b"x" * 3000 + b"\r\n",
        b"250-x\r\n" * 200,
    ],
)
def test_no_replies(octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.ReplyParser().feed(octets)
    assert caught.value.fatal
    parser = codec.ReplyParser()
    with pytest.raises(RemoteProtocolError):
        for at in range(len(octets)):
            parser.feed(octets[at : at + 1])


def test_replies_of_our_own() -> None:
    assert reply(250, "one", "two").raw == b"250-one\r\n250 two\r\n"
    answer = Reply(550, REPLIES[2][0])
    assert answer.has_status(b"5.1.1")
    assert not answer.has_status(b"5.1")
    assert answer.text.startswith("550 Mailbox unknown. / Either")
    assert answer.failure
    assert not answer.positive
