"""The table of states, and that nothing but the table decides."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from cyrusext.mupdate.state import PAUSING, TRANSITIONS, ConnectionState, next_state, refusal
from cyrusext.mupdate.types import Authenticate, Command, Compress, Find, Forward, Logout, Noop, Starttls, Update

KINDS: tuple[type[Command], ...] = get_args(Command)
LEGAL: dict[ConnectionState, set[type[Command]]] = {
    ConnectionState.NOT_AUTHENTICATED: {Authenticate, Starttls, Compress, Logout},
    ConnectionState.AUTHENTICATED: set(KINDS) - {Authenticate, Starttls, Forward},
    ConnectionState.STREAMING: {Noop, Logout},
    ConnectionState.FOLLOWED: {Forward, Noop, Logout},
    ConnectionState.LOGGED_OUT: set(),
}


@pytest.mark.parametrize(("state", "kind"), list(itertools.product(ConnectionState, KINDS)))
def test_every_command_in_every_state(state: ConnectionState, kind: type[Command]) -> None:
    after = next_state(state, kind)
    assert (after is not None) == (kind in LEGAL[state])
    if after is None:
        assert refusal(state, kind)
    elif after is not state:
        # what changes the state has to hold up what follows
        assert kind in PAUSING


def test_every_state_can_be_reached_and_left() -> None:
    reached = {ConnectionState.NOT_AUTHENTICATED}
    for _ in ConnectionState:
        reached |= {after for state in reached for after in TRANSITIONS[state].values()}
    assert reached == set(ConnectionState)
    assert all(TRANSITIONS[state][Logout] is ConnectionState.LOGGED_OUT for state in reached if TRANSITIONS[state])


def test_refusals_are_in_the_words_of_the_stock_master() -> None:
    assert refusal(ConnectionState.NOT_AUTHENTICATED, Find) == "Please login first"
    assert refusal(ConnectionState.STREAMING, Find) == "not legal when streaming"
    assert refusal(ConnectionState.STREAMING, Update) == "not legal when streaming"
    assert refusal(ConnectionState.AUTHENTICATED, Authenticate) == "already authenticated"
    assert refusal(ConnectionState.AUTHENTICATED, Starttls) == "Can't Starttls after authentication"
