"""An operator's batch of records: set and delete, in one transaction through the same writer as everything else.

Rule: the owner of an ACTIVE record changes only where the batch says ``force`` (DESIGN rule 4); what a record was is
reported, so that every batch can be undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cyrusext.directory.base import Committed, Transaction
from cyrusext.directory.batch import ABSENT, Applied, Refusal, Wanted
from cyrusext.directory.embedded import server_of
from cyrusext.errors import CyrusExtError, InvalidName
from cyrusext.model import Flag, MailboxRecord, ServerPartition, State, check_acl, check_name, parse_location


class ApplyWork:
    """A batch as one piece of work for the writer; `location` reads a location of the murder's mode."""

    def __init__(
        self,
        wanted: list[Wanted],
        *,
        force: bool,
        dry_run: bool,
        by: str,
        location: Callable[[bytes], ServerPartition] = parse_location,
    ) -> None:
        # In the order of names, so that neighbours are written together; of one name, in the order given.
        self._wanted = sorted(wanted, key=lambda change: change.name)
        self._force, self._dry_run, self._by, self._location = force, dry_run, by, location

    def run(self, transaction: Transaction, changes: list[Committed]) -> Applied | CyrusExtError:
        applied = Applied()
        now_us = time.time_ns() // 1000
        for want in self._wanted:
            try:
                before = transaction.get(check_name(want.name))
                record = self._decide(want, before, applied, now_us)
            except InvalidName as error:
                applied.refused.append(Refusal(want.name, error.public, "", ""))
                continue
            if record is None:
                continue
            if before is None or before.state is State.DELETED:
                applied.before.append(Wanted(want.name, ABSENT))
            else:
                applied.before.append(Wanted(*before[:5]))
            if not self._dry_run:
                changes.append(Committed(transaction.put(record), server_of(before)))
        return applied

    def _decide(
        self, want: Wanted, before: MailboxRecord | None, applied: Applied, now_us: int
    ) -> MailboxRecord | None:
        """Count what `want` means where `before` is what there is; return the record to write."""
        there = before is not None and before.state is not State.DELETED
        if want.state == State.DELETED:
            if before is None or not there:
                applied.absent += 1
                return None
            applied.deleted += 1
            return before._replace(state=State.DELETED, acl=b"", changed_at=now_us, changed_by=self._by)
        if want.state not in (State.RESERVED, State.ACTIVE):
            raise InvalidName(f"{want.state} is no state of a record")
        location = ServerPartition(want.server, want.partition)
        if self._location(str(location).encode("utf-8", "surrogatepass")) != location:
            raise InvalidName("server has a !")
        check_acl(want.acl)
        if before is None or not there:
            applied.created += 1
            flags = Flag.NONE
        elif before[:5] == want and not before.flags & ~Flag.HELD:
            applied.unchanged += 1
            return None
        elif before.state is State.ACTIVE and before.server != want.server and not self._force:
            reason = f"mailbox is active on {before.server}"
            applied.refused.append(Refusal(want.name, reason, before.server, before.partition))
            return None
        else:
            applied.changed += 1
            flags = before.flags & Flag.HELD
        state = State(want.state)
        return MailboxRecord(want.name, state, want.server, want.partition, want.acl, 0, flags, now_us, self._by)

    def failed(self, error: CyrusExtError) -> CyrusExtError:
        return error

    def applied_late(self) -> None:
        """The operator was told that the outcome is unknown; a repetition finds everything unchanged."""
