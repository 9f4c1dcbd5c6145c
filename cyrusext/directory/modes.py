"""The three kinds of murder, as Cyrus' ``mupdate_config`` names them, and what differs between them, as data.

Rule: pure.  All that a mode decides is a field of its `ModeRules`; nothing else asks which mode it is.  Why the rules
are these, and what Cyrus 3.6 and 3.10 do under others: docs/decisions/modes.md.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cyrusext.directory.ownership import TABLE, Action, Effect, Holding, Ruling, Table
from cyrusext.model import MailboxRecord, ServerPartition, State, parse_location, parse_partition


class Mode(enum.Enum):
    """What the servers of a murder are to each other."""

    STANDARD = "standard"
    """Frontends and backends are different servers."""
    UNIFIED = "unified"
    """Every server holds mailboxes and is a frontend for those of the others."""
    REPLICATED = "replicated"
    """All servers share one spool: a location is a partition, without a server."""


UNIFIED_TABLE: Table = {
    **TABLE,
    # quirk UNIFIED_PUSH: ctl_mboxlist -m of a unified server also pushes, as its own, what it remembers of others
    (Action.ACTIVATE, Holding.ABSENT): Ruling(
        Effect.REFUSED, "mailbox is not known here; RESERVE it first, or let an operator claim it"
    ),
}
"""TABLE, but that a mailbox begins with RESERVE."""


class ModeRules(NamedTuple):
    """What a mode decides.

    ``location`` reads the argument of RESERVE, ACTIVATE and DEACTIVATE, ``table`` rules on them.  ``echo``: a stream
    tells a subscriber also of its own mailboxes; ``tells_reserved``: a stream tells of reservations; ``push_finds``:
    FIND answers a client that has asked for the list of one server, which is what ``ctl_mboxlist -m`` does first;
    ``push_removes``: that program removes its mailbox when FIND says that it is elsewhere; ``streams_to_servers``:
    UPDATE is for the servers that hold mailboxes, too.
    """

    location: Callable[[bytes], ServerPartition]
    table: Table
    echo: bool
    tells_reserved: bool
    push_finds: bool
    push_removes: bool
    streams_to_servers: bool


RULES: Mapping[Mode, ModeRules] = {
    Mode.STANDARD: ModeRules(
        parse_location,
        TABLE,
        echo=True,
        tells_reserved=True,
        push_finds=True,
        push_removes=True,
        streams_to_servers=True,
    ),
    Mode.UNIFIED: ModeRules(
        parse_location,
        UNIFIED_TABLE,
        echo=False,
        tells_reserved=False,
        push_finds=True,
        push_removes=False,
        streams_to_servers=True,
    ),
    Mode.REPLICATED: ModeRules(
        parse_partition,
        TABLE,
        echo=True,
        tells_reserved=True,
        push_finds=False,
        push_removes=True,
        streams_to_servers=False,
    ),
}


class Audience(NamedTuple):
    """A subscriber, as far as it can be told from its address: the servers of the configuration that are there."""

    host: str = ""
    servers: frozenset[str] = frozenset()

    def hears(self, record: MailboxRecord, rules: ModeRules) -> bool:
        """Say whether this subscriber's stream tells of `record`."""
        if not rules.tells_reserved and record.state is State.RESERVED:
            return False
        return rules.echo or not self._is_its_own(record)

    def _is_its_own(self, record: MailboxRecord) -> bool:
        """By the record's server where the configuration knows this subscriber, else by where the change came from."""
        if self.servers:
            return record.server in self.servers
        return bool(self.host) and record.changed_by.rpartition("@")[2] == self.host


def compatible(before: Mode, after: Mode) -> bool:
    """Say whether records that were written under the mode `before` can be served under `after`."""
    return (before is Mode.REPLICATED) == (after is Mode.REPLICATED)
