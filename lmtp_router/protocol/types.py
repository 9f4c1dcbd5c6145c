"""What can be said in LMTP: commands of a client, replies of a server, and what happened to a message.

Rule: a value of these types can always be sent.  Paths and reply lines are the octets that came over the wire; what
is passed on is passed on unchanged.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

from cyrusext.wire.sasl import Secret


class Reply(NamedTuple):
    """One reply, possibly of several lines; ``raw`` is the whole of it with its CRLFs (RFC 5321 section 4.2)."""

    code: int
    raw: bytes

    @property
    def positive(self) -> bool:
        """True for 2xx."""
        return 200 <= self.code <= 299

    @property
    def failure(self) -> bool:
        """True for 4xx and 5xx."""
        return 400 <= self.code <= 599

    @property
    def lines(self) -> list[bytes]:
        """The texts of the lines, without code and CRLF."""
        return [line[4:] for line in self.raw.split(b"\r\n")[:-1]]

    @property
    def text(self) -> str:
        """The whole reply on one line, for a log."""
        return f"{self.code} " + " / ".join(line.decode("utf-8", "backslashreplace") for line in self.lines)

    def has_status(self, status: bytes) -> bool:
        """True if a line starts with the enhanced status code `status` (RFC 2034 section 4)."""
        return any(line.split(b" ", 1)[0] == status for line in self.lines)


class OwnReply(Reply):
    """A reply in our own words: what fails says which session of our log it belongs to, when it is sent."""

    __slots__ = ()

    def signed(self, ident: bytes) -> bytes:
        """Return the whole of it with the session `ident` at its end, if it is a failure."""
        return b"%b [%b]\r\n" % (self.raw[:-2], ident) if self.failure else self.raw


def reply(code: int, *lines: str) -> OwnReply:
    """Build a reply of our own from ASCII `lines`."""
    last = len(lines) - 1
    raw = b"".join(b"%d%c%s\r\n" % (code, 45 if i < last else 32, line.encode("ascii")) for i, line in enumerate(lines))
    return OwnReply(code, raw)


class Lhlo(NamedTuple):
    """LHLO with the client's name (RFC 2033 section 4.1)."""

    domain: bytes


class Ehlo(NamedTuple):
    """EHLO with the client's name: SMTP (RFC 5321 section 4.1.1.1)."""

    domain: bytes


class Helo(NamedTuple):
    """HELO with the client's name: SMTP without any extension."""

    domain: bytes


NOTHING: frozenset[bytes] = frozenset()


class Mail(NamedTuple):
    """MAIL: the reverse-path with its angle brackets, ``size`` octets as declared (0: not said), ``body`` or empty."""

    path: bytes
    size: int = 0
    body: bytes = b""
    parameters: bytes = b""
    """What goes to a backend behind the path, besides SIZE and BODY: each parameter with a blank in front of it."""
    needs: frozenset[bytes] = NOTHING
    """Extensions that a backend must have to take the message as it is meant."""
    prdr: bool = False
    """The client takes a reply for each recipient, in SMTP too."""
    one_reply: bool = False
    """The client takes one reply for the message: a transaction has one recipient."""


class Rcpt(NamedTuple):
    """RCPT: the forward-path with its angle brackets, its source route removed (RFC 5321 appendix C)."""

    path: bytes
    parameters: bytes = b""
    """Those of RFC 3461 for a backend that has DSN, each with a blank in front of it."""
    needs_dsn: bool = False
    """One of them asks for something that a backend without DSN would not do."""

    @property
    def address(self) -> bytes:
        """The mailbox without brackets.  Its quotes stay: only with them a blank or an @ is part of the local part."""
        return self.path[1:-1]


class Data(NamedTuple):
    """DATA: the client waits for 354."""


class Bdat(NamedTuple):
    """BDAT: a chunk of ``size`` octets follows, and with it the message ends if it is the ``last`` (RFC 3030)."""

    size: int
    last: bool = False


