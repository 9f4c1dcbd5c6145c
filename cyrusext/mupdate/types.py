"""What can be said in MUPDATE: commands, replies and the events of a connection, as frozen values.

Rule: no bytes of the wire here.  Names, locations and ACLs are opaque bytes; whether a record can hold them is asked
of `cyrusext.model` by whoever keeps records, since its answer is a NO and not a BAD.
RESERVE and DELETE look alike as command and as reply (RFC 3656 sections 3.5, 3.7, 4.4, 4.9): one type serves both ways.
"""

from __future__ import annotations

import enum

import msgspec

from cyrusext.model import MailboxRecord
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


class Follow(msgspec.Struct, frozen=True):
    """X-CYRUSEXT-FOLLOW: all records with all their fields, from where the client's copy of them ends.

    `murder` is the mode of the client's murder, `node` its name.
    `store_id`, `seq` and `mark` say what the copy is of and up to which change; `store_id` is "" where there is none.
    """

    tag: bytes
    version: str
    cluster_id: str
    murder: str
    store_id: str
    seq: int
    mark: str
    node: str


class Forward(msgspec.Struct, frozen=True, gc=False):
    """X-CYRUSEXT-FORWARD: a change that somebody, `by`, asked of the client, a node that follows this one."""

    tag: bytes
    by: str
    action: str
    name: bytes
    location: bytes
    acl: bytes


Command = (
    Authenticate
    | Starttls
    | Compress
    | Reserve
    | Activate
    | Deactivate
    | Delete
    | Find
    | List
    | Update
    | Noop
    | Logout
    | Follow
    | Forward
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


FOLLOW_MODES = ("log", "behind", "full")
"""What X-BEGIN announces: what changed since the client was told; everything, since the log does not reach back so far;
everything, since the client's copy is of another store or of another history of this one."""


class Begins(msgspec.Struct, frozen=True, gc=False):
    """X-BEGIN: what follows is of this store, whose seq is `seq`; `mode` is in `FOLLOW_MODES`."""

    tag: bytes
    store_id: str
    mode: str
    seq: int


class Records(msgspec.Struct, frozen=True):
    """X-RECORDS: these are the present records; in the beginning of a full copy they come in Cyrus' order."""

    tag: bytes
    records: tuple[MailboxRecord, ...]


class Reached(msgspec.Struct, frozen=True, gc=False):
    """X-REACHED: everything up to the change `seq`, which `mark` tells from others, has been sent.

    The first one after a full copy is its end.

    `fresh`: the leader knows every change that was granted anywhere.
    """

    tag: bytes
    seq: int
    mark: str
    fresh: bool


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
FollowLine = Begins | Records | Reached
Reply = Completion | Line | FollowLine | Challenge


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
