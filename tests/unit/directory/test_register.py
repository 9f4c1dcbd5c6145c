"""The machine of one attempt: what it sends, what it makes of each reply, how it ends."""

from __future__ import annotations

import pytest

from cyrusext.directory.ballots import MAX_COUNTER, MAX_ROUND, Ballot, Ballots, parse_ballot
from cyrusext.directory.ownership import Decision
from cyrusext.directory.register import (
    TABLE,
    Attempt,
    Copy,
    Owned,
    Phase,
    Reply,
    Request,
    Result,
    Step,
    Value,
    completed,
    read_only,
)
from cyrusext.errors import DirectoryError
from cyrusext.model import Flag, MailboxRecord, State

NAME = b"user.alice"


def value(seq: int, op: bytes = b"other", server: str = "be1") -> Value:
    return Value(MailboxRecord(NAME, State.ACTIVE, server, "default", seq=seq), op)


def write(before: MailboxRecord | None) -> Decision:
    return Decision(True, "done", MailboxRecord(NAME, State.ACTIVE, "be2", "", changed_by=str(before and before.seq)))


def refuse(_: MailboxRecord | None) -> Decision:
    return Decision(False, "held", None)


def all_taken(attempt: Attempt, requests: list[Request], copies: dict[int, Copy] | None = None) -> list[Request]:
    """Let every voter take its request; PREPARE answers the given copies under the new promise."""
    sent = []
    for request in requests:
        held = (copies or {}).get(request.voter, Copy(request.ballot))
        sent += attempt.answered(request, Reply.TAKEN, held._replace(promised=request.ballot))
    return sent


def test_two_rounds_then_one() -> None:
    ballots = Ballots(7)
    attempt = Attempt(3, ballots, write, b"a")
    prepares = attempt.start()
    assert [(r.voter, r.step, r.create) for r in prepares] == [(n, Step.PREPARE, False) for n in range(3)]
    accepts = all_taken(attempt, prepares)
    assert {r.step for r in accepts} == {Step.ACCEPT} and {r.ballot for r in accepts} == {prepares[0].ballot}
    assert accepts[0].value is not None and accepts[0].value.record.seq == 1
    assert attempt.answered(accepts[0], Reply.TAKEN) == [] and attempt.outcome is None
    attempt.answered(accepts[2], Reply.TAKEN)
    assert attempt.outcome is not None and attempt.outcome.result is Result.DECIDED
    owned = attempt.outcome.owned
    assert owned == Owned(prepares[0].ballot, accepts[0].value)
    assert attempt.answered(accepts[1], Reply.LOST) == []

    second = Attempt(3, ballots, write, b"b", owned)
    follows = second.start()
    assert {(r.step, r.own, r.ballot) for r in follows} == {(Step.FOLLOW, owned.ballot, owned.ballot._replace(round=1))}
    all_taken(second, follows)
    assert second.outcome is not None and second.outcome.value is not None
    assert second.outcome.value.record.seq == 2


def test_a_missing_entry_is_added_and_one_that_is_there_changed() -> None:
    attempt = Attempt(3, Ballots(7), write, b"a")
    first, *_ = attempt.start()
    [add] = attempt.answered(first, Reply.ABSENT)
    assert add == first._replace(create=True)
    [change] = attempt.answered(add, Reply.EXISTS)
    assert not change.create
    assert attempt.answered(change, Reply.ABSENT) == []  # an entry that comes and goes is no entry of ours
    assert attempt.phase is Phase.PREPARING
    assert all(r.create for r in Attempt(3, Ballots(7), write, b"a", absent=True).start())


def test_the_highest_accepted_value_is_what_is_decided_on() -> None:
    seen: list[MailboxRecord | None] = []

    def note(before: MailboxRecord | None) -> Decision:
        seen.append(before)
        return write(before)

    attempt = Attempt(3, Ballots(7), note, b"a")
    low, high = Ballot(1, 1), Ballot(1, 2)
    copies = {0: Copy(low, low, value(3)), 1: Copy(high, high, value(2, server="be9"))}
    accepts = all_taken(attempt, attempt.start()[:2], copies)
    assert [record and record.server for record in seen] == ["be9"]
    assert accepts[0].value is not None and accepts[0].value.record.seq == 3


def test_a_refusal_by_a_chosen_value_needs_no_second_round() -> None:
    attempt = Attempt(3, Ballots(7), refuse, b"a")
    held = Copy(Ballot(1, 1), Ballot(1, 1), value(1))
    assert all_taken(attempt, attempt.start(), {0: held, 1: held}) == []
    assert attempt.outcome is not None and attempt.outcome.decision == Decision(False, "held", None)


