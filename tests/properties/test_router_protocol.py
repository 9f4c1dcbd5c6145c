"""Any octets, in any pieces: the same events, and never another error than the one that is promised."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from cyrusext.errors import RemoteProtocolError
from lmtp_router.protocol.client import ClientConnection
from lmtp_router.protocol.server import Limits, ServerConnection
from lmtp_router.protocol.state import ServerState
from lmtp_router.protocol.types import (
    PAUSED,
    Auth,
    BodyData,
    BodyEnd,
    BodySpoiled,
    Mail,
    NeedData,
    Reply,
    ServerEvent,
    Verdict,
)

_LINES = st.sampled_from(
    [
        b"LHLO c\r\n",
        b"MAIL FROM:<a@example.org>\r\n",
        b"MAIL FROM:<> SIZE=10\r\n",
        b"RCPT TO:<u@example.org>\r\n",
        b"DATA\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"QUIT\r\n",
        b"EHLO c\r\n",
        b"BDAT 3\r\n",
        b"BDAT 0\r\n",
        b"BDAT 7 LAST\r\n",
        b"BDAT 0 LAST\r\n",
        b"BDAT x\r\n",
        b"AUTH PLAIN\r\n",
        b"AUTH PLAIN AG11\r\n",
        b"AUTH LOGIN\r\n",
        b"AG11\r\n",
        b"*\r\n",
        b"MAIL FROM:<> AUTH=<>\r\n",
        b".\r\n",
        b"\r\n",
        b"text\r\n",
        b"..\r\n",
        b"bare\nnewline\r\n",
        b"x" * 70,
        b"\r",
        b"\0",
    ]
)
_OPENING = b"LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<u@example.org>\r\nDATA\r\n"
_TEXT = st.lists(st.one_of(_LINES, st.binary(max_size=8)), max_size=30).map(b"".join)
_CHUNKED = _OPENING[:-6] + b"BDAT 5\r\nab\r\n.BDAT 6\r\n"
SESSIONS = st.one_of(_TEXT, _TEXT.map(lambda text: _OPENING + text), _TEXT.map(lambda text: _CHUNKED + text))
CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=8)
LIMITS = Limits(max_size=200, max_line=60, max_recipients=3, max_errors=8)


def events(octets: bytes, cuts: list[int], *, accept: bool) -> list[ServerEvent]:
    connection = ServerConnection(LIMITS)
    connection.offers = ("AUTH PLAIN",)
    found: list[ServerEvent] = []
    at = turn = 0
    while at < len(octets):
        size = cuts[turn % len(cuts)]
        turn += 1
        connection.receive_data(octets[at : at + size])
        at += size
        while not isinstance(event := connection.next_event(), NeedData) or event is PAUSED:
            if event is PAUSED:
                if connection.state in (ServerState.DATA, ServerState.CHUNK_ASKED):
                    connection.accept_data() if accept else connection.refuse_data()
                elif connection.state is ServerState.FINAL:
                    connection.replied()
                elif connection.state is ServerState.LOGIN:
                    if found[-1] == Auth(b"PLAIN"):
                        connection.challenged()
                    else:
                        connection.login_decided(good=accept)
                else:
                    return found
            elif isinstance(event, BodySpoiled | BodyEnd):
                # Of two faults in one message the first that is seen counts: that the message is bad is what matters.
                good = event.verdict is Verdict.GOOD
                found.append(event._replace(verdict=Verdict.GOOD if good else Verdict.BARE_NEWLINE))
            elif not isinstance(event, BodyData):
                found.append(event)
    return found


@given(SESSIONS, CUTS, st.booleans())
def test_the_pieces_do_not_matter(octets: bytes, cuts: list[int], accept: bool) -> None:
    whole = events(octets, [max(1, len(octets))], accept=accept)
    assert events(octets, cuts, accept=accept) == whole
    assert events(octets, [1], accept=accept) == whole


_REPLIES = st.sampled_from([b"220 b\r\n", b"250-x\r\n", b"250 x\r\n", b"354 go\r\n", b"550 no\r\n", b"421 bye\r\n"])


@given(st.lists(st.one_of(_REPLIES, st.binary(max_size=6)), max_size=20).map(b"".join), CUTS)
def test_a_backend_can_say_what_it_likes(octets: bytes, cuts: list[int]) -> None:
    connection = ClientConnection("router", ("user", "password"))
    for greeting in (b"220 b\r\n", b"250-b\r\n250 PIPELINING\r\n"):
        connection.receive_data(greeting)
        connection.next_event()
        connection.data_to_send()
    connection.mail(Mail(b"<>"))
    connection.rcpt(b"<u@example.org>", "u")
    connection.data()
    connection.data_to_send()
    at = turn = 0
    answers: list[Reply] = []
    with contextlib.suppress(RemoteProtocolError):
        while at < len(octets):
            size = cuts[turn % len(cuts)]
            turn += 1
            connection.receive_data(octets[at : at + size])
            at += size
            while not isinstance(event := connection.next_event(), NeedData):
                answers.append(event.reply)  # type: ignore[union-attr]
    assert b"".join(answer.raw for answer in answers) == octets[: sum(len(answer.raw) for answer in answers)]
    assert len(answers) <= 3
