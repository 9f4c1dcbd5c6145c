"""Changes on their way to the leader: what answers them, what does not, and how long they wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from cyrusext.directory.base import Outcome
from cyrusext.directory.ownership import Action, Change, check_change
from cyrusext.errors import LocalProtocolError
from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate.forwarding import Forwarding
from cyrusext.mupdate.types import Forward, No, Ok

BY = "murder@10.0.0.1"
ALICE = MailboxRecord(b"user.alice", State.ACTIVE, "be1", "default", b"a\tl\t", seq=11, changed_by=BY)
ACTIVATE = check_change(Action.ACTIVATE, b"user.alice", b"be1!default", b"a\tl\t")


class Leader:
    """Takes commands and remembers them; `records` is the copy of the follower."""

    def __init__(self, write_wait_s: float = 30.0) -> None:
        self.records: dict[bytes, MailboxRecord] = {}
        self.sent: list[Forward] = []
        self.broken = False
        self.forwarding = Forwarding("leader:3905", self.records.get, write_wait_s)

    def send(self, command: Forward) -> bytes:
        if self.broken:
            raise LocalProtocolError("logged out")
        self.sent.append(command)
        return b"W%d" % len(self.sent)


def play(scenario: Callable[[Leader], Coroutine[Any, Any, None]], write_wait_s: float = 30.0) -> None:
    async def main() -> None:
        leader = Leader(write_wait_s)
        await asyncio.wait_for(scenario(leader), 60)
        leader.forwarding.close()

    asyncio.run(main())


def test_a_change_goes_out_with_who_asked_and_comes_back_with_the_leader_s_words() -> None:
    async def scenario(leader: Leader) -> None:
        leader.forwarding.attach(leader.send, 10)
        granted, refused = leader.forwarding.write(ACTIVATE, BY), leader.forwarding.write(ACTIVATE, "x@y")
        assert leader.sent[0] == Forward(b"", BY, "ACTIVATE", b"user.alice", b"be1!default", b"a\tl\t")
        assert leader.forwarding.answered(No(b"W2", "held by be2"))
        assert leader.forwarding.answered(Ok(b"W1", "done"))
        assert not leader.forwarding.answered(Ok(b"W1", "done"))
        assert (await granted, await refused) == (Outcome(True, "done"), Outcome(False, "held by be2", "leader"))
        assert len(leader.forwarding) == 0

    play(scenario)


def test_changes_wait_for_the_leader_and_go_in_order() -> None:
    async def scenario(leader: Leader) -> None:
        changes = [check_change(Action.DELETE, b"user.u%d" % number) for number in range(5)]
        for change in changes:
            leader.forwarding.write(change, BY)
        assert leader.sent == []
        leader.forwarding.attach(leader.send, 10)
        assert [command.name for command in leader.sent] == [change.name for change in changes]

    play(scenario)


def test_what_was_sent_is_not_sent_again_and_the_feed_tells_what_became_of_it() -> None:
    async def scenario(leader: Leader) -> None:
        leader.forwarding.attach(leader.send, 10)
        outcome = leader.forwarding.write(ACTIVATE, BY)
        leader.forwarding.detach()
        leader.forwarding.attach(leader.send, 10)
        assert (len(leader.sent), outcome.done()) == (1, False)
        leader.records[ALICE.name] = ALICE
        leader.forwarding.applied(11)
        assert await outcome == Outcome(True, "done")

    play(scenario)


@pytest.mark.parametrize(
    ("change", "record", "told"),
    [
        (ACTIVATE, ALICE, True),
        (ACTIVATE, ALICE._replace(seq=10), False),
        (ACTIVATE, ALICE._replace(changed_by="murder@10.0.0.2"), False),
        (ACTIVATE, ALICE._replace(acl=b""), False),
        (ACTIVATE, ALICE._replace(partition=""), False),
        (ACTIVATE, ALICE._replace(state=State.RESERVED), False),
        (check_change(Action.RESERVE, b"user.alice", b"be1!default"), ALICE._replace(state=State.RESERVED), True),
        (check_change(Action.DEACTIVATE, b"user.alice", b"be1!default"), ALICE._replace(state=State.RESERVED), True),
        (check_change(Action.DELETE, b"user.alice"), ALICE._replace(state=State.DELETED), True),
        (check_change(Action.DELETE, b"user.alice"), ALICE, False),
        (check_change(Action.DELETE, b"user.alice"), None, False),
    ],
)
def test_only_the_very_change_counts_as_done(change: Change, record: MailboxRecord | None, told: bool) -> None:
    async def scenario(leader: Leader) -> None:
        leader.forwarding.attach(leader.send, 10)
        outcome = leader.forwarding.write(change, BY)
        leader.forwarding.detach()
        if record is not None:
            leader.records[record.name] = record
        leader.forwarding.attach(leader.send, 11)
        assert outcome.done() is told

    play(scenario)


def test_an_answer_that_is_on_its_way_is_waited_for() -> None:
    """The copy shows the change before the answer is here: the answer counts, as a refusal must not be hidden."""

    async def scenario(leader: Leader) -> None:
        leader.forwarding.attach(leader.send, 10)
        outcome = leader.forwarding.write(ACTIVATE, BY)
        leader.records[ALICE.name] = ALICE
        leader.forwarding.applied(11)
        assert not outcome.done()

    play(scenario)


def test_no_is_said_in_time_and_says_what_is_known() -> None:
    async def scenario(leader: Leader) -> None:
        never_sent = leader.forwarding.write(ACTIVATE, BY)
        assert await never_sent == Outcome(
            False, "leader:3905, which decides, can not be reached; try again", "leader-away"
        )
        leader.forwarding.attach(leader.send, 10)
        sent = leader.forwarding.write(ACTIVATE, BY)
        assert await sent == Outcome(False, "what leader:3905 made of it is not known; try again", "write-unknown")
        leader.forwarding.answered(Ok(b"W1", "done"))  # too late, and no harm

    play(scenario, 0.3)


def test_a_connection_that_is_just_ending_keeps_the_change_for_the_next_one() -> None:
    async def scenario(leader: Leader) -> None:
        leader.forwarding.attach(leader.send, 10)
        leader.broken = True
        outcome = leader.forwarding.write(ACTIVATE, BY)
        leader.broken = False
        leader.forwarding.detach()
        leader.forwarding.attach(leader.send, 10)
        assert leader.forwarding.answered(Ok(b"W1", "done"))
        assert (await outcome).granted

    play(scenario)


def test_what_waits_is_bounded_and_ends_with_the_node() -> None:
    async def scenario(leader: Leader) -> None:
        heavy = ACTIVATE._replace(acl=b"x" * (1 << 20))
        waiting = [leader.forwarding.write(heavy, BY) for _ in range(66)]
        refused = [outcome.result() for outcome in waiting if outcome.done()]
        assert refused == [Outcome(False, "too many changes are waiting, try again", "writer-busy")]
        leader.forwarding.close()
        assert {outcome.result().granted for outcome in waiting} == {False}

    play(scenario)
