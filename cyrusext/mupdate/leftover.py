"""Reservations that nobody can account for any more, and the backend that must not hear of them yet.

Rule: no answer of ours makes a backend delete mail (DESIGN rule 4).  ``ctl_mboxlist -m`` removes its mailbox when FIND
names another server, a reservation included.  An XFER that was broken off after the source gave a mailbox up leaves
such a reservation, and the target may have the only copy.  The source's own push settles it either way: it activates
what it still has and deletes what it has not.  So the target waits for that, and is not answered without it
(docs/decisions/leftover-reservations.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cyrusext.model import MailboxRecord, State

LEFTOVER_S = 60.0
"""How long a reservation stands for an operation that is under way."""
WAIT_S = 30.0
"""How long a FIND waits for the push of the server that holds the reservation."""
POLL_S = 0.05


class Leftovers:
    """Tells which reservations are leftovers.

    `find` reads a record; `since_seq` is the sequence with which this node started: it does not know what became of
    reservations up to it.
    """

    def __init__(self, find: Callable[[bytes], MailboxRecord | None], since_seq: int, wait_s: float = WAIT_S) -> None:
        self._find, self._since_seq, self._wait_s = find, since_seq, wait_s

    def keep_from(self, record: MailboxRecord, asking: str) -> bool:
        """Return whether the server `asking` ("" = unknown) must not be told of `record` yet."""
        if record.state is not State.RESERVED or asking in ("", record.server):
            return False
        # Where the wall clock was set back, nobody knows how old the reservation is.
        return record.seq <= self._since_seq or not 0.0 <= time.time() - record.changed_at / 1e6 <= LEFTOVER_S

    async def settled(self, name: bytes, asking: str) -> bool:
        """Wait until `asking` may be told of the mailbox `name`; False when that takes too long."""
        deadline = asyncio.get_running_loop().time() + self._wait_s
        while (record := self._find(name)) is not None and self.keep_from(record, asking):
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True
