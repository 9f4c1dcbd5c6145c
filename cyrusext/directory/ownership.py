"""Who may do what to a mailbox's record: the ownership table, as data.

Rule: whether a command is granted depends on the record's state and on whether it belongs to the *server* that the
command names, and on nothing else.  Partitions are never compared, since a RENAME writes ``be1!`` where later commands
write ``be1!default``; all backends log in with one name, so the sender of a DELETE is nobody in particular.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cyrusext.model import Flag, MailboxRecord, ServerPartition, State, check_acl, check_name, parse_location


class Action(enum.Enum):
    """The four commands that change a record (RFC 3656 section 4)."""

    RESERVE = "RESERVE"
    ACTIVATE = "ACTIVATE"
    DEACTIVATE = "DEACTIVATE"
    DELETE = "DELETE"


class Holding(enum.Enum):
    """What there is of the mailbox, as seen by the server that a command names."""

    ABSENT = "absent"
    RESERVED_HERE = "RESERVED by the same server"
    RESERVED_ELSEWHERE = "RESERVED by another server"
    ACTIVE_HERE = "ACTIVE on the same server"
    ACTIVE_ELSEWHERE = "ACTIVE on another server"


class Effect(enum.Enum):
    """What becomes of the record."""

    REFUSED = "refused, nothing changes"
    NONE = "granted, nothing changes"
    RESERVED = "RESERVED at the location given, without ACL"
    ACTIVE = "ACTIVE at the location and with the ACL given"
    DELETED = "a tombstone"


class Ruling(NamedTuple):
    """One cell of the table; ``text`` is the reply's, ``{server}`` in it the server that holds the record."""

    effect: Effect
    text: str = "done"


Table = Mapping[tuple[Action, Holding], Ruling]
"""Every command against every state of a record; no cell is missing."""

_ELSEWHERE = "mailbox is held by {server}"

TABLE: Table = {
    (Action.RESERVE, Holding.ABSENT): Ruling(Effect.RESERVED),
    (Action.RESERVE, Holding.RESERVED_HERE): Ruling(Effect.RESERVED),
    (Action.RESERVE, Holding.RESERVED_ELSEWHERE): Ruling(Effect.REFUSED, _ELSEWHERE),
    # quirk RESERVE_KEEPS_ACTIVE: the stock master demotes it to RESERVED and loses the ACL
    (Action.RESERVE, Holding.ACTIVE_HERE): Ruling(Effect.NONE),
    (Action.RESERVE, Holding.ACTIVE_ELSEWHERE): Ruling(Effect.REFUSED, _ELSEWHERE),
    (Action.ACTIVATE, Holding.ABSENT): Ruling(Effect.ACTIVE),
    (Action.ACTIVATE, Holding.RESERVED_HERE): Ruling(Effect.ACTIVE),
    # this is an XFER: the old backend deactivated, the new one activates
    (Action.ACTIVATE, Holding.RESERVED_ELSEWHERE): Ruling(Effect.ACTIVE),
    (Action.ACTIVATE, Holding.ACTIVE_HERE): Ruling(Effect.ACTIVE),
    (Action.ACTIVATE, Holding.ACTIVE_ELSEWHERE): Ruling(Effect.REFUSED, _ELSEWHERE),
    # quirk DEACTIVATE_ABSENT: the stock master crashes
    (Action.DEACTIVATE, Holding.ABSENT): Ruling(Effect.REFUSED, "mailbox does not exist"),
    # quirk DEACTIVATE_AGAIN: an XFER that is repeated; the stock master crashes
    (Action.DEACTIVATE, Holding.RESERVED_HERE): Ruling(Effect.RESERVED),
    # quirk DEACTIVATE_OWNED: the stock master overwrites the location
    (Action.DEACTIVATE, Holding.RESERVED_ELSEWHERE): Ruling(Effect.REFUSED, _ELSEWHERE),
    (Action.DEACTIVATE, Holding.ACTIVE_HERE): Ruling(Effect.RESERVED),
    (Action.DEACTIVATE, Holding.ACTIVE_ELSEWHERE): Ruling(Effect.REFUSED, _ELSEWHERE),
    # quirk DELETE_ABSENT: a NO makes Cyrus keep what its user deleted, and every later attempt fail again
    (Action.DELETE, Holding.ABSENT): Ruling(Effect.NONE, "already deleted"),
    (Action.DELETE, Holding.RESERVED_HERE): Ruling(Effect.DELETED),
    (Action.DELETE, Holding.RESERVED_ELSEWHERE): Ruling(Effect.DELETED),
    (Action.DELETE, Holding.ACTIVE_HERE): Ruling(Effect.DELETED),
    (Action.DELETE, Holding.ACTIVE_ELSEWHERE): Ruling(Effect.DELETED),
}
"""The table of the modes standard and replicated; what the others change is in directory.modes."""

