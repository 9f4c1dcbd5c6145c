"""One MUPDATE connection without its I/O, as server or as client.

Rule: bytes in, events out; commands and replies in, bytes out.  No socket, clock or record in here; what is legal when
is asked of `state`, what bytes mean of `codec`.  What the peer does wrong never raises in a server: it comes out as a
ProtocolViolation with the answer to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from cyrusext.errors import LocalProtocolError, RemoteProtocolError
from cyrusext.model import MailboxRecord
from cyrusext.mupdate import codec
from cyrusext.mupdate.state import (
    AUTHENTICATED,
    LOGGED_OUT,
    NOT_AUTHENTICATED,
    PAUSING,
    next_state,
    refusal,
)
from cyrusext.mupdate.types import (
    NEED_DATA,
    PAUSED,
    UNTAGGED,
    Authenticate,
    Bad,
    Banner,
    Bye,
    Challenge,
    ClientEvent,
    Command,
    Compress,
    Follow,
    Forward,
    GoAhead,
    No,
    Ok,
    ProtocolViolation,
    Reply,
    SaslCancelled,
    SaslResponse,
    ServerEvent,
    Starttls,
    Update,
)
from cyrusext.wire.framer import Framer, Limits, Message, Poisoned
from cyrusext.wire.framer import Signal as FramerSignal
from cyrusext.wire.sasl import Secret, decode_item, encode_item

LIMITS = Limits()
LOGIN_LIMITS = Limits(line=65536, literal=65536, message=81920, literals=4, drain=81920)
"""Bounds before the login: room for a Kerberos ticket, and no more memory for strangers than that."""
MAX_VIOLATIONS = 25
"""Violations in a row after which a connection is closed."""
MAX_BANNER_LINES = 32


class ServerConnection:
    """The server's side of one connection.

    Feed what was read to `receive_data`, then take events until NEED_DATA or PAUSED.  After Authenticate, Starttls,
    Compress, Update and Logout nothing more is read before `send` has given their answer: only then is known how the
    following bytes are to be read.  Other commands may be taken ahead of their replies.
    """

    def __init__(
        self,
        *,
        hostname: str,
        version: str,
        mechanisms: Sequence[str],
        software: str = "cyrusext",
        role: str = "(master)",
        starttls: bool = False,
        compress: Sequence[str] = (),
        follow: bool = False,
        limits: Limits = LIMITS,
    ) -> None:
        self.state = NOT_AUTHENTICATED
        self._limits = limits
        self._framer = Framer(Limits(*map(min, limits, LOGIN_LIMITS)))
        self._banner = Banner(hostname, software, version, role, tuple(mechanisms), starttls, tuple(compress), True)
        self._may_follow = follow
        self._tls = False
        self._compressing = False
        self._pending: Command | None = None
        self._exchange = False
        self._violations = 0

    def banner(self) -> bytes:
        """Return the banner: at the connection's beginning, and again when TLS has begun."""
        return codec.encode_banner(self._banner)

    def receive_data(self, data: bytes) -> None:
        """Take what the client sent.  Bytes fed while PAUSED are kept: stop reading meanwhile to bound them."""
        if self.state is not LOGGED_OUT:
            self._framer.feed(data)

    @property
    def buffered(self) -> int:
        """Bytes taken and not yet turned into events."""
        return self._framer.buffered

    def next_event(self) -> ServerEvent:
        """Return the next command or other event; NEED_DATA or PAUSED when there is none."""
        if self._exchange:
            return self._next_response()
        if self._pending is not None or self.state is LOGGED_OUT:
            return PAUSED
        message = self._framer.next_message()
        if message is None:
            return NEED_DATA
        if message is FramerSignal.GO_AHEAD:
            return GoAhead(codec.GO_AHEAD)
        if isinstance(message, Poisoned):
            return self._poisoned(codec.tag_of(message.head), message)
        assert not isinstance(message, FramerSignal)
        return self._command(message)

    def answer_finds(self, answer: Callable[[Framer], tuple[bytes, bool | None]]) -> tuple[bytes, bool | None]:
        """Have `answer` take the FINDs that come first, where FIND is legal; return their answers.

        The second value says whether `next_event` is to be asked what follows; None where `answer` is.
        """
        if self.state is not AUTHENTICATED or self._pending is not None:
            return b"", True
        answers, more = answer(self._framer)
        if answers:
            self._violations = 0
        return answers, more

    def _command(self, message: Message) -> ServerEvent:
        try:
            head = codec.decode_head(message)
            if self._tls and head.kind is Starttls and self.state is NOT_AUTHENTICATED:
                return self._refused(No(head.tag, "TLS is already active"))
            if self._compressing and head.kind is Starttls and self.state is NOT_AUTHENTICATED:
                return self._refused(No(head.tag, "TLS can not begin after COMPRESS"))
            if not self._offers(head.kind):
                raise codec.BadCommand(head.tag, "Unrecognized command")
            if next_state(self.state, head.kind) is None:
                return self._violation(head.tag, refusal(self.state, head.kind))
            command = codec.decode_arguments(head)
            if isinstance(command, Compress) and (answer := self._refusal_of_compress(command)):
                return self._refused(answer)
        except codec.BadCommand as error:
            return self._violation(error.tag, str(error))
        self._violations = 0
        if head.kind in PAUSING:
            self._pending = command
        return command

    def _offers(self, kind: type[Command]) -> bool:
        if kind is Compress:
            return bool(self._banner.compress)
        if kind is Follow or kind is Forward:
            return self._may_follow
        return kind is not Starttls or self._banner.starttls or self.state is not NOT_AUTHENTICATED

    def _refusal_of_compress(self, command: Compress) -> Bad | No | None:
        if self._compressing:
            return Bad(command.tag, f"{command.algorithm} active via COMPRESS")
        if command.algorithm not in self._banner.compress:
            return No(command.tag, f"Unknown COMPRESS algorithm: {command.algorithm}")
        return None

    def _next_response(self) -> ServerEvent:
        """Read one line of the client's in a SASL exchange."""
        assert self._pending is not None
        tag = self._pending.tag
        line = self._framer.next_line()
        if line is None:
            return NEED_DATA
        self._exchange = False
        if isinstance(line, Poisoned):
            self._pending = None
            return self._poisoned(tag, line)
        if line == codec.CANCEL:
            return SaslCancelled(tag)
        try:
            return SaslResponse(tag, decode_item(line))
        except RemoteProtocolError:
            self._pending = None
            return self._violation(tag, "Invalid base64 encoding")

    def _poisoned(self, tag: bytes, message: Poisoned) -> ProtocolViolation:
        return self._violation(tag, message.problem.value, close=message.fatal)

    def _violation(self, tag: bytes, text: str, *, close: bool = False) -> ProtocolViolation:
        return self._refused(Bad(tag, text), close=close)

    def _refused(self, answer: Bad | No, *, close: bool = False) -> ProtocolViolation:
        reply = codec.encode_reply(answer)
        self._violations += 1
        if self._violations >= MAX_VIOLATIONS and not close:
            close = True
            reply += codec.encode_reply(Bye(UNTAGGED, "too many errors"))
        if close:
            self._close()
        return ProtocolViolation(reply, close, answer.text)

    def _close(self) -> None:
        self.state = LOGGED_OUT
        self._pending = None
        self._exchange = False
        self._framer.clear()

    def send(self, reply: Reply) -> bytes:
        """Return the bytes of `reply` and take the state that follows from it.

        Raises LocalProtocolError after the end, and for a challenge where none is due.
        """
        if self.state is LOGGED_OUT:
            raise LocalProtocolError("the connection is logged out")
        if isinstance(reply, Challenge):
            if not isinstance(self._pending, Authenticate) or self._exchange:
                raise LocalProtocolError("no SASL exchange waits for a challenge")
            self._exchange = True
            return codec.encode_reply(reply)
        encoded = codec.encode_reply(reply)
        if isinstance(reply, Bye):
            self._close()
        elif isinstance(reply, Ok | No | Bad) and self._pending is not None and reply.tag == self._pending.tag:
            self._completed(self._pending, isinstance(reply, Ok))
        return encoded

    def _completed(self, command: Command, succeeded: bool) -> None:
        self._pending = None
        self._exchange = False
        if not succeeded:
            return
        state = next_state(self.state, type(command))
        assert state is not None
        self.state = state
        if state is LOGGED_OUT:
            self._close()
        elif isinstance(command, Authenticate):
            self._framer.limits = self._limits
        elif isinstance(command, Starttls):
            # What came in the clear behind STARTTLS is nobody's word (RFC 3656 section 4.10).
            self._framer.clear()
            self._tls = True
            self._banner = replace(self._banner, starttls=False)
        elif isinstance(command, Compress):
            self._compressing = True

    def set_mechanisms(self, mechanisms: Sequence[str]) -> None:
        """Offer these from the next `banner` on: TLS may allow more of them."""
        self._banner = replace(self._banner, mechanisms=tuple(mechanisms))

    def send_records(self, tag: bytes, records: Iterable[MailboxRecord]) -> bytes:
        """Return the lines that report `records` to the FIND, LIST or UPDATE with `tag`."""
        if self.state is LOGGED_OUT:
            raise LocalProtocolError("the connection is logged out")
        return codec.encode_records(tag, records)


