"""What can be said in MUPDATE: commands, replies and the events of a connection, as frozen values.

Rule: no bytes of the wire here.  Names, locations and ACLs are opaque bytes; whether a record can hold them is asked
of `cyrusext.model` by whoever keeps records, since its answer is a NO and not a BAD.
RESERVE and DELETE look alike as command and as reply (RFC 3656 sections 3.5, 3.7, 4.4, 4.9): one type serves both ways.
"""

from __future__ import annotations

import enum

import msgspec

from cyrusext.wire.sasl import Secret

UNTAGGED = b"*"
"""Tag of a reply to no command."""
MAX_HOSTS = 30
"""Hosts that one UPDATE may name."""


class Signal(enum.Enum):
    """What `next_event` says when there is no event."""

    NEED_DATA = "need data"
    """Feed more bytes."""
    PAUSED = "paused"
    """Nothing is read before the command that changes the connection has its reply; or the connection is over."""


NEED_DATA = Signal.NEED_DATA
PAUSED = Signal.PAUSED


class Authenticate(msgspec.Struct, frozen=True):
    """AUTHENTICATE (RFC 3656 section 4.2); `initial` is None when the client waits for a challenge first."""

    tag: bytes
    mechanism: str
    initial: Secret | None = None


class Starttls(msgspec.Struct, frozen=True):
    """STARTTLS (RFC 3656 section 4.10)."""

    tag: bytes


class Compress(msgspec.Struct, frozen=True):
    """COMPRESS, which RFC 3656 does not have."""

    tag: bytes
    algorithm: str


class Reserve(msgspec.Struct, frozen=True, gc=False):
    """RESERVE: claim a name, or report that it is claimed."""

    tag: bytes
    name: bytes
    location: bytes


class Activate(msgspec.Struct, frozen=True, gc=False):
    """ACTIVATE: the mailbox exists at `location` with this ACL."""

    tag: bytes
    name: bytes
    location: bytes
    acl: bytes


class Deactivate(msgspec.Struct, frozen=True, gc=False):
    """DEACTIVATE: back to reserved, in the middle of a move."""

    tag: bytes
    name: bytes
    location: bytes


class Delete(msgspec.Struct, frozen=True, gc=False):
    """DELETE: the mailbox is to go, or is gone."""

    tag: bytes
    name: bytes


class Find(msgspec.Struct, frozen=True, gc=False):
    """FIND: what is known of one name."""

    tag: bytes
    name: bytes


class List(msgspec.Struct, frozen=True, gc=False):
    """LIST: all records, or those whose ``server!partition`` begins with `prefix`."""

    tag: bytes
    prefix: bytes = b""


class Update(msgspec.Struct, frozen=True):
    """UPDATE: all records and then every change; only of these `hosts` when any are named."""

    tag: bytes
    hosts: tuple[str, ...] = ()


class Noop(msgspec.Struct, frozen=True, gc=False):
    """NOOP: a barrier for a stream."""

    tag: bytes


class Logout(msgspec.Struct, frozen=True, gc=False):
    """LOGOUT."""

    tag: bytes


Command = (
    Authenticate | Starttls | Compress | Reserve | Activate | Deactivate | Delete | Find | List | Update | Noop | Logout
)


class Ok(msgspec.Struct, frozen=True, gc=False):
    """The command is done."""

    tag: bytes
    text: str


class No(msgspec.Struct, frozen=True, gc=False):
    """The command is refused or failed."""

    tag: bytes
    text: str


class Bad(msgspec.Struct, frozen=True, gc=False):
    """The command is not understood, or not legal now."""

    tag: bytes
    text: str


class Bye(msgspec.Struct, frozen=True, gc=False):
    """The server closes the connection."""

    tag: bytes
    text: str


class Mailbox(msgspec.Struct, frozen=True, gc=False):
    """MAILBOX: an active mailbox."""

    tag: bytes
    name: bytes
    location: bytes
    acl: bytes


class Challenge(msgspec.Struct, frozen=True):
    """The server's next item of a SASL exchange."""

    data: Secret


class Banner(msgspec.Struct, frozen=True):
    """Everything up to ``* OK MUPDATE``: who the server is and what it offers (RFC 3656 section 3.8)."""

    hostname: str
    software: str
    version: str
    role: str
    mechanisms: tuple[str, ...] = ()
    starttls: bool = False
    compress: tuple[str, ...] = ()
    partial_update: bool = False


Completion = Ok | No | Bad | Bye
Line = Mailbox | Reserve | Delete
Reply = Completion | Line | Challenge


class SaslResponse(msgspec.Struct, frozen=True):
    """The client's next item of the exchange that the AUTHENTICATE with `tag` began."""

    tag: bytes
    data: Secret


class SaslCancelled(msgspec.Struct, frozen=True):
    """The client gave up the exchange; answer with NO."""

    tag: bytes


class GoAhead(msgspec.Struct, frozen=True):
    """A synchronising literal is welcome: send `reply` now."""

    reply: bytes


class ProtocolViolation(msgspec.Struct, frozen=True):
    """The client broke the protocol: send `reply`, then close when `close` says so.

    A violation during AUTHENTICATE ends the exchange.
    """

    reply: bytes
    close: bool
    reason: str


ServerEvent = Command | SaslResponse | SaslCancelled | GoAhead | ProtocolViolation | Signal
ClientEvent = Banner | Reply | Signal
