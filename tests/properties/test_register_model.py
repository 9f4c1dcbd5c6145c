"""Three voters, two proposers and a network that loses, delays and repeats: no acknowledged write is ever lost.

Rule: one seed is one schedule; a violation names it, and `play(seed, ...)` shows it again.  The voters are a model of
what slapd does with schema's operations (tests/integration/test_slapd.py holds real ones against the same steps).
Broken proposers are played as well: what the checks do not catch in them they would not catch in ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from weakref import WeakKeyDictionary

import pytest

from cyrusext.directory import register
from cyrusext.directory.ballots import Ballot, Ballots
from cyrusext.directory.ownership import Decision
from cyrusext.directory.register import Attempt, Copy, Outcome, Owned, Phase, Reply, Request, Result, Step, Value
from cyrusext.model import MailboxRecord, State
from tests.plugins import long

VOTERS = 3
SEEDS = 3000 * (long.FACTOR if long.ON else 1)
BROKEN_SEEDS = 6000
NAME = b"user.alice"


class Violation(AssertionError):
    """What must not happen, happened; the text has the seed."""


class Voter:
    """One slapd: each step is atomic and durable."""

    def __init__(self) -> None:
        self.copy: Copy | None = None

    def serve(self, request: Request) -> tuple[Reply, Copy | None]:
        held = self.copy
        if request.create and held is not None:
            return Reply.EXISTS, None
        if not request.create and held is None:
            return Reply.ABSENT, None
        if held is not None:
            if request.step is Step.LOOK:
                return Reply.TAKEN, held
            if not self._allows(request, held):
                return Reply.OUTDONE, None
        if request.value is None:
            self.copy = Copy(request.ballot) if held is None else held._replace(promised=request.ballot)
            return Reply.TAKEN, self.copy
        self.copy = Copy(request.ballot, request.ballot, request.value)
        return Reply.TAKEN, None

    @staticmethod
    def _allows(request: Request, held: Copy) -> bool:
        match request.step:
            case Step.PREPARE:
                return not held.promised >= request.ballot
            case Step.ACCEPT:
                return held.promised <= request.ballot
            case _:
                return held.promised == held.accepted == request.own


class Truth:
    """What has been chosen, as nobody in the system can see it: accepted under one ballot by a majority, each of them
    whenever it was (the first may have gone on by the time the last accepts)."""

    def __init__(self) -> None:
        self.chosen: dict[int, Value] = {}
        self.under: dict[Ballot, Value] = {}
        self.by: dict[Ballot, set[int]] = {}

    def look(self, voters: list[Voter]) -> None:
        for number, voter in enumerate(voters):
            if voter.copy is None or voter.copy.accepted is None or voter.copy.value is None:
                continue
            ballot, value = voter.copy.accepted, voter.copy.value
            if self.under.setdefault(ballot, value) != value:
                raise Violation(f"two values under one ballot {ballot}")
            self.by.setdefault(ballot, set()).add(number)
            if len(self.by[ballot]) > len(voters) // 2:
                self.choose(value)

    def choose(self, value: Value) -> None:
        seq = value.record.seq
        if self.chosen.setdefault(seq, value) != value:
            raise Violation(f"two values of version {seq}: {self.chosen[seq].op!r} and {value.op!r}")
        for number in (seq, seq + 1):
            before, after = self.chosen.get(number - 1), self.chosen.get(number)
            if before is None or after is None or after.op == before.op:
                continue
            if after.record.changed_by != before.op.decode():
                raise Violation(f"version {number} is made of {after.record.changed_by!r}, not of {before.op!r}")
        made = [each for each, other in sorted(self.chosen.items()) if other.op == value.op]
        if made != list(range(made[0], made[0] + len(made))):
            raise Violation(f"{value.op!r} took effect twice: versions {made}")

    def acknowledge(self, outcome: Outcome) -> None:
        if outcome.value is not None and self.chosen.get(outcome.value.record.seq) != outcome.value:
            raise Violation(f"{outcome.value.op!r} was acknowledged and is not chosen")


Make = Callable[[Ballots, register.Decide, bytes, Owned | None], Attempt]


def ours(ballots: Ballots, decide: register.Decide, op: bytes, owned: Owned | None) -> Attempt:
    return Attempt(VOTERS, ballots, decide, op, owned)


class Proposer:
    """A node: one operation at a time, many of them; a crash forgets all but the voters."""

    def __init__(self, make: Make, dice: random.Random, ops: count[int]) -> None:
        self.make, self.dice, self.ops = make, dice, ops
        self.crash()

    def crash(self) -> None:
        self.ballots = Ballots(self.dice.getrandbits(64))
        self.owned: Owned | None = None
        self.attempt: Attempt | None = None

    def begin(self) -> list[Request]:
        op = b"%d" % next(self.ops)
        reads = self.dice.random() < 0.2

        def decide(before: MailboxRecord | None) -> Decision:
            if reads:
                return Decision(False, "", None)
            # whose operation the version before was: `history` of a value, for Truth
            based = names[before] if before is not None else ""
            return Decision(True, "", MailboxRecord(NAME, State.ACTIVE, op.decode(), "", changed_by=based))

        names = _Names()
        self.attempt = self.make(self.ballots, decide, op, self.owned)
        self.owned = None
        return self.attempt.start()


class _Names:
    """The op of a record: its server's name is the op that made it."""

    def __getitem__(self, record: MailboxRecord) -> str:
        return record.server


