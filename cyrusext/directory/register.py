"""One mailbox's register: how a majority of the slapds agrees on a change (CASPaxos; docs/decisions/directory.md).

Rule: an `Attempt` is a pure state machine.  It says which requests to send and takes what came of each, in any order,
late or never; it knows no socket and no clock.  What it is told of a request of an earlier turn does not count.

A *voter* is one slapd, the *copy* what it holds of the register.  Each request is one atomic step there:

| request | asserted | then |
|---|---|---|
| PREPARE | not promised ≥ ballot | promised = ballot; answers the copy |
| ACCEPT | promised ≤ ballot | promised = accepted = ballot, and the value |
| FOLLOW | promised = accepted = `own` | promised = accepted = ballot, and the value |
| LOOK | | answers the copy |

With `create` it is an add of the whole entry instead, whose condition is that there is none.

Why FOLLOW needs no PREPARE: no ballot lies between two rounds of one proposer, and a voter that promised a higher one
refuses.  Why a refusal may need an ACCEPT: a value that only a minority holds may still vanish, and an answer that told
of it would be of something that never was.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cyrusext.directory.ballots import Ballot, Ballots
from cyrusext.directory.ownership import Decision
from cyrusext.model import Flag, MailboxRecord


class Value(NamedTuple):
    """What a register holds: a record whose `seq` is the version, and the id of the operation that made it."""

    record: MailboxRecord
    op: bytes


class Copy(NamedTuple):
    """What one voter holds of a register; without `accepted` it has promised and taken nothing yet."""

    promised: Ballot
    accepted: Ballot | None = None
    value: Value | None = None


class Owned(NamedTuple):
    """What a majority took from this process last, under a ballot of its own: the next write may FOLLOW it.

    It serves one attempt and is used up by that, whatever comes of it: a second one would make the same ballot again.
    """

    ballot: Ballot
    value: Value


class Step(enum.Enum):
    PREPARE = "prepare"
    ACCEPT = "accept"
    FOLLOW = "follow"
    LOOK = "look"


class Request(NamedTuple):
    """One step at one voter."""

    voter: int
    turn: int
    step: Step
    ballot: Ballot
    value: Value | None = None
    own: Ballot | None = None
    create: bool = False


class Reply(enum.Enum):
    """What came of a request; in brackets LDAP's result code (RFC 4511 A.1, RFC 4528)."""

    TAKEN = "done (0)"
    OUTDONE = "the assertion failed (122)"
    ABSENT = "no such entry (32)"
    EXISTS = "the entry is there already (68)"
    LOST = "nobody knows: no answer in time, connection lost, or refused for a reason that is no matter of ballots"


class Phase(enum.Enum):
    NEW = "nothing sent"
    PREPARING = "asks for promises"
    ACCEPTING = "proposes under its promises"
    FOLLOWING = "proposes under the promises of its last write"
    LOOKING = "looks who outdid it"
    PAUSED = "no majority this time: again() or give_up()"
    DONE = "has an outcome"


class Count(enum.Enum):
    """What a reply means to the turn."""

    FOR = "one more of the majority"
    AGAINST = "one that will not be of it"
    CREATE = "the same again, as an add"
    CHANGE = "the same again, as a modify"


TABLE: Mapping[tuple[Phase, Reply], Count] = {
    (Phase.PREPARING, Reply.TAKEN): Count.FOR,
    (Phase.PREPARING, Reply.OUTDONE): Count.AGAINST,
    (Phase.PREPARING, Reply.ABSENT): Count.CREATE,
    (Phase.PREPARING, Reply.EXISTS): Count.CHANGE,
    (Phase.PREPARING, Reply.LOST): Count.AGAINST,
    (Phase.ACCEPTING, Reply.TAKEN): Count.FOR,
    (Phase.ACCEPTING, Reply.OUTDONE): Count.AGAINST,
    (Phase.ACCEPTING, Reply.ABSENT): Count.CREATE,
    (Phase.ACCEPTING, Reply.EXISTS): Count.CHANGE,
    (Phase.ACCEPTING, Reply.LOST): Count.AGAINST,
    (Phase.FOLLOWING, Reply.TAKEN): Count.FOR,
    (Phase.FOLLOWING, Reply.OUTDONE): Count.AGAINST,
    # it has no copy of our last write, which the assertion asks for: no add may stand for it
    (Phase.FOLLOWING, Reply.ABSENT): Count.AGAINST,
    (Phase.FOLLOWING, Reply.LOST): Count.AGAINST,
    (Phase.LOOKING, Reply.TAKEN): Count.FOR,
    (Phase.LOOKING, Reply.ABSENT): Count.AGAINST,
    (Phase.LOOKING, Reply.LOST): Count.AGAINST,
}
"""What is not in it can not come of such a request."""