class ClientConnection:
    """The client's side of one connection.

    `next_event` raises RemoteProtocolError when the server breaks the protocol; the connection is then to be closed.
    """

    def __init__(self, *, limits: Limits = LIMITS) -> None:
        self.state = NOT_AUTHENTICATED
        self.banner: Banner | None = None
        self._framer = Framer(limits)
        self._greeting: list[Message] = []
        self._pending: dict[bytes, Command] = {}
        self._exchange: bytes | None = None
        self._stream: bytes | None = None

    def send(self, command: Command) -> bytes:
        """Return the bytes of `command`.

        Raises LocalProtocolError before the banner, where the state does not allow it, for a tag that is in use, and
        while a command that changes the state waits for its answer.
        """
        if self.banner is None:
            raise LocalProtocolError("the server has not greeted yet")
        if next_state(self.state, type(command)) is None:
            raise LocalProtocolError(f"{type(command).__name__}: {refusal(self.state, type(command))}")
        if command.tag in self._pending or command.tag == self._stream:
            raise LocalProtocolError(f"tag {command.tag!r} is in use")
        if any(type(waiting) in PAUSING for waiting in self._pending.values()):
            raise LocalProtocolError("a command that changes the connection waits for its answer")
        encoded = codec.encode_command(command)
        self._pending[command.tag] = command
        if isinstance(command, Authenticate):
            self._exchange = command.tag
        return encoded

    def send_response(self, item: Secret | None) -> bytes:
        """Return the client's next line of a SASL exchange; None gives the exchange up."""
        if self._exchange is None:
            raise LocalProtocolError("no SASL exchange is on")
        return (codec.CANCEL if item is None else encode_item(item)) + b"\r\n"

    def receive_data(self, data: bytes) -> None:
        """Take what the server sent."""
        self._framer.feed(data)

    def next_event(self) -> ClientEvent:
        """Return the banner or the next reply, NEED_DATA when there is none, PAUSED when the connection is over."""
        while True:
            if self.state is LOGGED_OUT:
                return PAUSED
            message = self._framer.next_message()
            if message is None:
                return NEED_DATA
            if isinstance(message, Poisoned):
                raise RemoteProtocolError(f"server: {message.problem.value}", fatal=True)
            if isinstance(message, FramerSignal):
                raise RemoteProtocolError("server sent a synchronising literal", fatal=True)
            if self.banner is None and not self._ends_greeting(message):
                continue
            if self.banner is None and message[0].upper().startswith(b"* OK"):
                self.banner = codec.decode_banner([*self._greeting, message])
                self._greeting.clear()
                return self.banner
            reply = codec.decode_reply(message, exchange=self._exchange is not None)
            self._received(reply)
            return reply

    def _ends_greeting(self, message: Message) -> bool:
        word = message[0].upper().split(b" ", 2)[1:2]
        if word and word[0] in (b"OK", b"NO", b"BAD", b"BYE"):
            return True
        self._greeting.append(message)
        if len(self._greeting) > MAX_BANNER_LINES or not message[0].startswith(b"* "):
            raise RemoteProtocolError("this is no MUPDATE banner", fatal=True)
        return False

    def _received(self, reply: Reply) -> None:
        if isinstance(reply, Challenge):
            return
        if isinstance(reply, Bye):
            self.state = LOGGED_OUT
            return
        command = self._pending.get(reply.tag)
        if not isinstance(reply, Ok | No | Bad):
            if command is None and reply.tag != self._stream:
                raise RemoteProtocolError("server reports a mailbox that nobody asked for", fatal=True)
            return
        if reply.tag == UNTAGGED:
            return
        if command is None:
            raise RemoteProtocolError("server answers a command that was not sent", fatal=True)
        del self._pending[reply.tag]
        if isinstance(command, Authenticate):
            self._exchange = None
        if not isinstance(reply, Ok):
            return
        state = next_state(self.state, type(command))
        assert state is not None
        self.state = state
        if isinstance(command, Update | Follow):
            self._stream = command.tag
        elif isinstance(command, Starttls):
            self.banner = None
            if self._framer.clear():
                raise RemoteProtocolError("server sent bytes between STARTTLS and TLS", fatal=True)
