"""Changes on their way from a node that follows to the node that decides.

Rule: a change is answered OK when the leader granted it and it is applied here, NO when the leader refused it, and NO
when neither is known in time.  One that was sent over a connection that is gone is never sent again; if the feed then
brings exactly what it asked for, written by who asked, it was granted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cyrusext.directory.base import Outcome
from cyrusext.directory.ownership import YIELDED, Action, Change, Holding, holding
from cyrusext.errors import LocalProtocolError, MupdateUnavailable
from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate.types import Forward, No, Ok

MAX_WAITING = 10_000
MAX_WAITING_BYTES = 64 << 20
"""Changes, and bytes of their ACLs, that may wait."""
SWEEP_S = 0.25

_STATES = {
    Action.RESERVE: State.RESERVED,
    Action.ACTIVATE: State.ACTIVE,
    Action.DEACTIVATE: State.RESERVED,
    Action.DELETE: State.DELETED,
}


class _Waiting:
    """A change without an answer; `sent_at` is the leader's seq known here when it was sent, None before that."""

    __slots__ = ("by", "change", "deadline", "future", "sent_at", "tag")

    def __init__(self, change: Change, by: str, future: asyncio.Future[Outcome], deadline: float) -> None:
        self.change, self.by, self.future, self.deadline = change, by, future, deadline
        self.sent_at: int | None = None
        self.tag = b""

    def is_done_by(self, record: MailboxRecord | None) -> bool:
        """Say whether `record` is what the change asked for, written for it."""
        if record is None or self.sent_at is None or record.seq <= self.sent_at or record.changed_by != self.by:
            return False
        change = self.change
        if record.state is not _STATES[change.action]:
            return False
        return change.action is Action.DELETE or (
            record.location == change.location and (change.action is not Action.ACTIVATE or record.acl == change.acl)
        )


class Forwarding:
    """The changes that wait; `send` gives a command to the leader and returns its tag, or raises."""

    def __init__(self, leader: str, get: Callable[[bytes], MailboxRecord | None], write_wait_s: float) -> None:
        self._leader, self._get, self._write_wait_s = leader, get, write_wait_s
        self._waiting: dict[int, _Waiting] = {}
        self._by_tag: dict[bytes, int] = {}
        self._next = 0
        self._bytes = 0
        self._send: Callable[[Forward], bytes] | None = None
        self._known_seq = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self.forwarded = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def write(self, change: Change, by: str) -> asyncio.Future[Outcome]:
        """Take a change; the future is done within the write deadline and never raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        if len(self._waiting) >= MAX_WAITING or self._bytes > MAX_WAITING_BYTES:
            future.set_result(Outcome(False, "too many changes are waiting, try again", "writer-busy"))
            return future
        record = self._get(change.name)
        if change.yields and record is not None and holding(record, change.location) is Holding.RESERVED_ELSEWHERE:
            # what a push must not have is not for the leader to decide: it does not know the push
            future.set_result(Outcome(False, YIELDED.text.format(server=record.server), "ownership"))
            return future
        number = self._next = self._next + 1
        waiting = self._waiting[number] = _Waiting(change, by, future, loop.time() + self._write_wait_s)
        self._bytes += len(change.acl)
        if self._send is not None:
            self._post(number, waiting)
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP_S, self._sweep)
        return future

    def attach(self, send: Callable[[Forward], bytes], seq: int) -> None:
        """The leader takes changes from now on, and this node has caught up with it to `seq`."""
        self._send, self._known_seq = send, seq
        self._by_tag.clear()
        self.applied(seq)
        for number, waiting in list(self._waiting.items()):
            if waiting.sent_at is None and self._send is not None:
                self._post(number, waiting)

    def detach(self) -> None:
        """The connection is gone, and with it the answers to what was sent."""
        self._send = None
        self._by_tag.clear()

    def answered(self, answer: Ok | No) -> bool:
        """Take the leader's answer to a change, which is applied here when it is OK; False for another's tag."""
        number = self._by_tag.pop(answer.tag, None)
        if number is None:
            return False
        granted = isinstance(answer, Ok)
        self._settle(number, Outcome(granted, answer.text, "" if granted else "leader"))
        return True

    def applied(self, seq: int) -> None:
        """This node has applied everything up to `seq`: it may show what became of changes whose answer was lost."""
        self._known_seq = seq
        if len(self._waiting) == len(self._by_tag):
            return
        answered_for = set(self._by_tag.values())
        for number, waiting in list(self._waiting.items()):
            if number not in answered_for and waiting.is_done_by(self._get(waiting.change.name)):
                self._settle(number, Outcome(True, "done"))

    def close(self) -> None:
        """Answer all that wait."""
        self.detach()
        for number in list(self._waiting):
            self._settle(number, Outcome(False, "server is shutting down", "leader-away"))
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _post(self, number: int, waiting: _Waiting) -> None:
        change = waiting.change
        location = b"" if change.location is None else change.location.to_wire()
        assert self._send is not None
        try:
            waiting.tag = self._send(Forward(b"", waiting.by, change.action.value, change.name, location, change.acl))
        except (LocalProtocolError, MupdateUnavailable):
            return  # the connection is just ending: the change waits for the next one
        waiting.sent_at = self._known_seq
        self._by_tag[waiting.tag] = number
        self.forwarded += 1

    def _settle(self, number: int, outcome: Outcome) -> None:
        waiting = self._waiting.pop(number)
        self._bytes -= len(waiting.change.acl)
        self._by_tag.pop(waiting.tag, None)
        if not waiting.future.done():
            waiting.future.set_result(outcome)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(SWEEP_S, self._sweep) if self._waiting else None
        now = loop.time()
        for number, waiting in list(self._waiting.items()):
            if waiting.deadline > now:
                break  # they wait in the order in which they came
            if waiting.sent_at is None:
                outcome = Outcome(False, f"{self._leader}, which decides, can not be reached; try again", "leader-away")
            else:
                outcome = Outcome(False, f"what {self._leader} made of it is not known; try again", "write-unknown")
            self._settle(number, outcome)