TRIES = 3
"""Turns between add and modify at one voter within one step; entries are never removed, so two are enough."""


class Result(enum.Enum):
    DECIDED = "the decision holds, and the value if there is one"
    NOT_WRITTEN = "nothing was proposed: it has not happened and never will"
    UNKNOWN = "it was proposed and may happen, have happened, or have been written over"


class Outcome(NamedTuple):
    """How an attempt ended.

    `decision` is what `decide` said of the value before, `value` what the register holds (None: nothing, ever);
    `owned` is for the next attempt of this process, None where this one wrote nothing.
    """

    result: Result
    decision: Decision | None = None
    value: Value | None = None
    owned: Owned | None = None


Decide = Callable[[MailboxRecord | None], Decision]
"""What a command makes of the record that there is (ownership.decide); called again when that has changed."""


def read_only(_: MailboxRecord | None) -> Decision:
    """Decide nothing: the identity round, which finds out what the register holds and makes it hold."""
    return Decision(True, "", None)


class Attempt:
    """One operation on one register, from its first request to its outcome.

    `op` is its id, new for each operation and kept when the same one is tried again.  `owned` is what the last attempt
    of this process at this register returned, if nothing is known to have been written since.  `absent`: the register
    is thought not to be there, so that an add is what saves a round; nothing depends on its being right.
    """

    def __init__(
        self,
        voters: int,
        ballots: Ballots,
        decide: Decide,
        op: bytes,
        owned: Owned | None = None,
        *,
        absent: bool = False,
    ) -> None:
        self.phase = Phase.NEW
        self.outcome: Outcome | None = None
        self._voters = range(voters)
        self._majority = voters // 2 + 1
        self._ballots = ballots
        self._decide = decide
        self._op = op
        self._owned = owned
        self._absent = absent
        self._ballot = Ballot(0, 0)
        self._turn = 0
        self._sent: dict[int, Request] = {}
        self._tries: dict[int, int] = {}
        self._for: dict[int, Copy | None] = {}
        self._against: dict[int, Reply] = {}
        self._base: int | None = None
        """The version on which this operation was decided when a value of it was proposed; None: none was."""
        self._decision: Decision | None = None
        self._proposal: tuple[Ballot, Value] | None = None

    # -- what the caller does -------------------------------------------------------------------------------------

    def start(self) -> list[Request]:
        """Return the first requests: one round where this process wrote last, else two."""
        return self._follow() or self._prepare()

    def answered(self, request: Request, reply: Reply, copy: Copy | None = None) -> list[Request]:
        """Take what came of `request`, with the copy that was answered; return what to send now."""
        if copy is not None:
            self._ballots.saw(copy.promised)
        if request.turn != self._turn or self._sent.get(request.voter) != request:
            return []
        match TABLE[self.phase, reply]:
            case Count.FOR:
                self._for[request.voter] = copy
            case Count.AGAINST:
                self._against[request.voter] = reply
            case Count.CREATE | Count.CHANGE as way:
                self._tries[request.voter] = self._tries.get(request.voter, 0) + 1
                if self._tries[request.voter] < TRIES:
                    again = request._replace(create=way is Count.CREATE)
                    self._sent[request.voter] = again
                    return [again]
                self._against[request.voter] = Reply.LOST
        del self._sent[request.voter]
        return self._counted()

    def again(self) -> list[Request]:
        """Try once more after a pause (chosen by the caller, at random: two proposers can outdo each other)."""
        if self.phase is not Phase.PAUSED:
            return []
        outdone = [voter for voter, reply in self._against.items() if reply is Reply.OUTDONE]
        if not outdone:
            return self._prepare()
        return self._begin(Phase.LOOKING, [Request(voter, 0, Step.LOOK, Ballot(0, 0)) for voter in outdone])

    def give_up(self) -> None:
        """End it: the deadline is over, or the client has gone."""
        if self.phase is not Phase.DONE:
            self._end(Outcome(Result.NOT_WRITTEN if self._base is None else Result.UNKNOWN))

    # -- inside ---------------------------------------------------------------------------------------------------

    def _begin(self, phase: Phase, requests: list[Request]) -> list[Request]:
        self.phase = phase
        self._turn += 1
        self._for, self._against, self._tries = {}, {}, {}
        self._sent = {request.voter: request._replace(turn=self._turn) for request in requests}
        return list(self._sent.values())

    def _end(self, outcome: Outcome) -> list[Request]:
        self.phase, self.outcome, self._sent = Phase.DONE, outcome, {}
        return []

    def _counted(self) -> list[Request]:
        if self.phase is Phase.LOOKING:
            return self._prepare() if not self._sent else []
        if len(self._for) >= self._majority:
            return self._promised() if self.phase is Phase.PREPARING else self._chosen()
        if len(self._for) + len(self._sent) < self._majority:
            self.phase, self._sent = Phase.PAUSED, {}
        return []

    def _prepare(self) -> list[Request]:
        self._ballot = ballot = self._ballots.next()
        self._owned = None
        create, self._absent = self._absent, False
        requests = [Request(voter, 0, Step.PREPARE, ballot, create=create) for voter in self._voters]
        return self._begin(Phase.PREPARING, requests)

    def _follow(self) -> list[Request]:
        """The requests of the one-round write; none where there is nothing to write on what is remembered.

        A refusal is not given from memory: another process may have written since.
        """
        ballot = self._owned.ballot.following if self._owned is not None else None
        if self._owned is None or ballot is None:
            return []
        own, before = self._owned
        decision = self._decide(before.record)
        if decision.record is None:
            return []
        value = self._new(decision.record, before)
        return self._propose(Phase.FOLLOWING, Step.FOLLOW, ballot, value, decision, own)

    def _new(self, record: MailboxRecord, before: Value | None) -> Value:
        self._base = before.record.seq if before is not None else 0
        return Value(record._replace(seq=self._base + 1), self._op)

    def _propose(
        self,
        phase: Phase,
        step: Step,
        ballot: Ballot,
        value: Value,
        decision: Decision | None,
        own: Ballot | None = None,
    ) -> list[Request]:
        self._decision, self._proposal = decision, (ballot, value)
        return self._begin(phase, [Request(voter, 0, step, ballot, value, own) for voter in self._voters])

    def _promised(self) -> list[Request]:
        """A majority has promised: find what the register may hold, and decide."""
        copies = [copy for copy in self._for.values() if copy is not None]
        ballot = self._ballot
        top = max(copies, key=lambda copy: copy.accepted or Ballot(0, 0))
        value = top.value
        if self._base is not None:
            if value is not None and value.op == self._op:  # ours, taken before: it only has to hold
                return self._propose(Phase.ACCEPTING, Step.ACCEPT, ballot, value, self._decision)
            if (value.record.seq if value is not None else 0) != self._base:
                return self._end(Outcome(Result.UNKNOWN, None, value))
        decision = self._decide(value.record if value is not None else None)
        if decision.record is not None:
            value = self._new(decision.record, value)
            return self._propose(Phase.ACCEPTING, Step.ACCEPT, ballot, value, decision)
        if value is None or sum(copy.accepted == top.accepted for copy in copies) >= self._majority:
            return self._end(Outcome(Result.DECIDED, decision, value))
        return self._propose(Phase.ACCEPTING, Step.ACCEPT, ballot, completed(value), decision)

    def _chosen(self) -> list[Request]:
        """A majority has taken the proposal."""
        assert self._proposal is not None
        ballot, value = self._proposal
        return self._end(Outcome(Result.DECIDED, self._decision, value, Owned(ballot, value)))


def completed(value: Value) -> Value:
    """`value` as another than its proposer makes it hold: suspect, since its proposer may have said NO.

    It is a version of its own, for what is the same version is the same value; the operation stays the one that its
    proposer may still ask for.
    """
    if value.record.flags & Flag.SUSPECT:
        return value
    record = value.record
    return value._replace(record=record._replace(seq=record.seq + 1, flags=record.flags | Flag.SUSPECT))
