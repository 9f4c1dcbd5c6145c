"""The states of a MUPDATE connection, as a table.

Rule: everything that says which command is legal when stands here, and nothing here knows whether it runs in a server
or in a client.  A state changes when the command's OK is sent or received; any other answer leaves it as it was.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from cyrusext.mupdate.types import (
    Activate,
    Authenticate,
    Command,
    Compress,
    Deactivate,
    Delete,
    Find,
    Follow,
    Forward,
    List,
    Logout,
    Noop,
    Reserve,
    Starttls,
    Update,
)


class ConnectionState(enum.Enum):
    """Where a connection is (RFC 3656 sections 4, 4.7, 4.10 and 4.11)."""

    NOT_AUTHENTICATED = "not authenticated"
    AUTHENTICATED = "authenticated"
    STREAMING = "streaming"
    FOLLOWED = "followed"
    LOGGED_OUT = "logged out"


NOT_AUTHENTICATED = ConnectionState.NOT_AUTHENTICATED
AUTHENTICATED = ConnectionState.AUTHENTICATED
STREAMING = ConnectionState.STREAMING
FOLLOWED = ConnectionState.FOLLOWED
LOGGED_OUT = ConnectionState.LOGGED_OUT

TRANSITIONS: Mapping[ConnectionState, Mapping[type[Command], ConnectionState]] = {
    NOT_AUTHENTICATED: {
        Authenticate: AUTHENTICATED,
        Starttls: NOT_AUTHENTICATED,
        Compress: NOT_AUTHENTICATED,
        Logout: LOGGED_OUT,
    },
    AUTHENTICATED: {
        Compress: AUTHENTICATED,
        Reserve: AUTHENTICATED,
        Activate: AUTHENTICATED,
        Deactivate: AUTHENTICATED,
        Delete: AUTHENTICATED,
        Find: AUTHENTICATED,
        List: AUTHENTICATED,
        Update: STREAMING,
        Follow: FOLLOWED,
        Noop: AUTHENTICATED,
        Logout: LOGGED_OUT,
    },
    STREAMING: {
        Noop: STREAMING,
        Logout: LOGGED_OUT,
    },
    FOLLOWED: {
        Forward: FOLLOWED,
        Noop: FOLLOWED,
        Logout: LOGGED_OUT,
    },
    LOGGED_OUT: {},
}
"""State → legal command → state after its OK.  A missing key is an illegal command."""

PAUSING: frozenset[type[Command]] = frozenset({Authenticate, Starttls, Compress, Update, Follow, Logout})
"""Commands whose answer decides how the following bytes are to be read: none is read before it."""

_REFUSALS: Mapping[ConnectionState, str] = {
    NOT_AUTHENTICATED: "Please login first",
    AUTHENTICATED: "not legal in this state",
    STREAMING: "not legal when streaming",
    FOLLOWED: "not legal when followed",
    LOGGED_OUT: "logged out",
}
_REFUSED_COMMANDS: Mapping[type[Command], str] = {
    Authenticate: "already authenticated",
    Starttls: "Can't Starttls after authentication",
}


def next_state(state: ConnectionState, command: type[Command]) -> ConnectionState | None:
    """Return the state after `command`'s OK, or None where it is not legal."""
    return TRANSITIONS[state].get(command)


def refusal(state: ConnectionState, command: type[Command]) -> str:
    """Return the text with which a command that is not legal in `state` is refused, in the stock master's words."""
    if state is AUTHENTICATED:
        return _REFUSED_COMMANDS.get(command, _REFUSALS[state])
    return _REFUSALS[state]
