"""The two automata of LMTP: who may say what when (RFC 2033 section 4, RFC 5321 section 4.1.4).

Rule: everything that moves a connection from one state to another is a row of `SERVER` or `CLIENT`; a row that is not
there is the error.  This file does not know which side we are.
"""

from __future__ import annotations

import enum


class ServerState(enum.Enum):
    """State of a connection as its server sees it."""

    __hash__ = object.__hash__

    GREETED = "greeted"
    READY = "ready"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    FINAL = "final"
    CLOSED = "closed"


class ServerInput(enum.Enum):
    """What moves a server: commands of the client, and decisions of the server."""

    __hash__ = object.__hash__

    LHLO = "lhlo"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    RSET = "rset"
    NOOP = "noop"
    QUIT = "quit"
    ACCEPT = "accept"
    """354 was sent."""
    REFUSE = "refuse"
    """DATA was refused: the transaction is over."""
    END = "end"
    """CRLF.CRLF has come."""
    REPLIED = "replied"
    """Every recipient has its reply."""


class ClientState(enum.Enum):
    """State of a connection to a backend."""

    __hash__ = object.__hash__

    GREETING = "greeting"
    LHLO = "lhlo"
    AUTH = "auth"
    READY = "ready"
    ENVELOPE = "envelope"
    GATED = "gated"
    BODY = "body"
    FINAL = "final"
    RESETTING = "resetting"
    CLOSED = "closed"


class ClientInput(enum.Enum):
    """What moves a connection to a backend."""

    __hash__ = object.__hash__

    GREETED = "greeted"
    HELLO = "hello"
    AUTHENTICATE = "authenticate"
    AUTHENTICATED = "authenticated"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    GO_AHEAD = "go-ahead"
    """354: the one thing that opens the gate for a body."""
    REFUSED = "refused"
    """DATA was answered with something else."""
    END = "end"
    REPLIED = "replied"
    RSET = "rset"
    RESET_DONE = "reset-done"


_S, _I = ServerState, ServerInput

SERVER: dict[tuple[ServerState, ServerInput], ServerState] = {
    (_S.GREETED, _I.LHLO): _S.READY,
    (_S.GREETED, _I.RSET): _S.GREETED,
    (_S.GREETED, _I.NOOP): _S.GREETED,
    (_S.GREETED, _I.QUIT): _S.CLOSED,
    (_S.READY, _I.LHLO): _S.READY,
    (_S.READY, _I.MAIL): _S.MAIL,
    (_S.READY, _I.RSET): _S.READY,
    (_S.READY, _I.NOOP): _S.READY,
    (_S.READY, _I.QUIT): _S.CLOSED,
    (_S.MAIL, _I.LHLO): _S.READY,
    (_S.MAIL, _I.RCPT): _S.RCPT,
    (_S.MAIL, _I.RSET): _S.READY,
    (_S.MAIL, _I.NOOP): _S.MAIL,
    (_S.MAIL, _I.QUIT): _S.CLOSED,
    (_S.RCPT, _I.LHLO): _S.READY,
    (_S.RCPT, _I.RCPT): _S.RCPT,
    (_S.RCPT, _I.DATA): _S.DATA,
    (_S.RCPT, _I.RSET): _S.READY,
    (_S.RCPT, _I.NOOP): _S.RCPT,
    (_S.RCPT, _I.QUIT): _S.CLOSED,
    (_S.DATA, _I.ACCEPT): _S.BODY,
    (_S.DATA, _I.REFUSE): _S.READY,
    (_S.BODY, _I.END): _S.FINAL,
    (_S.FINAL, _I.REPLIED): _S.READY,
}

_C, _J = ClientState, ClientInput

CLIENT: dict[tuple[ClientState, ClientInput], ClientState] = {
    (_C.GREETING, _J.GREETED): _C.LHLO,
    (_C.LHLO, _J.HELLO): _C.READY,
    (_C.LHLO, _J.AUTHENTICATE): _C.AUTH,
    (_C.AUTH, _J.AUTHENTICATED): _C.READY,
    (_C.READY, _J.MAIL): _C.ENVELOPE,
    (_C.ENVELOPE, _J.RCPT): _C.ENVELOPE,
    (_C.ENVELOPE, _J.DATA): _C.GATED,
    (_C.ENVELOPE, _J.RSET): _C.RESETTING,
    (_C.GATED, _J.GO_AHEAD): _C.BODY,
    (_C.GATED, _J.REFUSED): _C.ENVELOPE,
    (_C.BODY, _J.END): _C.FINAL,
    (_C.FINAL, _J.REPLIED): _C.READY,
    (_C.RESETTING, _J.RESET_DONE): _C.READY,
}
