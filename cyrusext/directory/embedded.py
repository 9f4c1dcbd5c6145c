"""The embedded directory: this node's own store is the truth.

Rule: a change is decided and written within one transaction of the store, so two changes to one mailbox are decided
one after the other, each on what the one before left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cyrusext.directory.base import Committed, Committer, Outcome, Transaction, Work
from cyrusext.directory.ownership import TABLE, Change, Policy, Table, decide
from cyrusext.errors import CyrusExtError, StoreFull
from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.runtime import logging

log = logging.get()


class ChangeWork:
    """One change, decided and written."""

    __slots__ = ("_by", "_change", "_policy", "_record")

    def __init__(self, change: Change, policy: Policy, by: str) -> None:
        self._change, self._policy, self._by = change, policy, by
        self._record: MailboxRecord | None = None

    def run(self, transaction: Transaction, changes: list[Committed]) -> Outcome:
        before = transaction.get(self._change.name)
        decision = decide(self._change, before, self._policy, now_us=time.time_ns() // 1000, by=self._by)
        if decision.record is not None:
            self._record = transaction.put(decision.record)
            changes.append(Committed(self._record, server_of(before)))
        return Outcome(decision.granted, decision.text)

    def failed(self, error: CyrusExtError) -> Outcome:
        if isinstance(error, StoreFull):
            return Outcome(False, "no space left for the change")
        return Outcome(False, error.public)

    def applied_late(self) -> Work[None] | None:
        """The sender was told NO: nobody may rely on the record before somebody has asked the backend."""
        return None if self._record is None else SuspectWork(self._record)


class SuspectWork:
    """Marks a record suspect, unless it has been written again since."""

    __slots__ = ("_record",)

    def __init__(self, record: MailboxRecord) -> None:
        self._record = record

    def run(self, transaction: Transaction, changes: list[Committed]) -> None:
        now = transaction.get(self._record.name)
        if now is None or now.seq != self._record.seq or now.state is State.DELETED:
            return
        suspect = transaction.put(now._replace(flags=now.flags | Flag.SUSPECT))
        changes.append(Committed(suspect, now.server))

    def failed(self, error: CyrusExtError) -> None:
        log.error("record.not_marked_suspect", name=self._record.name, error=error)

    def applied_late(self) -> None:
        return None


def server_of(record: MailboxRecord | None) -> str:
    """Return who holds the mailbox, "" for nobody."""
    return "" if record is None or record.state is State.DELETED else record.server


class EmbeddedDirectory:
    """The contract of directory.base.Directory on the embedded store."""

    def __init__(
        self,
        committer: Committer,
        *,
        takeover: bool = False,
        table: Table = TABLE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._committer = committer
        self._clock = clock
        self._claims: dict[str, float] = {}
        self._policy = Policy(takeover, table=table)

    @property
    def may_answer(self) -> bool:
        return True  # the store is open, and there is no other truth than it

    @property
    def is_fresh(self) -> bool:
        return True

    def write(self, change: Change, by: str) -> asyncio.Future[Outcome]:
        if self._claims:
            self._expire_claims()
        return self._committer.submit(ChangeWork(change, self._policy, by))

    def claim(self, server: str, seconds: float) -> None:
        self._claims[server] = self._clock() + seconds
        self._expire_claims()

    def set_takeover(self, takeover: bool) -> None:
        """Let every server take over from now on, or none."""
        self._policy = self._policy._replace(takeover=takeover)

    def _expire_claims(self) -> None:
        now = self._clock()
        self._claims = {server: until for server, until in self._claims.items() if until > now}
        self._policy = self._policy._replace(claiming=frozenset(self._claims))
