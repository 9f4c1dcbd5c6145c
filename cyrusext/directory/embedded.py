"""The embedded directory: this node's own store is the truth.

Rule: a change is decided and written within one transaction of the store, so two changes to one mailbox are decided
one after the other, each on what the one before left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cyrusext.directory.base import Committed, Committer, Outcome, Transaction, Work
from cyrusext.directory.claims import Claims
from cyrusext.directory.ownership import TABLE, Change, Policy, Table, decide
from cyrusext.errors import CyrusExtError, StoreFull
from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.names import without_folder
from cyrusext.runtime import logging

log = logging.get()

OWNERSHIP = "ownership"
"""Code of a refusal by the ownership table."""


class ChangeWork:
    """One change, decided and written."""

    __slots__ = ("_by", "_change", "_policy", "_record", "taken_from")

    def __init__(self, change: Change, policy: Policy, by: str) -> None:
        self._change, self._policy, self._by = change, policy, by
        self._record: MailboxRecord | None = None
        self.taken_from = ""
        """The server that had it ACTIVE, where another one took it over."""

    def run(self, transaction: Transaction, changes: list[Committed]) -> Outcome:
        before = transaction.get(self._change.name)
        decision = decide(self._change, before, self._policy, now_us=time.time_ns() // 1000, by=self._by)
        if decision.record is not None:
            self._record = transaction.put(decision.record)
            changes.append(Committed(self._record, server_of(before)))
            active = before is not None and before.state is State.ACTIVE and self._record.state is State.ACTIVE
            self.taken_from = server_of(before) if active and server_of(before) != self._record.server else ""
        return Outcome(decision.granted, decision.text, "" if decision.granted else OWNERSHIP)

    def failed(self, error: CyrusExtError) -> Outcome:
        if isinstance(error, StoreFull):
            return Outcome(False, "no space left for the change", error.code)
        return Outcome(False, error.public, error.code)

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
        self._claims = Claims(clock)
        self.taken_over = 0
        self._policy = Policy(takeover, table=table)
        self._stale = False

    @property
    def may_answer(self) -> bool:
        return True  # the store is open, and there is no other truth than it

    @property
    def is_fresh(self) -> bool:
        return not self._stale

    def write(self, change: Change, by: str) -> asyncio.Future[Outcome]:
        if self._claims and self._claims.expire():
            self._renew_policy()
        work = ChangeWork(change, self._policy, by)
        future = self._committer.submit(work)
        if self._policy.takeover or self._claims:
            future.add_done_callback(lambda done: self._note(work, change, done.result()))
        return future

    async def catch_up(self) -> bool:
        return True

    def claim(self, server: str, seconds: float) -> None:
        self._claims.set(server, seconds)
        self._renew_policy()
        if seconds:  # its end is logged when it comes, though nobody writes then
            asyncio.get_running_loop().call_later(seconds + 0.1, self._expire_claims)

    def windows(self) -> dict[str, dict[str, float]]:
        self._expire_claims()
        return self._claims.status()

    def set_takeover(self, takeover: bool) -> None:
        """Let every server take over from now on, or none."""
        self._policy = self._policy._replace(takeover=takeover)

    def set_stale(self, upto: int | None) -> None:
        """Records up to the sequence `upto` may be out of date from now on; None: none is."""
        self._stale = upto is not None
        self._policy = self._policy._replace(stale_upto=-1 if upto is None else upto)

    def _expire_claims(self) -> None:
        if self._claims.expire():
            self._renew_policy()

    def _renew_policy(self) -> None:
        self._policy = self._policy._replace(claiming=self._claims.servers)

    def _note(self, work: ChangeWork, change: Change, outcome: Outcome) -> None:
        if outcome.granted and work.taken_from and change.location is not None:
            self.taken_over += 1
            self._claims.count(change.location.server)
            log.info(
                "record.taken_over",
                mailbox=without_folder(change.name),
                server=change.location.server,
                was=work.taken_from,
            )
