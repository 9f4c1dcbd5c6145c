"""What differs between the modes: every cell that is not the standard table's, and who hears what."""

from __future__ import annotations

import asyncio

import pytest

from cyrusext.directory.modes import RULES, UNIFIED_TABLE, Audience, Mode, compatible
from cyrusext.directory.ownership import TABLE, Action, Effect, Holding, Policy, check_change, decide
from cyrusext.errors import InvalidName
from cyrusext.model import MailboxRecord, ServerPartition, State, parse_location, parse_partition
from cyrusext.mupdate.audience import Audiences

NAME = b"user.alice"
STANDARD, UNIFIED, REPLICATED = (RULES[mode] for mode in (Mode.STANDARD, Mode.UNIFIED, Mode.REPLICATED))


def record(server: str, state: State = State.ACTIVE, by: str = "murder@10.0.0.9") -> MailboxRecord:
    return MailboxRecord(NAME, state, server, "default", changed_by=by)


def test_every_mode_has_its_rules() -> None:
    assert set(RULES) == set(Mode)


def test_the_unified_table_differs_in_one_cell() -> None:
    different = {cell for cell in TABLE if TABLE[cell] != UNIFIED_TABLE[cell]}
    assert UNIFIED_TABLE.keys() == TABLE.keys()
    assert different == {(Action.ACTIVATE, Holding.ABSENT)}
    assert UNIFIED_TABLE[Action.ACTIVATE, Holding.ABSENT].effect is Effect.REFUSED


@pytest.mark.parametrize(
    ("policy", "granted"),
    [
        (Policy(table=UNIFIED_TABLE), False),
        (Policy(takeover=True, table=UNIFIED_TABLE), False),
        (Policy(claiming=frozenset({"be2"}), table=UNIFIED_TABLE), False),
        (Policy(claiming=frozenset({"be1"}), table=UNIFIED_TABLE), True),
        (Policy(), True),
    ],
)
def test_only_a_claim_activates_the_unknown_in_unified(policy: Policy, granted: bool) -> None:
    change = check_change(Action.ACTIVATE, NAME, b"be1!default", b"")
    assert decide(change, None, policy, now_us=1, by="").granted is granted


def test_a_claim_grants_activate_alone() -> None:
    policy = Policy(claiming=frozenset({"be1"}))
    for action in (Action.RESERVE, Action.DEACTIVATE):
        change = check_change(action, NAME, b"be1!default")
        assert not decide(change, record("be2"), policy, now_us=1, by="").granted


@pytest.mark.parametrize("action", [Action.RESERVE, Action.ACTIVATE, Action.DEACTIVATE])
def test_replicated_servers_are_never_elsewhere(action: Action) -> None:
    change = check_change(action, NAME, b"second", parse=REPLICATED.location)
    assert change.location == ServerPartition("", "second")
    assert decide(change, record(""), Policy(table=REPLICATED.table), now_us=1, by="").granted


@pytest.mark.parametrize("raw", [b"be1!default", b"!default", b"a b", b"\xff", b"x" * 2000])
def test_a_partition_is_no_location(raw: bytes) -> None:
    with pytest.raises(InvalidName):
        parse_partition(raw)


@pytest.mark.parametrize("raw", [b"be1!default", b"be1!", b"a!b!c"])
def test_a_location_comes_back(raw: bytes) -> None:
    assert parse_location(raw).to_wire() == raw


@pytest.mark.parametrize("raw", [b"default", b""])
def test_a_partition_comes_back(raw: bytes) -> None:
    assert parse_partition(raw).to_wire() == raw


@pytest.mark.parametrize(
    ("audience", "heard"),
    [
        (Audience("10.0.0.1", frozenset({"be1"})), False),  # the server itself
        (Audience("10.0.0.1", frozenset({"be2"})), True),
        (Audience("10.0.0.9"), False),  # not configured: the change came from there
        (Audience("10.0.0.1"), True),
        (Audience("10.0.0.9", frozenset({"be2"})), True),  # configured: an address alone says nothing
        (Audience(), True),
    ],
)
def test_a_unified_server_does_not_hear_of_its_own(audience: Audience, heard: bool) -> None:
    for state in (State.ACTIVE, State.DELETED):
        assert audience.hears(record("be1", state), UNIFIED) is heard
    assert not audience.hears(record("be1", State.RESERVED), UNIFIED)
    for state in State:
        assert audience.hears(record("be1", state), STANDARD)


def test_modes_with_one_form_of_location_may_follow_each_other() -> None:
    assert compatible(Mode.STANDARD, Mode.UNIFIED) and compatible(Mode.UNIFIED, Mode.STANDARD)
    for mode in (Mode.STANDARD, Mode.UNIFIED):
        assert not compatible(mode, Mode.REPLICATED) and not compatible(Mode.REPLICATED, mode)


def test_a_subscriber_is_known_by_its_address() -> None:
    hosts = {"be1": "127.0.0.1", "be2": "::1", "be3": "localhost", "be4": "127.0.0.4", "be5": "no-such-host.invalid"}
    audiences = Audiences(hosts)
    assert {"be1", "be3"} <= asyncio.run(audiences.at("127.0.0.1")).servers <= {"be1", "be3"}
    assert "be2" in asyncio.run(audiences.at("::1")).servers
    assert asyncio.run(audiences.at("127.0.0.5")) == Audience("127.0.0.5")
    assert asyncio.run(audiences.at("")) == Audience()
