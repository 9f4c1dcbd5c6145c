"""Our end of a connection to a backend without a socket: octets in, events out; decisions in, octets out.

Rule: nothing of a body is sent before the backend said 354: the gate is `state.CLIENT`, and a caller who tries gets
LocalProtocolError.  No input makes it raise anything but RemoteProtocolError.
"""

from __future__ import annotations

from collections import deque

from cyrusext.errors import LocalProtocolError, RemoteProtocolError
from lmtp_router.protocol import codec
from lmtp_router.protocol._tuples import record
from lmtp_router.protocol.handshake import EXPECTED, Handshake, Step, Tls
from lmtp_router.protocol.identity import Origin, build_xclient, build_xforward
from lmtp_router.protocol.state import CLIENT, ClientInput, ClientState
from lmtp_router.protocol.types import (
    NEED_DATA,
    Answered,
    ClientEvent,
    HandshakeFailed,
    Mail,
    Ready,
    Reply,
    Sent,
    TlsWanted,
)

_READY = ClientState.READY


class ClientConnection:
    """Our end of a connection to a backend: what comes before a transaction by itself, then what the caller sends.

    After TlsWanted the caller begins TLS and calls `secured`.  `data_to_send` has to be written after `next_event`
    returned NEED_DATA.
    """

    __slots__ = (
        "_expected",
        "_handshake",
        "_out",
        "_parser",
        "_replies",
        "_told",
        "_turn",
        "_unsent",
        "_xclient",
        "extensions",
        "state",
    )

    def __init__(
        self,
        hostname: str,
        credentials: tuple[str, str] | None = None,
        tls: Tls = Tls.OFF,
        *,
        external: bool = False,
        xclient: bool = False,
    ) -> None:
        """`xclient`: say by XCLIENT who sends, where a backend has that and no XFORWARD."""
        self.state = ClientState.GREETING
        self.extensions: frozenset[bytes] = frozenset()
        self._handshake = Handshake(hostname, credentials, tls, external=external)
        self._parser = codec.ReplyParser()
        self._replies: deque[Reply] = deque()
        self._expected: deque[tuple[Sent, object]] = deque()
        self._out: list[bytes] = []
        self._turn: deque[bytes] = deque()
        self._xclient = xclient
        self._told = b""
        """The XCLIENT that was said last."""
        self._unsent = 0
        """Of what is expected, the last so many commands have not been taken to be written."""

    @property
    def outstanding(self) -> int:
        """Number of replies that the backend owes."""
        return len(self._expected)

    @property
    def reusable(self) -> bool:
        """True between transactions, when nothing is owed and nothing half came."""
        return self.state is _READY and not self._expected and not self._replies and not self._parser.partial

    def receive_data(self, data: bytes) -> None:
        """Take octets from the backend; raises RemoteProtocolError (fatal) for what is no reply."""
        self._replies.extend(self._parser.feed(data))

    def next_event(self) -> ClientEvent:
        """Return the next answer; raises RemoteProtocolError (fatal) for a reply that nothing asked for.

        A reply that came before its command was written is no answer to it: taken for one, it and all after it would
        be told to the wrong recipients.
        """
        while self._replies:
            answer = self._replies.popleft()
            if self.state in EXPECTED:
                if self._out:
                    raise RemoteProtocolError(f"the backend said {answer.code} unasked", fatal=True)
                event = self._shake(answer)
                if event is not None:
                    return event
                continue
            if len(self._expected) <= self._unsent:
                raise RemoteProtocolError(f"the backend said {answer.code} unasked", fatal=True)
            return self._match(answer)
        return NEED_DATA

    def data_to_send(self) -> bytes:
        """Octets that have to be written now."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        self._unsent = len(self._turn)
        return data

    def _shake(self, answer: Reply) -> Ready | TlsWanted | HandshakeFailed | None:
        step = self._handshake.take(self.state, answer)
        if isinstance(step.event, TlsWanted) and (self._replies or self._parser.partial):
            # Whoever put it there would have it taken for what the backend says under TLS.
            raise RemoteProtocolError("the backend sent something behind its reply to STARTTLS", fatal=True)
        self.extensions = self._handshake.extensions
        self._follow(step)
        return step.event

    def secured(self) -> None:
        """TLS is there: say LHLO anew."""
        self._follow(self._handshake.secured())

    @property
    def secure(self) -> bool:
        """True under TLS."""
        return self._handshake.secure

    @property
    def wants_origin(self) -> bool:
        """True if the backend wants to hear who sends."""
        return bool(self._handshake.xforward or (self._xclient and self._handshake.xclient))

    def introduce(self, origin: Origin) -> None:
        """Tell who sends the next transaction, as far as the backend wants to know."""
        if not self._handshake.xforward:
            self._say_xclient(build_xclient(origin, self._handshake.xclient))
        for line in build_xforward(origin, self._handshake.xforward):
            self._send(Sent.XFORWARD, ClientInput.XFORWARD, None, line)

    def _say_xclient(self, line: bytes) -> None:
        """It holds until the next one, so what is known is not said again; the session begins anew behind it.

        Dovecot keeps what it knew where it hears ``[UNAVAILABLE]``: then the connection has served.
        """
        if not line or line == self._told:
            return
        both = zip(self._told.split(), line.split(), strict=False)
        stale = any(now.endswith(b"=[UNAVAILABLE]") and before != now for before, now in both)
        self._send(Sent.XCLIENT, ClientInput.XFORWARD, "stale" if stale else "told" if self._told else "", line)
        self._send(Sent.LHLO, ClientInput.XFORWARD, None, self._handshake.hello)
        self._told = line

    def _follow(self, step: Step) -> None:
        if step.move is None:
            self.state = ClientState.CLOSED
        else:
            self._move(step.move)
        if step.octets:
            self._out.append(step.octets)

    def _match(self, answer: Reply) -> Answered:
        sent, context = self._expected.popleft()
        if not answer.failure and answer.positive is (sent is Sent.DATA):
            raise RemoteProtocolError(f"the backend answered {sent.value} with {answer.code}", fatal=True)
        if sent is Sent.DATA:
            self._move(ClientInput.REFUSED if answer.failure else ClientInput.GO_AHEAD)
        elif sent is Sent.MESSAGE:
            if not self._expected:
                self._move(ClientInput.REPLIED)
        elif sent is Sent.XCLIENT:
            if context == "stale" or (context and answer.failure):
                # It would go on with the client of before: the wrong one is worse than none.
                raise RemoteProtocolError("the backend can not be told of another client", fatal=True)
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

    def noop(self) -> None:
        """Ask whether the backend is still there; as after `rset`, the connection may be used again when it answers."""
        self._send(Sent.RSET, ClientInput.NOOP, None, b"NOOP\r\n")

    def body(self, chunk: bytes) -> bytes:
        """Return `chunk` to be written; raises LocalProtocolError where the backend has not said 354."""
        if self.state is not ClientState.BODY:
            raise LocalProtocolError(f"a body in state {self.state.value}")
        return chunk

    def end(self, contexts: list[object]) -> bytes:
        """Return the end of the body to be written; one reply per recipient is expected (RFC 2033 section 4.2)."""
        self._move(ClientInput.END)
        self._expected.extend((Sent.MESSAGE, context) for context in contexts)
        return codec.END_OF_DATA

    def _send(self, sent: Sent, step: ClientInput, context: object, line: bytes) -> None:
        self._move(step)
        if self._expected and b"PIPELINING" not in self.extensions:
            self._turn.append(line)
        else:
            self._out.append(line)
        self._expected.append((sent, context))
        self._unsent += 1

    def _move(self, step: ClientInput) -> None:
        after = CLIENT.get((self.state, step))
        if after is None:
            raise LocalProtocolError(f"{step.value} in state {self.state.value}")
        self.state = after