class ChunkEnd(NamedTuple):
    """A chunk of ``size`` octets that is not the last has come whole: it is owed a reply."""

    size: int


class Rset(NamedTuple):
    """RSET: forget the transaction."""


class Noop(NamedTuple):
    """NOOP."""


class Vrfy(NamedTuple):
    """VRFY with its argument, which is not looked up."""

    argument: bytes


class Starttls(NamedTuple):
    """STARTTLS (RFC 3207): TLS begins after the reply, and nothing may stand behind the command."""


class Auth(NamedTuple):
    """AUTH with its mechanism in upper case and the initial response, if there is one (RFC 4954 section 4)."""

    mechanism: bytes
    initial: Secret | None = None


class AuthResponse(NamedTuple):
    """What a client answers to the challenge of its AUTH."""

    data: Secret


class Xclient(NamedTuple):
    """XCLIENT of Postfix: who the client is, says a proxy that it speaks through; the session begins anew."""

    attributes: Mapping[str, str]


class Xforward(NamedTuple):
    """XFORWARD of Postfix: who sent the next message, for the log and for whoever comes next."""

    attributes: Mapping[str, str]


class Quit(NamedTuple):
    """QUIT: the connection ends after the reply."""


class Refused(NamedTuple):
    """A command that the protocol refuses: send ``reply``, and close the connection if ``close``."""

    reply: Reply
    close: bool = False


class BodyData(NamedTuple):
    """Octets of the message as they came, dot-stuffed; never a part of the end-of-data sequence.

    From a chunk they come stuffed, unless the message is binary.
    """

    chunk: bytes


class Verdict(enum.Enum):
    """What the scan says of a message whose end has come."""

    GOOD = "good"
    BARE_NEWLINE = "bare-newline"
    TOO_LARGE = "too-large"
    LOOP = "loop"
    """Never of the scan: it was passed on too often."""
    FALSE_END = "false-end"
    """A long line has what a backend would take for the end (`lines`)."""


class BodySpoiled(NamedTuple):
    """The message can not be delivered any more: nothing of it may follow to a backend, its end is still to come."""

    verdict: Verdict


class BodyEnd(NamedTuple):
    """CRLF.CRLF has come: the message had ``size`` octets (stuffed dots included) and may hold NUL octets."""

    size: int
    verdict: Verdict
    has_nul: bool


class NeedData(enum.Enum):
    """There is no event before more octets come (NEED_DATA), or before the caller decides something (PAUSED)."""

    NEED_DATA = "need-data"
    PAUSED = "paused"


NEED_DATA = NeedData.NEED_DATA
PAUSED = NeedData.PAUSED

Command = (
    Lhlo | Ehlo | Helo | Mail | Rcpt | Data | Bdat | Rset | Noop | Vrfy | Quit | Starttls | Auth | Xclient | Xforward
)
ServerEvent = Command | AuthResponse | Refused | BodyData | BodySpoiled | ChunkEnd | BodyEnd | NeedData


class Sent(enum.Enum):
    """What a reply of a backend answers."""

    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    MESSAGE = "message"
    XFORWARD = "xforward"
    XCLIENT = "xclient"
    LHLO = "lhlo"
    """Again, behind XCLIENT."""
    RSET = "rset"


class Ready(NamedTuple):
    """Greeting, LHLO and, where wanted, AUTH are done: a transaction may begin."""


class TlsWanted(NamedTuple):
    """The backend said 220 to STARTTLS: begin TLS, then call `secured`."""


class HandshakeFailed(NamedTuple):
    """The backend refused before any transaction: ``reply`` are its words, ``command`` what they answer."""

    command: str
    reply: Reply


class Answered(NamedTuple):
    """`reply` answers ``sent``; ``context`` is what the caller gave with the command (a recipient)."""

    sent: Sent
    context: object
    reply: Reply


ClientEvent = Ready | TlsWanted | HandshakeFailed | Answered | NeedData
