"""The two ends of an LMTP connection without a socket: octets in, events out; decisions in, octets out.

Rule: nothing of a body is accepted before `ServerConnection.accept_data`, and nothing of it is sent before the backend
said 354: the gate is `state.CLIENT`, and a caller who tries gets LocalProtocolError.  No input makes these classes
raise anything but RemoteProtocolError.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from cyrusext.errors import LocalProtocolError, RemoteProtocolError
from lmtp_router.protocol import codec
from lmtp_router.protocol._scan import BodyScanner
from lmtp_router.protocol._tuples import record
from lmtp_router.protocol.state import CLIENT, SERVER, ClientInput, ClientState, ServerInput, ServerState
from lmtp_router.protocol.types import (
    NEED_DATA,
    PAUSED,
    Answered,
    BodyData,
    BodyEnd,
    BodySpoiled,
    ClientEvent,
    Command,
    Data,
    HandshakeFailed,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Ready,
    Refused,
    Reply,
    Rset,
    Sent,
    ServerEvent,
    Verdict,
    Vrfy,
    reply,
)

END_OF_DATA = b".\r\n"

_INPUT: dict[type, ServerInput] = {
    Lhlo: ServerInput.LHLO,
    Mail: ServerInput.MAIL,
    Rcpt: ServerInput.RCPT,
    Data: ServerInput.DATA,
    Rset: ServerInput.RSET,
    Noop: ServerInput.NOOP,
    Vrfy: ServerInput.NOOP,
    Quit: ServerInput.QUIT,
}

TOO_MANY_ERRORS = reply(421, "4.7.0 Too many errors, closing connection")
TOO_LARGE = reply(552, "5.3.4 Message is larger than this server takes")
TOO_MANY_RECIPIENTS = reply(452, "4.5.3 Too many recipients")
_SEQUENCE = {
    ServerState.GREETED: reply(503, "5.5.1 Say LHLO first"),
    ServerState.READY: reply(503, "5.5.1 Say MAIL first"),
    ServerState.MAIL: reply(503, "5.5.1 Say RCPT first"),
    ServerState.RCPT: reply(503, "5.5.1 A transaction is open, say RSET first"),
}


class Limits(NamedTuple):
    """What a client may use: octets of a message, octets of a command line, recipients and errors."""

    max_size: int = 50 << 20
    max_line: int = 2048
    max_recipients: int = 5000
    max_errors: int = 20


class ServerConnection:
    """The server's end.  After `Data` it is paused until `accept_data` or `refuse_data`, after `BodyEnd` until
    `replied`."""

    __slots__ = (
        "_at",
        "_buffer",
        "_errors",
        "_limits",
        "_pending",
        "_recipients",
        "_replace",
        "_scanner",
        "_size",
        "_skipping",
        "_verdict",
        "state",
    )

    def __init__(self, limits: Limits | None = None, *, replace_bare_newlines: bool = False) -> None:
        self.state = ServerState.GREETED
        self._limits = limits or Limits()
        self._replace = replace_bare_newlines
        self._buffer = b""
        self._at = 0
        self._skipping = False
        self._errors = 0
        self._recipients = 0
        self._scanner = BodyScanner()
        self._size = 0
        self._verdict = Verdict.GOOD
        self._pending: deque[BodyData | BodySpoiled | BodyEnd] = deque()

    @property
    def buffered(self) -> int:
        """Octets received and not yet used."""
        return len(self._buffer) - self._at

    def extensions(self, hostname: str) -> Reply:
        """The reply to LHLO."""
        return reply(250, hostname, "PIPELINING", "8BITMIME", f"SIZE {self._limits.max_size}", "ENHANCEDSTATUSCODES")

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
        if state in _PAUSED:
            return PAUSED
        line = self._next_line()
        if line is None:
            return NEED_DATA
        if self._skipping or len(line) > self._limits.max_line:
            self._skipping = False
            return self._refuse(codec.LONG_LINE)
        if not line.endswith(b"\r"):
            return self._refuse(codec.BAD_LINE)
        command = codec.parse_command(line[:-1])
        return self._refuse(command.reply) if isinstance(command, Refused) else self._enter(command)

    def _next_line(self) -> bytes | None:
        """The next line without its LF; a line that grows too long is thrown away while it comes."""
        end = self._buffer.find(b"\n", self._at)
        if end < 0:
            if self._skipping or self.buffered > self._limits.max_line:
                self._skipping = True
                self._buffer, self._at = b"", 0
            return None
        line = self._buffer[self._at : end]
        self._at = end + 1
        return line

    def _enter(self, command: Command) -> Command | Refused:
        after = SERVER.get((self.state, _INPUT[type(command)]))
        if after is None:
            return self._refuse(_SEQUENCE[self.state])
        if isinstance(command, Mail):
            if command.size > self._limits.max_size:
                return Refused(TOO_LARGE)
            self._recipients = 0
        elif isinstance(command, Rcpt):
            if self._recipients >= self._limits.max_recipients:
                return Refused(TOO_MANY_RECIPIENTS)
            self._recipients += 1
        self.state = after
        return command

    def _refuse(self, answer: Reply) -> Refused:
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
            self._buffer, self._at = b"", 0
        else:
            self._size += end - at - len(END_OF_DATA)
            self._at = end
        if self._verdict is Verdict.GOOD:
            if self._scanner.bare_newline and not self._replace:
                # Nothing of this chunk goes on: what follows a bare newline could end the message at the backend.
                self._verdict = Verdict.BARE_NEWLINE
            elif self._size > self._limits.max_size:
                self._verdict = Verdict.TOO_LARGE
            elif octets:
                self._pending.append(record(BodyData, octets))
            if self._verdict is not Verdict.GOOD:
                self._pending.append(BodySpoiled(self._verdict))
        if end >= 0:
            self.state = SERVER[self.state, ServerInput.END]
            self._pending.append(BodyEnd(self._size, self._verdict, self._scanner.nul))

    def accept_data(self) -> None:
        """354 is being sent: what follows is the body."""
        self._decide(ServerInput.ACCEPT)
        self._scanner = BodyScanner(self._replace)
        self._size = 0
        self._verdict = Verdict.GOOD

    def refuse_data(self) -> None:
        """DATA is answered with something else: the transaction is over."""
        self._decide(ServerInput.REFUSE)

    def replied(self) -> None:
        """Every recipient has its reply: the next command may come."""
        self._decide(ServerInput.REPLIED)

    def _decide(self, decision: ServerInput) -> None:
        after = SERVER.get((self.state, decision))
        if after is None:
            raise LocalProtocolError(f"{decision.value} in state {self.state.value}")
        self.state = after


_PAUSED = frozenset({ServerState.DATA, ServerState.FINAL, ServerState.CLOSED})


class ClientConnection:
    """Our end of a connection to a backend: greeting, LHLO and AUTH by itself, then what the caller sends.

    `data_to_send` has to be written after `next_event` returned NEED_DATA.
    """

    __slots__ = (
        "_credentials",
        "_expected",
        "_hostname",
        "_out",
        "_parser",
        "_replies",
        "_turn",
        "extensions",
        "state",
    )

    def __init__(self, hostname: str, credentials: tuple[str, str] | None = None) -> None:
        self.state = ClientState.GREETING
        self.extensions: frozenset[bytes] = frozenset()
        self._hostname = hostname
        self._credentials = credentials
        self._parser = codec.ReplyParser()
        self._replies: deque[Reply] = deque()
        self._expected: deque[tuple[Sent, object]] = deque()
        self._out: list[bytes] = []
        self._turn: deque[bytes] = deque()

    @property
    def outstanding(self) -> int:
        """Number of replies that the backend owes."""
        return len(self._expected)

    @property
    def reusable(self) -> bool:
        """True between transactions, when nothing is owed and nothing half came."""
        return self.state is ClientState.READY and not self._expected and not self._replies and not self._parser.partial

    def receive_data(self, data: bytes) -> None:
        """Take octets from the backend; raises RemoteProtocolError (fatal) for what is no reply."""
        self._replies.extend(self._parser.feed(data))

    def next_event(self) -> ClientEvent:
        """Return the next answer; raises RemoteProtocolError (fatal) for a reply that nothing asked for."""
        while self._replies:
            answer = self._replies.popleft()
            if self.state in _HANDSHAKE:
                event = self._shake(answer)
                if event is not None:
                    return event
                continue
            if not self._expected:
                raise RemoteProtocolError(f"the backend said {answer.code} unasked", fatal=True)
            return self._match(answer)
        return NEED_DATA

    def data_to_send(self) -> bytes:
        """Octets that have to be written now."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _shake(self, answer: Reply) -> Ready | HandshakeFailed | None:
        state = self.state
        if answer.code != _HANDSHAKE[state]:
            self.state = ClientState.CLOSED
            return HandshakeFailed(state.value, answer)
        if state is ClientState.GREETING:
            self.state = CLIENT[state, ClientInput.GREETED]
            self._out.append(f"LHLO {self._hostname}\r\n".encode("ascii"))
            return None
        if state is ClientState.LHLO:
            self.extensions, mechanisms = codec.parse_extensions(answer)
            # A backend that offers no PLAIN trusts its peer (lmtpd -a), or will refuse MAIL in its own words.
            if self._credentials is not None and b"PLAIN" in mechanisms:
                self.state = CLIENT[state, ClientInput.AUTHENTICATE]
                self._out.append(codec.build_auth_plain(*self._credentials))
                return None
            self.state = CLIENT[state, ClientInput.HELLO]
            return Ready()
        self.state = CLIENT[state, ClientInput.AUTHENTICATED]
        return Ready()

    def _match(self, answer: Reply) -> Answered:
        sent, context = self._expected.popleft()
        if not answer.failure and answer.positive is (sent is Sent.DATA):
            raise RemoteProtocolError(f"the backend answered {sent.value} with {answer.code}", fatal=True)
        if sent is Sent.DATA:
            self._move(ClientInput.REFUSED if answer.failure else ClientInput.GO_AHEAD)
        elif sent is Sent.MESSAGE:
            if not self._expected:
                self._move(ClientInput.REPLIED)
        elif sent is Sent.RSET:
            if answer.failure:
                raise RemoteProtocolError(f"the backend answered RSET with {answer.code}", fatal=True)
            self._move(ClientInput.RESET_DONE)
        if self._turn:
            self._out.append(self._turn.popleft())
        return record(Answered, sent, context, answer)

    def mail(self, mail: Mail) -> None:
        """Begin a transaction."""
        self._send(Sent.MAIL, ClientInput.MAIL, None, codec.build_mail(mail, self.extensions))

    def rcpt(self, path: bytes, context: object) -> None:
        """Name a recipient."""
        self._send(Sent.RCPT, ClientInput.RCPT, context, codec.build_rcpt(path))

    def data(self) -> None:
        """Ask for the go-ahead."""
        self._send(Sent.DATA, ClientInput.DATA, None, b"DATA\r\n")

    def rset(self) -> None:
        """Give the transaction up; replies that are owed still come."""
        self._send(Sent.RSET, ClientInput.RSET, None, b"RSET\r\n")

    def body(self, chunk: bytes) -> bytes:
        """Return `chunk` to be written; raises LocalProtocolError where the backend has not said 354."""
        if self.state is not ClientState.BODY:
            raise LocalProtocolError(f"a body in state {self.state.value}")
        return chunk

    def end(self, contexts: list[object]) -> bytes:
        """Return the end of the body to be written; one reply per recipient is expected (RFC 2033 section 4.2)."""
        self._move(ClientInput.END)
        self._expected.extend((Sent.MESSAGE, context) for context in contexts)
        return END_OF_DATA

    def _send(self, sent: Sent, step: ClientInput, context: object, line: bytes) -> None:
        self._move(step)
        if self._expected and b"PIPELINING" not in self.extensions:
            self._turn.append(line)
        else:
            self._out.append(line)
        self._expected.append((sent, context))

    def _move(self, step: ClientInput) -> None:
        after = CLIENT.get((self.state, step))
        if after is None:
            raise LocalProtocolError(f"{step.value} in state {self.state.value}")
        self.state = after


_HANDSHAKE = {ClientState.GREETING: 220, ClientState.LHLO: 250, ClientState.AUTH: 235}
