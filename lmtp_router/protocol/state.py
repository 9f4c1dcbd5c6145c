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
    CHUNK_ASKED = "chunk-asked"
    """The first BDAT waits for the decision that DATA waits for; its octets may have come."""
    CHUNK = "chunk"
    CHUNKS = "chunks"
    """Between two chunks."""
    FINAL = "final"
    TLS = "tls"
    """STARTTLS was taken: nothing is understood before TLS is there."""
    LOGIN = "login"
    """AUTH waits for the decision whether it is good, or for a challenge."""
    CHALLENGED = "challenged"
    """The next line is no command but a response, or gives up."""
    CLOSED = "closed"


class ServerInput(enum.Enum):
    """What moves a server: commands of the client, and decisions of the server."""

    __hash__ = object.__hash__

    LHLO = "lhlo"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BDAT = "bdat"
    RSET = "rset"
    NOOP = "noop"
    QUIT = "quit"
    STARTTLS = "starttls"
    SECURED = "secured"
    """TLS is there: the client begins anew."""
    AUTH = "auth"
    CHALLENGE = "challenge"
    RESPONSE = "response"
    CANCEL = "cancel"
    """The client gives up, or what it sent is no response."""
    LOGIN_DECIDED = "login-decided"
    XCLIENT = "xclient"
    XFORWARD = "xforward"
    ACCEPT = "accept"
    """354 was sent, or the first chunk is taken."""
    REFUSE = "refuse"
    """DATA or the first BDAT was refused: the transaction is over."""
    CHUNK_END = "chunk-end"
    """A chunk has come whole that is not the last."""
    END = "end"
    """CRLF.CRLF has come, or the last chunk."""
    REPLIED = "replied"
    """Every recipient has its reply."""


class ClientState(enum.Enum):
    """State of a connection to a backend."""

    __hash__ = object.__hash__

    GREETING = "greeting"
    LHLO = "lhlo"
    STARTTLS = "starttls"
    TLS = "tls"
    """The backend waits for TLS to begin."""
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
    STARTTLS = "starttls"
    BEGIN_TLS = "begin-tls"
    SECURED = "secured"
    """TLS is there: LHLO is said anew."""
    AUTHENTICATE = "authenticate"
    AUTHENTICATED = "authenticated"
    XFORWARD = "xforward"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    GO_AHEAD = "go-ahead"
    """354: the one thing that opens the gate for a body."""
    REFUSED = "refused"
    """DATA, or a STARTTLS that need not be, was answered with something else."""
    END = "end"
    REPLIED = "replied"
    RSET = "rset"
    NOOP = "noop"
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
    (_S.GREETED, _I.XCLIENT): _S.GREETED,
    (_S.GREETED, _I.XFORWARD): _S.GREETED,
    (_S.READY, _I.STARTTLS): _S.TLS,
    (_S.READY, _I.XCLIENT): _S.GREETED,
    (_S.READY, _I.XFORWARD): _S.READY,
    (_S.TLS, _I.SECURED): _S.GREETED,
    (_S.READY, _I.AUTH): _S.LOGIN,
    (_S.LOGIN, _I.CHALLENGE): _S.CHALLENGED,
    (_S.CHALLENGED, _I.RESPONSE): _S.LOGIN,
    (_S.CHALLENGED, _I.CANCEL): _S.READY,
    (_S.LOGIN, _I.LOGIN_DECIDED): _S.READY,
    (_S.MAIL, _I.LHLO): _S.READY,
    (_S.MAIL, _I.RCPT): _S.RCPT,
    (_S.MAIL, _I.RSET): _S.READY,
    (_S.MAIL, _I.NOOP): _S.MAIL,
    (_S.MAIL, _I.QUIT): _S.CLOSED,
    (_S.RCPT, _I.LHLO): _S.READY,
    (_S.RCPT, _I.RCPT): _S.RCPT,
    (_S.RCPT, _I.DATA): _S.DATA,
    (_S.RCPT, _I.BDAT): _S.CHUNK_ASKED,
    (_S.RCPT, _I.RSET): _S.READY,
    (_S.RCPT, _I.NOOP): _S.RCPT,
    (_S.RCPT, _I.QUIT): _S.CLOSED,
    (_S.DATA, _I.ACCEPT): _S.BODY,
    (_S.DATA, _I.REFUSE): _S.READY,
    (_S.BODY, _I.END): _S.FINAL,
    (_S.CHUNK_ASKED, _I.ACCEPT): _S.CHUNK,
    (_S.CHUNK_ASKED, _I.REFUSE): _S.READY,
    (_S.CHUNK, _I.CHUNK_END): _S.CHUNKS,
    (_S.CHUNK, _I.END): _S.FINAL,
    (_S.CHUNKS, _I.LHLO): _S.READY,
    (_S.CHUNKS, _I.BDAT): _S.CHUNK,
    (_S.CHUNKS, _I.RSET): _S.READY,
    (_S.CHUNKS, _I.NOOP): _S.CHUNKS,
    (_S.CHUNKS, _I.QUIT): _S.CLOSED,
    (_S.FINAL, _I.REPLIED): _S.READY,
}

_C, _J = ClientState, ClientInput

CLIENT: dict[tuple[ClientState, ClientInput], ClientState] = {
    (_C.GREETING, _J.GREETED): _C.LHLO,
    (_C.LHLO, _J.HELLO): _C.READY,
    (_C.LHLO, _J.STARTTLS): _C.STARTTLS,
    (_C.STARTTLS, _J.BEGIN_TLS): _C.TLS,
    (_C.STARTTLS, _J.REFUSED): _C.LHLO,
    (_C.TLS, _J.SECURED): _C.LHLO,
    (_C.LHLO, _J.AUTHENTICATE): _C.AUTH,
    (_C.AUTH, _J.AUTHENTICATED): _C.READY,
    (_C.READY, _J.XFORWARD): _C.READY,
    (_C.READY, _J.MAIL): _C.ENVELOPE,
    (_C.ENVELOPE, _J.RCPT): _C.ENVELOPE,
    (_C.ENVELOPE, _J.DATA): _C.GATED,
    (_C.ENVELOPE, _J.RSET): _C.RESETTING,
    (_C.GATED, _J.GO_AHEAD): _C.BODY,
    (_C.GATED, _J.REFUSED): _C.ENVELOPE,
    (_C.BODY, _J.END): _C.FINAL,
    (_C.FINAL, _J.REPLIED): _C.READY,
    (_C.READY, _J.NOOP): _C.RESETTING,
    (_C.RESETTING, _J.RESET_DONE): _C.READY,
}