def test_a_refusal_by_a_half_done_write_makes_it_hold_first() -> None:
    attempt = Attempt(3, Ballots(7), refuse, b"a")
    held = Copy(Ballot(1, 1), Ballot(1, 1), value(1))
    accepts = all_taken(attempt, attempt.start()[:2], {0: held})
    assert accepts[0].value == completed(value(1))
    assert accepts[0].value.record.flags is Flag.SUSPECT and accepts[0].value.op == b"other"
    all_taken(attempt, accepts)
    assert attempt.outcome is not None and attempt.outcome.value == completed(value(1))


def test_a_refusal_is_not_given_from_memory() -> None:
    attempt = Attempt(3, Ballots(7), refuse, b"a", Owned(Ballot(1, 7), value(1)))
    assert {r.step for r in attempt.start()} == {Step.PREPARE}
    used_up = Owned(Ballot(1, 7, MAX_ROUND), value(1))
    assert {r.step for r in Attempt(3, Ballots(7), write, b"a", used_up).start()} == {Step.PREPARE}


def test_outdone_it_looks_and_goes_higher() -> None:
    attempt = Attempt(3, Ballots(7), write, b"a")
    prepares = attempt.start()
    attempt.answered(prepares[0], Reply.OUTDONE)
    assert attempt.answered(prepares[1], Reply.LOST) == []
    assert attempt.phase is Phase.PAUSED
    [look] = attempt.again()
    assert (look.voter, look.step) == (0, Step.LOOK)
    higher = attempt.answered(look, Reply.TAKEN, Copy(Ballot(40, 1)))
    assert {r.ballot for r in higher} == {Ballot(41, 7)}
    assert attempt.answered(prepares[2], Reply.TAKEN, Copy(prepares[2].ballot)) == []  # late, of another turn
    attempt.give_up()
    assert attempt.outcome is not None and attempt.outcome.result is Result.NOT_WRITTEN


def proposed(attempt: Attempt) -> None:
    """Bring it to where its proposal is lost at two voters."""
    accepts = all_taken(attempt, attempt.start())
    attempt.answered(accepts[0], Reply.LOST)
    attempt.answered(accepts[1], Reply.LOST)
    assert attempt.phase is Phase.PAUSED


def test_after_a_proposal_it_is_tried_again_only_where_nothing_has_changed() -> None:
    attempt = Attempt(3, Ballots(7), write, b"a")
    proposed(attempt)
    accepts = all_taken(attempt, attempt.again())
    assert {r.step for r in accepts} == {Step.ACCEPT}  # still nothing there


def test_after_a_proposal_its_own_value_is_made_to_hold() -> None:
    attempt = Attempt(3, Ballots(7), write, b"a")
    proposed(attempt)
    mine = Copy(Ballot(1, 7), Ballot(1, 7), value(1, b"a"))
    accepts = all_taken(attempt, attempt.again()[:2], {0: mine})
    assert accepts[0].value == value(1, b"a")


def test_after_a_proposal_a_value_of_somebody_else_leaves_it_unknown() -> None:
    attempt = Attempt(3, Ballots(7), write, b"a")
    proposed(attempt)
    other = Copy(Ballot(2, 1), Ballot(2, 1), value(2))
    assert all_taken(attempt, attempt.again()[:2], {0: other}) == []
    assert attempt.outcome is not None and attempt.outcome.result is Result.UNKNOWN
    given_up = Attempt(3, Ballots(7), write, b"a")
    proposed(given_up)
    given_up.give_up()
    assert given_up.outcome is not None and given_up.outcome.result is Result.UNKNOWN


def test_one_slapd_is_a_majority_of_one() -> None:
    attempt = Attempt(1, Ballots(7), read_only, b"a")
    all_taken(attempt, attempt.start())
    assert attempt.outcome is not None and attempt.outcome.result is Result.DECIDED and attempt.outcome.value is None


def test_the_table_has_every_phase_that_waits() -> None:
    waiting = {Phase.PREPARING, Phase.ACCEPTING, Phase.FOLLOWING, Phase.LOOKING}
    assert {phase for phase, _ in TABLE} == waiting
    assert all((phase, Reply.TAKEN) in TABLE and (phase, Reply.LOST) in TABLE for phase in waiting)


def test_no_ballot_is_made_twice() -> None:
    ballots = Ballots(7)
    ballots.saw(Ballot(5, 9))
    made = [ballots.next() for _ in range(3)]
    ballots.saw(Ballot(2, 9))
    made.append(ballots.next())
    assert made == sorted(set(made)) and made[0] > Ballot(5, 9)
    ballots.saw(Ballot(MAX_COUNTER, 1))
    with pytest.raises(DirectoryError):
        ballots.next()


@pytest.mark.parametrize(
    "text", [b"", b"1.2.3", Ballot(1, 2).text.upper() + b"A", b"f" * 12 + b"." + b"0" * 16 + b"." + b"0" * 8]
)
def test_what_is_no_ballot(text: bytes) -> None:
    with pytest.raises(DirectoryError):
        parse_ballot(text)
