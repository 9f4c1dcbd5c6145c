"""The server's end of an LMTP or SMTP connection without a socket: octets in, events out; decisions in, replies out.

Rule: nothing of a body is accepted before `ServerConnection.accept_data`, and what follows it is no command before
`replied`.  No input makes it raise anything.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from cyrusext.errors import LocalProtocolError
from lmtp_router.protocol import codec
from lmtp_router.protocol._scan import BodyScanner
from lmtp_router.protocol._tuples import record
from lmtp_router.protocol.chunks import ChunkReader
from lmtp_router.protocol.lines import LongLines
from lmtp_router.protocol.login import (
    ALREADY,
    LONG_RESPONSE,
    MAX_RESPONSE,
    MECHANISM,
    NOT_OFFERED,
    REQUIRED,
    UNKNOWN_MECHANISM,
    parse_response,
)
from lmtp_router.protocol.parameters import AUTH, DSN, EIGHT_BIT, SMTPUTF8, UNKNOWN_PARAMETER
from lmtp_router.protocol.state import SERVER, ServerInput, ServerState
from lmtp_router.protocol.types import (
    NEED_DATA,
    NOTHING,
    PAUSED,
    Auth,
    AuthResponse,
    Bdat,
    BodyData,
    BodyEnd,
    BodySpoiled,
    ChunkEnd,
    Command,
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
    ServerEvent,
    Starttls,
    Verdict,
    Vrfy,
    Xclient,
    Xforward,
    reply,
)

PRDR = b"PRDR"
"""A reply for each recipient in SMTP (draft-hall-prdr); between the client and us, whatever the backends have."""

_INPUT: dict[type, ServerInput] = {
    Lhlo: ServerInput.LHLO,
    Ehlo: ServerInput.LHLO,
    Helo: ServerInput.LHLO,
    Mail: ServerInput.MAIL,
    Rcpt: ServerInput.RCPT,
    Data: ServerInput.DATA,
    Bdat: ServerInput.BDAT,
    Rset: ServerInput.RSET,
    Noop: ServerInput.NOOP,
    Vrfy: ServerInput.NOOP,
    Quit: ServerInput.QUIT,
    Starttls: ServerInput.STARTTLS,
    Auth: ServerInput.AUTH,
    Xclient: ServerInput.XCLIENT,
    Xforward: ServerInput.XFORWARD,
}

TOO_MANY_ERRORS = reply(421, "4.7.0 Too many errors, closing connection")
TOO_LARGE = reply(552, "5.3.4 Message is larger than this server takes")
TOO_MANY_RECIPIENTS = reply(452, "4.5.3 Too many recipients")
IS_LMTP = reply(500, "5.5.1 This is LMTP: use LHLO")
IS_SMTP = reply(500, "5.5.1 This is SMTP: use EHLO")
_SEQUENCE = {
    ServerState.GREETED: reply(503, "5.5.1 Say LHLO or EHLO first"),
    ServerState.READY: reply(503, "5.5.1 Say MAIL first"),
    ServerState.MAIL: reply(503, "5.5.1 Say RCPT first"),
    ServerState.RCPT: reply(503, "5.5.1 A transaction is open, say RSET first"),
    ServerState.CHUNKS: reply(503, "5.5.1 A message is being sent, say BDAT or RSET"),
}


NOT_YOU = reply(550, "5.7.0 You are not trusted with this")
_OFFER: dict[type, tuple[str, Reply]] = {
    Starttls: ("STARTTLS", codec.UNKNOWN),
    Auth: ("AUTH", NOT_OFFERED),
    Xclient: ("XCLIENT", NOT_YOU),
    Xforward: ("XFORWARD", NOT_YOU),
}
"""Commands for those to whom they are offered, and what the others are told."""


class Limits(NamedTuple):
    """What a client may use: octets of a message, octets of a command line, recipients and errors."""

    max_size: int = 50 << 20
    max_line: int = 2048
    max_recipients: int = 5000
    max_errors: int = 20


def offered(known: Iterable[frozenset[bytes]]) -> frozenset[bytes]:
    """Return what may be offered to clients, given what each backend that is known offers.

    8BITMIME until a backend is known that lacks it, for without it clients rewrite messages; the others only when each
    known backend has them, and at least one is known.
    """
    known = list(known)
    if not known:
        return _UNKNOWN
    return frozenset.intersection(*known) & _PASSED_ON


_READY = ServerState.READY
_PASSED_ON = frozenset({EIGHT_BIT, SMTPUTF8, DSN})
_OWN = ("PIPELINING", "ENHANCEDSTATUSCODES", "CHUNKING")
_UNKNOWN = frozenset({EIGHT_BIT})


@functools.lru_cache(maxsize=64)
def _hello(hostname: str, max_size: int, extensions: frozenset[bytes], offers: tuple[str, ...]) -> Reply:
    """The reply to LHLO or EHLO, which hardly ever changes."""
    words = (*sorted(word.decode("ascii") for word in extensions), *offers)
    return reply(250, hostname, *_OWN, f"SIZE {max_size}", *words)


class ServerConnection:
    """The server's end.

    After `Data`, or the first `Bdat` of a message, it is paused until `accept_data` or `refuse_data`, after `BodyEnd`
    until `replied`.
    """

    __slots__ = (
        "_asked",
        "_at",
        "_buffer",
        "_chunks",
        "_errors",
        "_limits",
        "_lines",
        "_offered",
        "_pending",
        "_recipients",
        "_replace",
        "_scanner",
        "_size",
        "_skip",
        "_skipping",
        "_smtp",
        "_utf8",
        "_verdict",
        "logged_in",
        "login_required",
        "offers",
        "state",
    )

    def __init__(
        self, limits: Limits | None = None, *, replace_bare_newlines: bool = False, smtp: bool = False
    ) -> None:
        self.state = ServerState.GREETED
        self._smtp = smtp
        self._offered = NOTHING
        self._utf8 = False
        self.offers: tuple[str, ...] = ()
        """Lines of the reply to LHLO that depend on who the client is and how it comes, such as STARTTLS."""
        self.logged_in = False
        self.login_required = False
        """MAIL waits for AUTH."""
        self._limits = limits or Limits()
        self._replace = replace_bare_newlines
        self._buffer = b""
        self._at = 0
        self._skip = 0
        """Octets of a chunk that was refused which are still to come."""
        self._skipping = False
        self._asked = Bdat(0)
        self._chunks = _NO_CHUNKS
        self._errors = 0
        self._recipients = 0
        self._scanner = BodyScanner()
        self._lines = LongLines()
        self._size = 0
        self._verdict = Verdict.GOOD
        self._pending: deque[BodyData | BodySpoiled | ChunkEnd | BodyEnd] = deque()

    @property
    def buffered(self) -> int:
        """Octets received and not yet used."""
        return len(self._buffer) - self._at

    def hello(self, command: Lhlo | Ehlo | Helo, hostname: str, shared: frozenset[bytes]) -> Reply:
        """The reply to LHLO, EHLO or HELO, where the backends have `shared` (see `offered`) in common."""
        if isinstance(command, Helo):
            self._offered = NOTHING
            return reply(250, hostname)
        self._offered = shared | {PRDR} if self._smtp else shared
        return _hello(hostname, self._limits.max_size, self._offered, self.offers)

    def receive_data(self, data: bytes) -> None:
        """Take octets from the client."""
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0

    def next_event(self) -> ServerEvent:
        """Return what the client said next, NEED_DATA, or PAUSED while a decision of the caller is due."""
        if self._pending:
            return self._pending.popleft()
        state = self.state
        if state is ServerState.BODY:
            self._scan_body()
            return self._pending.popleft() if self._pending else NEED_DATA
        if state is ServerState.CHUNK:
            self._take_chunk()
            return self._pending.popleft() if self._pending else NEED_DATA
        if state in _PAUSED:
            return self._take_response() if state is ServerState.CHALLENGED else PAUSED
        if self._skip and not self._skip_chunk():
            return NEED_DATA
        line = self._next_line(self._limits.max_line)
        if line is None:
            return NEED_DATA
        if self._skipping or len(line) > self._limits.max_line:
            self._skipping = False
            return self._refuse(codec.LONG_LINE, close=_is_bdat(line))
        if not line.endswith(b"\r"):
            return self._refuse(codec.BAD_LINE, close=_is_bdat(line))
        command = codec.parse_command(line[:-1])
        if isinstance(command, Refused):
            return self._refuse(command.reply, close=command.close or _is_bdat(line))
        return self._enter(command)

    def _next_line(self, longest: int) -> bytes | None:
        """The next line without its LF; a line that grows longer than `longest` is thrown away while it comes."""
        end = self._buffer.find(b"\n", self._at)
        if end < 0:
            if self._skipping or self.buffered > longest:
                self._skipping = True
                self._buffer, self._at = b"", 0
            return None
        line = self._buffer[self._at : end]
        self._at = end + 1
        return line

    def _take_response(self) -> ServerEvent:
        """The line behind a challenge."""
        line = self._next_line(MAX_RESPONSE)
        if line is None:
            return NEED_DATA
        if self._skipping or len(line) >= MAX_RESPONSE:
            self._skipping = False
            answer: AuthResponse | Refused = Refused(LONG_RESPONSE)
        else:
            answer = parse_response(line[:-1]) if line.endswith(b"\r") else Refused(codec.BAD_LINE)
        if isinstance(answer, Refused):
            self._decide(ServerInput.CANCEL)
            return self._refuse(answer.reply)
        self._decide(ServerInput.RESPONSE)
        return answer

    def _enter(self, command: Command) -> ServerEvent:
        after = SERVER.get((self.state, _INPUT[type(command)]))
        if isinstance(command, Bdat):
            return self._enter_chunk(command, after)
        if after is None:
            return self._refuse(_SEQUENCE[self.state])
        if isinstance(command, Mail):
            if self.login_required:
                return self._refuse(REQUIRED)
            if AUTH in command.needs:
                # Between the client and us.
                if not self._is_offered("AUTH"):
                    return self._refuse(UNKNOWN_PARAMETER)
                command = command._replace(needs=command.needs - {AUTH})
            if command.size > self._limits.max_size:
                return Refused(TOO_LARGE)
            if not self._takes(command):
                return self._refuse(UNKNOWN_PARAMETER)
            self._recipients = 0
            if self._smtp and not command.prdr:
                command = command._replace(one_reply=True)
            self._utf8 = SMTPUTF8 in command.needs
        elif isinstance(command, Rcpt):
            if self._recipients >= self._limits.max_recipients:
                return Refused(TOO_MANY_RECIPIENTS)
            if command.needs_dsn and DSN not in self._offered:
                return self._refuse(UNKNOWN_PARAMETER)
            if not (self._utf8 or (command.path.isascii() and command.parameters.isascii())):
                return self._refuse(codec.NOT_ASCII)
            self._recipients += 1
        elif isinstance(command, Lhlo | Ehlo | Helo) and self._smtp is isinstance(command, Lhlo):
            return self._refuse(IS_SMTP if self._smtp else IS_LMTP)
        elif type(command) in _OFFER and not self._is_offered(_OFFER[type(command)][0]):
            return self._refuse(_OFFER[type(command)][1])
        elif isinstance(command, Auth) and (self.logged_in or command.mechanism != MECHANISM):
            return self._refuse(ALREADY if self.logged_in else UNKNOWN_MECHANISM)
        self.state = after
        return command

    def _takes(self, mail: Mail) -> bool:
        """Were all extensions offered that it needs?"""
        return mail.needs <= self._offered and (not mail.prdr or PRDR in self._offered)

    def would_take(self, mail: Mail, recipients: int) -> bool:
        """Would MAIL and so many RCPTs be taken now, nothing being left to read or to decide?"""
        limits = self._limits
        return (
            self.state is _READY
            and not self._smtp
            and not self.login_required
            and self._at >= len(self._buffer)
            and not self._skip
            and not self._skipping
            and mail.size <= limits.max_size
            and recipients <= limits.max_recipients
            and self._takes(mail)
        )

    def _is_offered(self, word: str) -> bool:
        return any(line.partition(" ")[0] == word for line in self.offers)

    def secured(self) -> None:
        """TLS is there: what came before it is forgotten, the client begins anew (RFC 3207 section 4.2)."""
        self._decide(ServerInput.SECURED)
        self._buffer, self._at = b"", 0
        self._skipping = False
        self.logged_in = False

    def challenged(self) -> None:
        """334 is being sent: the next line answers it."""
        self._decide(ServerInput.CHALLENGE)

    def login_decided(self, *, good: bool) -> None:
        """AUTH is answered; a `good` one lets the client send mail."""
        self._decide(ServerInput.LOGIN_DECIDED)
        if good:
            self.logged_in = True
            self.login_required = False

    def _refuse(self, answer: Reply, *, close: bool = False) -> Refused:
        if close:
            self.state = ServerState.CLOSED
            return Refused(answer, close=True)
        self._errors += 1
        if self._errors > self._limits.max_errors:
            self.state = ServerState.CLOSED
            return Refused(TOO_MANY_ERRORS, close=True)
        return Refused(answer)

    def _scan_body(self) -> None:
        """Scan all that is buffered; what came of it is in `_pending`."""
        at, buffer = self._at, self._buffer
        if at >= len(buffer):
            return
        end, octets = self._scanner.feed(buffer, at)
        if end < 0:
            self._size += len(buffer) - at
        else:
            self._size += end - at - len(codec.END_OF_DATA)
        if 0 <= end < len(buffer):
            self._at = end
        else:
            # Not kept until more comes: it may be large.
            self._buffer, self._at = b"", 0
        self._pass_on(octets, self._scanner.bare_newline, self._size)
        if end >= 0:
            self.state = SERVER[self.state, ServerInput.END]
            self._pending.append(BodyEnd(self._size, self._verdict, self._scanner.nul))

    def _enter_chunk(self, command: Bdat, after: ServerState | None) -> ServerEvent:
        if after is None:
            # No error of the client's to count: it may have sent all chunks before it heard of the refused recipients.
            self._skip = command.size
            return Refused(_SEQUENCE[self.state])
        self.state = after
        if after is ServerState.CHUNK_ASKED:
            self._asked = command
            return command
        self._chunks.begin(command.size, last=command.last)
        self._asked = command
        return self.next_event()

    def _skip_chunk(self) -> bool:
        """Throw away what has come of a chunk that was refused; True when that was all."""
        skipped = min(self._skip, self.buffered)
        self._skip -= skipped
        self._at += skipped
        return not self._skip

    def _take_chunk(self) -> None:
        """Take what has come of a chunk; what came of it is in `_pending`."""
        chunks = self._chunks
        if self._at >= len(self._buffer) and not chunks.whole:
            return
        self._at, octets = chunks.take(self._buffer, self._at)
        if self._at >= len(self._buffer):
            self._buffer, self._at = b"", 0
        self._pass_on(octets, chunks.bare_newline, chunks.size)
        if not chunks.whole:
            return
        if chunks.last:
            self.state = SERVER[self.state, ServerInput.END]
            self._pending.append(BodyEnd(chunks.size, self._verdict, chunks.nul))
        else:
            self.state = SERVER[self.state, ServerInput.CHUNK_END]
            self._pending.append(ChunkEnd(self._asked.size))

    def _pass_on(self, octets: bytes, bare_newline: bool, size: int) -> None:
        """Let octets of a body go on; what is wrong with them or with the body so far spoils all of it, once."""
        if self._verdict is not Verdict.GOOD:
            return
        if bare_newline and not self._replace:
            # Nothing of this chunk goes on: what follows a bare newline could end the message at the backend.
            self._verdict = Verdict.BARE_NEWLINE
        elif size > self._limits.max_size:
            self._verdict = Verdict.TOO_LARGE
        elif self._lines.feed(octets):
            self._verdict = Verdict.FALSE_END
        elif octets:
            self._pending.append(record(BodyData, octets))
        if self._verdict is not Verdict.GOOD:
            self._pending.append(BodySpoiled(self._verdict))

    def accept_data(self) -> None:
        """354 is being sent: what follows is the body.  Or: the first chunk is taken."""
        self._decide(ServerInput.ACCEPT)
        if self.state is ServerState.CHUNK:
            self._chunks = ChunkReader()
            self._chunks.begin(self._asked.size, last=self._asked.last)
        else:
            self._scanner = BodyScanner(self._replace)
        self._lines = LongLines()
        self._size = 0
        self._verdict = Verdict.GOOD

    def refuse_data(self) -> None:
        """DATA or the first BDAT is answered with a refusal: the transaction is over."""
        if self.state is ServerState.CHUNK_ASKED:
            self._skip = self._asked.size
        self._decide(ServerInput.REFUSE)

    def replied(self) -> None:
        """Every recipient has its reply: the next command may come."""
        self._decide(ServerInput.REPLIED)

    def _decide(self, decision: ServerInput) -> None:
        after = SERVER.get((self.state, decision))
        if after is None:
            raise LocalProtocolError(f"{decision.value} in state {self.state.value}")
        self.state = after


_PAUSED = frozenset(
    {
        ServerState.DATA,
        ServerState.CHUNK_ASKED,
        ServerState.FINAL,
        ServerState.TLS,
        ServerState.LOGIN,
        ServerState.CHALLENGED,
        ServerState.CLOSED,
    }
)
"""States in which no command is understood."""
_NO_CHUNKS = ChunkReader(binary=True)


def _is_bdat(line: bytes) -> bool:
    """Tell whether a line that is refused was to announce octets that can not be told from commands then."""
    return line[:4].upper() == b"BDAT"