def play(seed: int, make: Make, steps: int = 120, proposers: int = 2) -> int:
    """One schedule; returns how many operations were acknowledged.  Raises Violation."""
    dice = random.Random(seed)
    voters, truth, ops = [Voter() for _ in range(VOTERS)], Truth(), count(1)
    nodes = [Proposer(make, dice, ops) for _ in range(proposers)]
    wires: list[tuple[Proposer, Attempt, Request, tuple[Reply, Copy | None] | None]] = []
    acknowledged = 0

    def send(node: Proposer, requests: list[Request]) -> None:
        assert node.attempt is not None or not requests
        for request in requests:
            if node.attempt is not None:
                wires.append((node, node.attempt, request, None))

    def settle(node: Proposer) -> None:
        nonlocal acknowledged
        outcome = node.attempt.outcome if node.attempt is not None else None
        if outcome is not None:
            node.attempt, node.owned = None, outcome.owned
            if outcome.result is Result.DECIDED:
                acknowledged += 1
                truth.acknowledge(outcome)

    try:
        for _ in range(steps):
            node, luck = dice.choice(nodes), dice.random()
            if luck < 0.01:
                node.crash()
            elif luck < 0.02 and node.attempt is not None:
                node.attempt.give_up()
            elif luck < 0.3 and node.attempt is None:
                send(node, node.begin())
            elif luck < 0.3 and node.attempt is not None and node.attempt.phase is Phase.PAUSED:
                send(node, node.attempt.again())
            elif wires:
                place = dice.randrange(len(wires))
                to, attempt, request, answer = wires[place]
                if answer is not None or dice.random() < 0.9:  # else it is delivered twice, the second time later
                    del wires[place]
                if answer is None:
                    if dice.random() < 0.85:
                        answer = voters[request.voter].serve(request)
                        truth.look(voters)
                    if answer is None or dice.random() < 0.15:
                        answer = (Reply.LOST, None)  # the request, or only its answer
                    wires.append((to, attempt, request, answer))
                elif to.attempt is attempt:
                    send(to, attempt.answered(request, *answer))
            for each in nodes:
                settle(each)
        finish(truth, voters, make, dice)
    except Violation as error:
        raise Violation(f"seed {seed}: {error}") from None
    return acknowledged