YIELDED = Ruling(Effect.REFUSED, "mailbox is on its way: {server} has to run ctl_mboxlist -m first")
"""ACTIVATE that yields to another server's reservation (`Change.yields`)."""

TAKEOVER = Ruling(Effect.ACTIVE)
"""ACTIVATE that the table refuses, where the configuration or an operator allows it (`Policy`)."""


class Policy(NamedTuple):
    """The table, and what is allowed beyond it: ``takeover`` of what is ACTIVE elsewhere to every server; to the
    servers in ``claiming`` whatever ACTIVATE the table refuses; and to every server what was last written up to the
    sequence ``stale_upto``, since such a record may be out of date."""

    takeover: bool = False
    claiming: frozenset[str] = frozenset()
    stale_upto: int = -1
    table: Table = TABLE


class Change(NamedTuple):
    """A command to change one record, with arguments that a record can hold; DELETE has no location.

    `yields`: it is no XFER's, and another server's reservation stands against it.
    """

    action: Action
    name: bytes
    location: ServerPartition | None = None
    acl: bytes = b""
    yields: bool = False


class Decision(NamedTuple):
    """What is to be answered, and the record to write (None: nothing is written)."""

    granted: bool
    text: str
    record: MailboxRecord | None


def check_change(
    action: Action,
    name: bytes,
    location: bytes = b"",
    acl: bytes = b"",
    *,
    parse: Callable[[bytes], ServerPartition] = parse_location,
) -> Change:
    """Return the change that a command asks for, its location read by `parse`.

    Raises InvalidName where no record can hold its arguments.
    """
    check_name(name)
    if action is Action.DELETE:
        return Change(action, name)
    return Change(action, name, parse(location), check_acl(acl))


def holding(record: MailboxRecord | None, location: ServerPartition | None) -> Holding:
    """Return how `record` looks from the server of `location`; a tombstone is nothing, no location is no server."""
    if record is None or record.state is State.DELETED:
        return Holding.ABSENT
    here = location is not None and location.server == record.server
    if record.state is State.RESERVED:
        return Holding.RESERVED_HERE if here else Holding.RESERVED_ELSEWHERE
    return Holding.ACTIVE_HERE if here else Holding.ACTIVE_ELSEWHERE


def _may_take_over(change: Change, held: Holding, record: MailboxRecord | None, policy: Policy) -> bool:
    if change.action is not Action.ACTIVATE:
        return False
    if policy.takeover and held is Holding.ACTIVE_ELSEWHERE:
        return True
    if record is not None and record.seq <= policy.stale_upto:
        return True
    return change.location is not None and change.location.server in policy.claiming


def decide(change: Change, record: MailboxRecord | None, policy: Policy, *, now_us: int, by: str) -> Decision:
    """Decide on `change` where `record` is what there is; `now_us` and `by` go into the record to write.

    A record keeps its HELD flag through every change; MOVING and SUSPECT end with a command that is granted, since its
    sender knows the mailbox' state.
    """
    held = holding(record, change.location)
    ruling = YIELDED if change.yields and held is Holding.RESERVED_ELSEWHERE else policy.table[change.action, held]
    if ruling.effect is Effect.REFUSED and _may_take_over(change, held, record, policy):
        ruling = TAKEOVER
    if ruling.effect is Effect.REFUSED or ruling.effect is Effect.NONE:
        server = record.server if record is not None else ""
        return Decision(ruling.effect is Effect.NONE, ruling.text.format(server=server), None)
    flags = record.flags & Flag.HELD if record is not None else Flag.NONE
    if ruling.effect is Effect.DELETED:
        assert record is not None
        deleted = record._replace(state=State.DELETED, acl=b"", flags=flags, changed_at=now_us, changed_by=by)
        return Decision(True, ruling.text, deleted)
    assert change.location is not None
    active = ruling.effect is Effect.ACTIVE
    written = MailboxRecord(
        change.name,
        State.ACTIVE if active else State.RESERVED,
        change.location.server,
        change.location.partition,
        change.acl if active else b"",
        flags=flags,
        changed_at=now_us,
        changed_by=by,
    )
    return Decision(True, ruling.text, written)
