"""One client of the MUPDATE server: its login, its commands, its stream.

Rule: commands are answered in the order in which they came.  Changes are handed to the directory as they arrive, so
that pipelined ones share a commit; anything that reads waits until the changes before it have their answers.  Nothing
is read from a client that does not take its replies, and one that does not for long is cut off.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from cyrusext.directory.base import Outcome
from cyrusext.directory.ownership import Action, Change, check_change
from cyrusext.errors import InvalidName, RemoteProtocolError
from cyrusext.mupdate.followed import FollowerStream
from cyrusext.mupdate.reading import Reading
from cyrusext.mupdate.service import Service
from cyrusext.mupdate.state import LOGGED_OUT
from cyrusext.mupdate.stream import Stream
from cyrusext.mupdate.types import (
    NEED_DATA,
    PAUSED,
    UNTAGGED,
    Activate,
    Authenticate,
    Bye,
    Challenge,
    Compress,
    Deactivate,
    Delete,
    Find,
    Follow,
    Forward,
    GoAhead,
    List,
    Logout,
    No,
    Noop,
    Ok,
    ProtocolViolation,
    Reserve,
    SaslCancelled,
    SaslResponse,
    ServerEvent,
    Starttls,
    Update,
)
from cyrusext.names import without_folder
from cyrusext.net.login import Login
from cyrusext.net.sasl import NOTHING_PROVED, LoginRefused, LoginUnavailable, Step
from cyrusext.runtime import logging
from cyrusext.wire.sasl import Secret

log = logging.get()

MAX_UNANSWERED = 512
"""Changes of one connection that may wait for their answers."""
MAX_FAILED_LOGINS = 5
TURN = 200
"""Events handled before others get their turn."""

_REFUSED = "undefined error!"
"""What a failed login is told, whatever the reason (Quirk.UNDEFINED_ERROR)."""


class Guest(Protocol):
    """Whom the server counts: it hears what becomes of the conversation."""

    host: str
    peer: str

    def admitted(self) -> None:
        """The client has logged in."""
        ...

    def left(self) -> None:
        """The connection is over."""
        ...


class Session(Reading):
    """One client's conversation, from its first bytes to its end."""

    def __init__(self, service: Service, guest: Guest, transport: asyncio.Transport) -> None:
        super().__init__(service, transport, guest.host, guest.peer)
        self._guest = guest
        self._unanswered: deque[tuple[bytes, Change, asyncio.Future[Outcome]]] = deque()
        self._answered = asyncio.Event()
        self._mechanisms: tuple[str, ...] = ()
        self._login: Login | None = None
        self._failed_logins = 0
        self._task: asyncio.Task[None] | None = None
        self._rests_since = 0.0
        self._idle: asyncio.TimerHandle | None = None

    # Beginning and end.

    def begin(self) -> None:
        """Serve the client, who has been greeted."""
        self._mechanisms = self._service.mechanisms_for(self.host, None)
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._serve())

    def connection_lost(self, _error: Exception | None) -> None:
        self._guest.left()
        if self._stream is not None:
            self._stream.close()
        self.stop_closing()
        for waiting in (self._task, self._idle):
            if waiting is not None:
                waiting.cancel()

    def bye(self, text: str) -> None:
        """Say BYE and close; a client that does not read it is cut off."""
        if self._transport.is_closing():
            return
        if self._handshaking or (isinstance(self._stream, Stream) and self._stream.list_is_open):
            self._transport.abort()  # nothing can be said in the middle of a handshake, or of the first list
        elif self._connection.state is not LOGGED_OUT:
            self.send(Bye(UNTAGGED, text))
        self._close()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def finish(self, text: str) -> None:
        """Let the changes at hand be answered, then say BYE."""
        if self._task is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            await self._settled()
            if self._stream is not None:
                self._stream.catch_up()
            self.bye(text)

    # The conversation.

    async def _serve(self) -> None:
        try:
            while await self._next_turn():
                pass
        except ConnectionError:
            self._transport.abort()
        except Exception as error:
            log.error("mupdate.session_failed", peer=self.peer, user=self.user, error=error, exc_info=error)
            self._transport.abort()
        finally:
            self._end_login()

    async def _next_turn(self) -> bool:
        """Handle the events at hand, then wait for more; False when the connection is over."""
        if not self._unanswered and self.answer_finds():
            await self.drain()
            await asyncio.sleep(0)
            return True
        for _ in range(TURN):
            event = self._connection.next_event()
            if event is NEED_DATA or event is PAUSED:
                break
            if type(event) is Find and not self._unanswered and not self._leader and self._find(event):
                if not self._writable.is_set():
                    await self.drain()
            elif not await self._handle(event):
                return False
        else:
            await self.drain()
            await asyncio.sleep(0)
            return True
        if self._connection.state is LOGGED_OUT:
            return False
        await self.drain()
        return await self._more_data()

    async def _more_data(self) -> bool:
        if self.inflatable:
            return await self._inflate()
        if self._ended:
            await self._settled()
            self._close()
            return False
        self.read_on()
        self.resting, self._rests_since = not self._unanswered, self._loop.time()
        try:
            await self._received.wait()
        finally:
            self.resting = False
        return True

    def _check_idle(self) -> None:
        """Send away who has been silent for too long; a subscriber may be: TCP's keep-alive tells if it is there."""
        if self._stream is not None:
            return
        wait_s = idle_s = self._service.bounds.idle_s
        if self.resting and not self.was_busy():
            wait_s = self._rests_since + idle_s - self._loop.time()
        if wait_s > 0:
            self._idle = self._loop.call_later(wait_s, self._check_idle)
        else:
            self.bye("idle for too long")

    async def _handle(self, event: ServerEvent) -> bool:
        """Answer one event, or see to it that it is answered; False when the connection is over."""
        match event:
            case Reserve():
                await self._change(Action.RESERVE, event.tag, event.name, event.location)
                return True
            case Activate():
                await self._change(Action.ACTIVATE, event.tag, event.name, event.location, event.acl)
                return True
            case Deactivate():
                await self._change(Action.DEACTIVATE, event.tag, event.name, event.location)
                return True
            case Delete():
                await self._change(Action.DELETE, event.tag, event.name)
                return True
            case Forward():
                await self._forward(event)
                return True
        await self._settled()
        match event:
            case Find() | List() if not await self._is_current(event):
                return False
            case Find():
                if not self._find(event):
                    await self._find_later(event)
            case Noop() | Logout():
                if self._leader and isinstance(event, Noop):
                    # What the leader has granted counts as granted before.  Without a leader it is answered all the
                    # same, if late: a frontend's look-ups hang until its slave hears this OK.
                    await self._service.directory.catch_up()
                if self._stream is not None:
                    await self._stream.drained()  # all that was granted before is on its way before the OK
                if isinstance(event, Logout):
                    self._left()
                    self.send(Ok(event.tag, "bye-bye"))
                    self._close()
                    return False
                self.send(Ok(event.tag, "Noop done"))
            case List():
                await self._list(event)
            case Update():
                await self._update(event)
            case Follow():
                await self._follow(event)
            case Starttls():
                await self._start_tls(event)
            case Compress():
                return self._compress(event)
            case Authenticate():
                await self._authenticate(event)
            case SaslResponse():
                await self._respond(event)
            case SaslCancelled():
                self._end_login()
                self.send(No(event.tag, "Client canceled authentication"))
            case GoAhead():
                self._write(event.reply)
            case ProtocolViolation():
                self._end_login()
                self._write(event.reply)
                self._service.peer_log.info(
                    "mupdate.violation", peer=self.peer, user=self.user, reason=event.reason, closed=event.close
                )
                if event.close:
                    self._close()
                    return False
            case _:
                raise AssertionError(f"not offered: {type(event).__name__}")
        return True

    # Changes.

    async def _change(
        self, action: Action, tag: bytes, name: bytes, location: bytes = b"", acl: bytes = b"", by: str = ""
    ) -> None:
        try:
            change = check_change(action, name, location, acl, parse=self._service.rules.location)
        except InvalidName as error:
            await self._settled()
            self._service.tally.refused[error.code] += 1
            self.send(No(tag, error.public))
            return
        if len(self._unanswered) >= MAX_UNANSWERED:
            await self._settled()
        if self._push is not None:
            change = self._push.meant(change)
        future = self._service.directory.write(change, by or f"{self.user}@{self.host or 'local'}")
        self._unanswered.append((tag, change, future))
        future.add_done_callback(self._answer)

    async def _forward(self, command: Forward) -> None:
        """A change that was asked of a node which follows this one; it is that client's, not the node's."""
        try:
            action = Action(command.action)
        except ValueError:
            await self._settled()
            self.send(No(command.tag, f"{command.action} is no change"))
            return
        await self._change(action, command.tag, command.name, command.location, command.acl, command.by)

    def _answer(self, _future: object = None) -> None:
        """Answer the changes that are decided, as far as none before them is open."""
        if isinstance(self._stream, FollowerStream) and not self._stream.is_current:
            return  # the change itself goes first; `_answer` is called then
        waiting = self._unanswered
        if not waiting or not waiting[0][2].done() or self._connection.state is LOGGED_OUT:
            return
        while waiting and waiting[0][2].done():
            tag, change, future = waiting.popleft()
            outcome = future.result()
            if outcome.granted:
                self.send(Ok(tag, outcome.text))
                if change.action is Action.ACTIVATE:
                    self._account.activated(change.name)
            else:
                self.send(No(tag, outcome.text))
                self._service.tally.refused[outcome.code or "other"] += 1
                self._log_refusal(change, outcome.text)
        self.flush()
        if not waiting:
            self._answered.set()

    def _log_refusal(self, change: Change, reason: str) -> None:
        self._service.peer_log.warning(
            "mupdate.refused",
            peer=self.peer,
            user=self.user,
            command=change.action.value,
            mailbox=without_folder(change.name),
            location=change.location or "",
            reason=reason,
        )

    async def _settled(self) -> None:
        """Wait until all changes have their answers; the directory bounds it."""
        while self._unanswered:
            self._answered.clear()
            await self._answered.wait()

    # Being followed.

    async def _follow(self, command: Follow) -> None:
        leading = self._service.leading
        if leading is None:
            refusal = f"this node follows {self._service.leader} itself; follow that one"
        else:
            refusal = "the records are being refilled" if self._refill.active else leading.refusal(command)
        if leading is None or refusal:
            log.error("follower.refused", peer=self.peer, node=command.node, reason=refusal)
            self.send(No(command.tag, refusal))
            return
        self._stream = stream = FollowerStream(
            self, self._service, leading, command, writable=self._writable.is_set, caught_up=self._answer
        )
        self.send(stream.begins())
        self.send(Ok(command.tag, "following"))
        await stream.copy()

    # TLS and compression.

    async def _start_tls(self, command: Starttls) -> None:
        self.send(Ok(command.tag, "Begin TLS negotiation now"))  # from here on what came in the clear is forgotten
        try:
            await self.secure()
        except BaseException:
            self._guest.left()
            raise
        self._mechanisms = self._service.mechanisms_for(self.host, self._proved)
        self._connection.set_mechanisms(self._mechanisms)
        self._write(self._connection.banner())

    def _compress(self, command: Compress) -> bool:
        if self._connection.buffered:
            # Whether it is compressed can not be told: RFC 4978 section 3 forbids it.
            self.bye("nothing may follow COMPRESS before its answer")
            return False
        self.send(Ok(command.tag, f"{command.algorithm} active"))
        self.deflate()
        return True

    async def _inflate(self) -> bool:
        try:
            self.inflate()
        except RemoteProtocolError as error:
            self._service.peer_log.info("mupdate.violation", peer=self.peer, user=self.user, reason=error, closed=True)
            self.bye(str(error))
            return False
        await asyncio.sleep(0)
        return True

    # Logging in.

    async def _authenticate(self, command: Authenticate) -> None:
        mechanism = command.mechanism.upper()
        if mechanism not in self._mechanisms:
            await self._refuse(command.tag, f"mechanism {command.mechanism!r} is not offered")
            return
        self._login = login = Login(
            self._service.logins, self._service.login_pool, self._proved or NOTHING_PROVED, self.host
        )
        initial = None if command.initial is None else command.initial.reveal()
        try:
            await self._stepped(command.tag, await login.start(mechanism, initial))
        except (LoginRefused, LoginUnavailable) as error:
            await self._refuse(command.tag, str(error))

    async def _respond(self, event: SaslResponse) -> None:
        assert self._login is not None
        try:
            await self._stepped(event.tag, await self._login.step(event.data.reveal()))
        except (LoginRefused, LoginUnavailable) as error:
            await self._refuse(event.tag, str(error))

    async def _stepped(self, tag: bytes, step: Step) -> None:
        if not step.done:
            self.send(Challenge(Secret(step.challenge)))
        elif step.username not in self._service.admins:
            await self._refuse(tag, f"{step.username!r} is not in admins")
        else:
            assert self._login is not None
            self._login.granted(step.username)
            self.user = step.username
            self._guest.admitted()
            self._idle = self._loop.call_later(self._service.bounds.idle_s, self._check_idle)
            log.debug(
                "mupdate.login",
                peer=self.peer,
                user=self.user,
                mechanism=self._login.mechanism,
                tls=self._proved is not None,
                remembered=self._login.remembered,
            )
            self._service.tally.logins[self._login.mechanism] += 1
            self._end_login()
            self.send(Ok(tag, "Authenticated"))

    async def _refuse(self, tag: bytes, reason: str) -> None:
        """Answer a failed login, not too fast; the reason is for the log only."""
        self._service.tally.failed_logins[self._login.mechanism if self._login is not None else "other"] += 1
        self._end_login()
        self._failed_logins += 1
        self._service.peer_log.warning(
            "mupdate.login_failed", peer=self.peer, reason=reason, failures=self._failed_logins
        )
        self.flush()  # what came before has not failed
        await asyncio.sleep(self._service.bounds.failed_login_s)
        self.send(No(tag, _REFUSED))
        if self._failed_logins >= MAX_FAILED_LOGINS:
            self.bye("too many failed logins")

    def _end_login(self) -> None:
        if self._login is not None:
            self._login.close()
            self._login = None
