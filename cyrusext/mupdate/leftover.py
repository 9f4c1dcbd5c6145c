"""Reservations of one server that another server's ``ctl_mboxlist -m`` must not hear of.

Rule: no answer of ours makes a backend delete mail (DESIGN rule 4).  ``ctl_mboxlist -m`` removes its mailbox when FIND
names another server, a reservation included, and an XFER that was broken off after the source gave a mailbox up leaves
such a reservation while the target may have the only copy.  The source's own push settles it either way: it activates
what it still has and deletes what it has not.  So the target waits for that; without it, it is told of nothing, its
ACTIVATE is refused and remembered, and when the source disclaims the mailbox the target gets it
(docs/decisions/leftover-reservations.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from cyrusext.directory.ownership import Action, Change
from cyrusext.model import MailboxRecord, State

WAIT_S = 5.0
"""How long a push waits for the push of the server that holds a reservation; after a black start both are under way."""
POLL_S = 0.05
HEIRS = 10_000
"""Mailboxes whose next owner is remembered; beyond that the oldest is forgotten, and its server has to push again."""


class _Heir(NamedTuple):
    """What was refused, and when the reservation was made that was in its way."""

    reserved_at: int
    change: Change


class Leftovers:
    """What all pushes share.  `find` reads a record."""

    def __init__(self, find: Callable[[bytes], MailboxRecord | None], wait_s: float = WAIT_S) -> None:
        self.find, self.wait_s = find, wait_s
        self._heirs: dict[bytes, _Heir] = {}

    def push(self, server: str) -> Push:
        """Begin the push of `server`."""
        return Push(self, server)

    def remember(self, record: MailboxRecord, change: Change) -> None:
        """`change` was in vain while `record` is reserved."""
        self._heirs.pop(record.name, None)
        self._heirs[record.name] = _Heir(record.changed_at, change)
        if len(self._heirs) > HEIRS:
            del self._heirs[next(iter(self._heirs))]

    def take_heir(self, record: MailboxRecord) -> Change | None:
        """Return, once, the change that waits for exactly this reservation to end."""
        heir = self._heirs.pop(record.name, None)
        return heir.change if heir is not None and heir.reserved_at == record.changed_at else None


class Push:
    """One connection that has asked for the list of `server`: what it may hear, and what its changes mean."""

    def __init__(self, leftovers: Leftovers, server: str) -> None:
        self._leftovers, self._server = leftovers, server
        self._withheld: dict[bytes, MailboxRecord] = {}
        self._silent: set[str] = set()
        """Servers that were waited for in vain: once is enough."""

    def keeps(self, record: MailboxRecord) -> bool:
        """Return whether this push must not be told of `record` while that is so."""
        return record.state is State.RESERVED and record.server != self._server

    async def settled(self, name: bytes) -> bool:
        """Wait until the push may be told of the mailbox `name`; False when that takes too long: it is withheld."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._leftovers.wait_s
        while (record := self._leftovers.find(name)) is not None and self.keeps(record):
            if record.server in self._silent or loop.time() >= deadline:
                self.withhold(record)
                return False
            await asyncio.sleep(POLL_S)
        return True

    def withhold(self, record: MailboxRecord) -> None:
        """Note that the push is told that there is no such mailbox."""
        self._silent.add(record.server)
        self._withheld[record.name] = record

    def meant(self, change: Change) -> Change:
        """Return what the push's `change` comes to.

        An ACTIVATE of what was withheld yields to the reservation; a DELETE of its own reservation leaves the mailbox
        to the server that has claimed it meanwhile.
        """
        if change.action is Action.ACTIVATE and (withheld := self._withheld.get(change.name)) is not None:
            self._leftovers.remember(withheld, change)
            return change._replace(yields=True)
        if change.action is Action.DELETE:
            record = self._leftovers.find(change.name)
            if record is not None and record.state is State.RESERVED and record.server == self._server:
                return self._leftovers.take_heir(record) or change
        return change