def finish(truth: Truth, voters: list[Voter], make: Make, dice: random.Random) -> None:
    """Read with everything well: the newest chosen version, or what was made of it, is what is there."""
    newest = max(truth.chosen, default=0)
    attempt = make(Ballots(dice.getrandbits(64)), register.read_only, b"read", None)
    pending = attempt.start()
    for _ in range(60):
        if not pending and attempt.phase is Phase.PAUSED:
            pending = attempt.again()
        if not pending:
            break
        request = pending.pop(dice.randrange(len(pending)))
        reply, copy = voters[request.voter].serve(request)
        truth.look(voters)
        pending += attempt.answered(request, reply, copy)
    if attempt.outcome is None:
        raise Violation("a read with everything well does not end")
    seen = attempt.outcome.value.record.seq if attempt.outcome.value is not None else 0
    if seen < newest:
        raise Violation(f"version {newest} was chosen, and {seen} is there")
    truth.acknowledge(attempt.outcome)


# -- broken proposers -----------------------------------------------------------------------------------------------


class CompareAndSet(Attempt):
    """No PREPARE: looks at a majority, takes the highest version, and sets where that is still the highest ballot."""

    def _prepare(self) -> list[Request]:
        ballot = self._ballots.next()
        self._owned = None
        self._ballot = ballot
        requests = [Request(voter, 0, Step.LOOK, ballot) for voter in self._voters]
        return self._begin(Phase.PREPARING, requests)

    def answered(self, request: Request, reply: Reply, copy: Copy | None = None) -> list[Request]:
        if request.step is Step.LOOK and self.phase is Phase.PREPARING:
            if reply is Reply.ABSENT:
                reply, copy = Reply.TAKEN, Copy(Ballot(0, 0))
            if copy is not None:
                self._ballots.saw(copy.promised)
                copy = copy._replace(promised=self._ballot)
        return super().answered(request, reply, copy)


class OneStream(Attempt):
    """Believes the first copy that it is shown."""

    def _promised(self) -> list[Request]:
        first = next(iter(self._for.values()))
        self._for = dict.fromkeys(self._for, first)
        return super()._promised()


class NoBaseRule(Attempt):
    """Tries again whatever has happened in between."""

    def _promised(self) -> list[Request]:
        self._base = None
        return super()._promised()


def broken(kind: type[Attempt]) -> Make:
    return lambda ballots, decide, op, owned: kind(VOTERS, ballots, decide, op, owned)


def memory_used_twice(ballots: Ballots, decide: register.Decide, op: bytes, owned: Owned | None) -> Attempt:
    """Follows its last write a second time when the first attempt came to nothing, and so with the same ballot."""
    if owned is not None:
        _kept[ballots] = owned
    return Attempt(VOTERS, ballots, decide, op, _kept.get(ballots))


_kept: WeakKeyDictionary[Ballots, Owned] = WeakKeyDictionary()


def no_follow_assertion(ballots: Ballots, decide: register.Decide, op: bytes, owned: Owned | None) -> Attempt:
    return _Unasserted(VOTERS, ballots, decide, op, owned)


class _Unasserted(Attempt):
    """Follows its last write wherever it is allowed to accept, whoever has been there."""

    def _follow(self) -> list[Request]:
        requests = super()._follow()
        higher = self._ballots.next() if requests else Ballot(0, 0)
        if requests and self._proposal is not None:
            self._proposal = (higher, self._proposal[1])
        changed = [request._replace(step=Step.ACCEPT, ballot=higher, own=None) for request in requests]
        self._sent = {request.voter: request for request in changed}
        return changed


BROKEN = {
    "compare and set without prepare": broken(CompareAndSet),
    "believes one stream": broken(OneStream),
    "retries without the rule of the base": broken(NoBaseRule),
    "uses its memory of a write twice": memory_used_twice,
    "follows without asserting its last write": no_follow_assertion,
}


def test_no_acknowledged_write_is_lost() -> None:
    acknowledged = sum(play(seed, ours) for seed in range(SEEDS))
    assert acknowledged > SEEDS  # it was not for want of writes


@pytest.mark.parametrize("name", BROKEN)
def test_the_checks_catch(name: str) -> None:
    for seed in range(BROKEN_SEEDS):
        try:
            play(seed, BROKEN[name])
        except Violation:
            return
    pytest.fail(f"{BROKEN_SEEDS} schedules of a proposer that {name}, and nothing was seen")
