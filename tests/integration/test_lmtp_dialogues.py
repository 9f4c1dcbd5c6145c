"""What a client may say in LMTP, said to our router and to the lmtpd of a real Cyrus: both give the same codes.

Where ours differs from Cyrus', the dialogue says why (`because`) and has both answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from tests.harness import imap
from tests.harness.lmtp import Lmtp
from tests.harness.ours import ROUTER_PORT
from tests.harness.topology import Delivery

pytestmark = pytest.mark.integration

LMTPD_PORT = 2004


class Dialogue(NamedTuple):
    """What is sent after LHLO, the codes that answer it, and Cyrus' codes where they are others."""

    said: bytes
    codes: Sequence[int]
    cyrus: Sequence[int] = ()
    because: str = ""


M, R = b"MAIL FROM:<a@example.net>\r\n", b"RCPT TO:<$U@example.org>\r\n"
BODY = b"Message-ID: <$U.1@x>\r\nSubject: x\r\n\r\nbody\r\n.\r\n"

DIALOGUES = {
    "one message": Dialogue(M + R + b"DATA\r\n" + BODY, [250, 250, 354, 250]),
    "one message, pipelined behind it the next": Dialogue(
        M + R + b"DATA\r\n" + BODY + M + R + b"DATA\r\n" + BODY, [250, 250, 354, 250, 250, 250, 354, 250]
    ),
    "the same recipient twice": Dialogue(M + R + R + b"DATA\r\n" + BODY, [250, 250, 250, 354, 250, 250]),
    "one of two recipients": Dialogue(
        M + b"RCPT TO:<nobody$U@example.org>\r\n" + R + b"DATA\r\n" + BODY, [250, 550, 250, 354, 250]
    ),
    "an empty message": Dialogue(M + R + b"DATA\r\n.\r\n", [250, 250, 354, 250]),
    "lower case": Dialogue(
        (M + R).replace(b"MAIL FROM", b"mail from").replace(b"RCPT TO", b"rcpt to") + b"data\r\n" + BODY,
        [250, 250, 354, 250],
    ),
    "the null reverse-path": Dialogue(b"MAIL FROM:<>\r\n" + R + b"DATA\r\n" + BODY, [250, 250, 354, 250]),
    "a quoted reverse-path": Dialogue(b'MAIL FROM:<"a b"@example.net>\r\n' + R, [250, 250]),
    "a reverse-path without a domain": Dialogue(b"MAIL FROM:<a>\r\n", [250]),
    "a reverse-path with a source route": Dialogue(b"MAIL FROM:<@x.example,@y.example:a@example.net>\r\n", [250]),
    "a reverse-path without brackets": Dialogue(b"MAIL FROM:a@example.net\r\n", [501]),
    "a reverse-path with a blank in front": Dialogue(b"MAIL FROM: <a@example.net>\r\n", [501]),
    "MAIL alone": Dialogue(b"MAIL\r\n", [501], [500], "the command is known, its argument is missing"),
    "MAIL twice": Dialogue(M + M, [250, 503]),
    "RCPT without MAIL": Dialogue(R, [503]),
    "RCPT to nobody": Dialogue(M + b"RCPT TO:<>\r\n", [250, 501], [250, 550], "there is no null forward-path"),
    "DATA without MAIL": Dialogue(b"DATA\r\n", [503]),
    "DATA without RCPT": Dialogue(M + b"DATA\r\n", [250, 503]),
    "DATA when all were refused": Dialogue(
        M + b"RCPT TO:<nobody$U@example.org>\r\nDATA\r\n",
        [250, 550, 554, 421],
        [250, 550, 503, 221],
        "what follows a refused DATA may be the message: it is no QUIT",
    ),
    "RSET": Dialogue(b"RSET\r\n" + M + R + b"RSET\r\n" + R + b"RSET\r\n", [250, 250, 250, 250, 503, 250]),
    "RSET with more": Dialogue(b"RSET now\r\n", [501], [500], "the command is known, its argument is not"),
    "NOOP": Dialogue(b"NOOP\r\n" + M + b"NOOP\r\n" + R + b"NOOP\r\n", [250, 250, 250, 250, 250]),
    "NOOP with more": Dialogue(b"NOOP whatever\r\n", [250], [500], "RFC 5321 4.1.1.9 has the argument ignored"),
    "VRFY": Dialogue(b"VRFY $U\r\n", [252]),
    "LHLO again": Dialogue(
        M + R + b"LHLO c\r\n" + R, [250, 250, 250, 503], [250, 250, 250, 250], "RFC 5321 4.1.4: it is a RSET too"
    ),
    "EHLO": Dialogue(b"EHLO c\r\n", [500]),
    "HELO": Dialogue(b"HELO c\r\n", [500]),
    "no command": Dialogue(b"FROB\r\n\r\nNOOP\r\n", [500, 500, 250]),
    "SIZE": Dialogue(b"MAIL FROM:<> SIZE=1000 BODY=8BITMIME\r\n", [250]),
    "SIZE that is no number": Dialogue(b"MAIL FROM:<> SIZE=x\r\n", [501]),
    "SIZE twice": Dialogue(b"MAIL FROM:<> SIZE=1 SIZE=1\r\n", [501], [250], "which of two would count?"),
    "SIZE beyond all limits": Dialogue(
        b"MAIL FROM:<> SIZE=99999999999\r\n", [552], [250], "max_size is ours; that Cyrus has no limit"
    ),
    "BODY=7BIT": Dialogue(b"MAIL FROM:<> BODY=7BIT\r\n", [250]),
    "BODY that is none": Dialogue(b"MAIL FROM:<> BODY=9BIT\r\n", [501]),
    "a parameter that nobody knows": Dialogue(b"MAIL FROM:<> FROB=1\r\n", [555], [501], "RFC 5321 4.1.1.11"),
    "SMTPUTF8": Dialogue(b"MAIL FROM:<> SMTPUTF8\r\n", [555], [501], "RFC 5321 4.1.1.11"),
    "RET": Dialogue(b"MAIL FROM:<> RET=FULL\r\n", [555], [501], "RFC 5321 4.1.1.11"),
    "NOTIFY": Dialogue(M + R[:-2] + b" NOTIFY=NEVER\r\n", [250, 555], [250, 501], "RFC 5321 4.1.1.11"),
    "ORCPT": Dialogue(M + R[:-2] + b" ORCPT=rfc822;x@y\r\n", [250, 250], [250, 501], "Dovecot adds it unasked"),
    "a long command": Dialogue(
        b"NOOP " + b"x" * 5000 + b"\r\nNOOP\r\n", [500, 250], [500, 500, 250], "one line, one reply"
    ),
    "BDAT": Dialogue(M + R + b"BDAT 0 LAST\r\n", [250, 250, 250], [250, 250, 500], "CHUNKING is ours, Cyrus has none"),
}


@pytest.fixture(scope="module")
def user(router_2b: Delivery) -> str:
    user = router_2b.user()
    with router_2b.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
    return user


@pytest.mark.parametrize("name", DIALOGUES)
@pytest.mark.parametrize("server", ["ours", "cyrus"])
def test_dialogue(router_2b: Delivery, user: str, name: str, server: str) -> None:
    dialogue = DIALOGUES[name]
    ours = server == "ours"
    place = (router_2b.router.address, ROUTER_PORT) if ours else (router_2b.be1.address, LMTPD_PORT)
    with Lmtp(*place, timeout_s=15.0) as client:
        client.send(dialogue.said.replace(b"$U", user.encode()) + b"QUIT\r\n")
        codes = []
        with contextlib.suppress(ConnectionError):
            while True:
                codes.append(client.reply().code)
    expected = list(dialogue.codes if ours or not dialogue.because else dialogue.cyrus)
    assert codes == (expected if expected[-1] in (221, 421) else [*expected, 221])
