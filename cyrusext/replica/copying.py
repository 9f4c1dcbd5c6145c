"""Records that another node decided on, and what this node's store says of itself: leader or copy of one.

Rule: records and the cookie that says how far the copy goes are committed in one transaction; what the leader no longer
has is deleted only after a full copy has come to its end, and not at all when it is suspiciously much.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

from cyrusext.directory.base import Committed, Transaction
from cyrusext.directory.embedded import server_of
from cyrusext.errors import CyrusExtError, StoreError
from cyrusext.model import MailboxRecord, State
from cyrusext.store import Store

STORE_ID = "store_id"
"""Key of the store's own name, which it has as long as it is nobody's copy."""
FOLLOWED = "followed"
"""Key of the cookie; what once was a copy keeps the key (its change log may have gaps)."""
FILLING = "filling"
"""The cookie of a copy that was never complete."""

MAY_MISS = 1000
MAY_MISS_SHARE = 10
"""A full copy of the same store may lack this many of our records, or one in so many, before an operator is asked."""
MISSING_KEPT = 200_000
"""Names of missing records that are remembered; if there are more, another full copy finds the rest."""
GONE_BATCH = 2000
"""Deletions in one transaction."""


class Cookie(NamedTuple):
    """How far a copy goes: up to the change `seq`, which `mark` tells from others, of the store `store_id`."""

    store_id: str
    seq: int
    mark: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        parts = text.split(" ")
        return cls(parts[0], int(parts[1]), parts[2]) if len(parts) == 3 and parts[1].isdigit() else None

    def text(self) -> str:
        return f"{self.store_id} {self.seq} {self.mark}"


def begin_to_lead(store: Store) -> str:
    """Return the id of `store`, which decides for itself from now on; to be called before its writer starts.

    Raises StoreError for a copy that never was complete.
    """
    followed = store.text(FOLLOWED)
    if followed == FILLING:
        raise StoreError(
            "this store is the beginning of a copy that was never completed: follow the other node again until it is, "
            "or remove the store"
        )
    store_id = store.text(STORE_ID)
    if not store_id:
        store_id = secrets.token_hex(8)
        with store.begin() as transaction:
            transaction.set_text(STORE_ID, store_id)
            if followed:
                transaction.set_text(FOLLOWED, "no more")
    return store_id


def is_complete(store: Store) -> bool:
    """Say whether `store` may be served: it is a complete copy, or was a leader's and is not empty."""
    if Cookie.parse(store.text(FOLLOWED)) is not None:
        return True
    return bool(store.text(STORE_ID)) and bool(store.chunk(limit=1))


class CopyWork:
    """Records as they came; their deletion where they are `gone`; and how far the copy goes now (None: unchanged)."""

    def __init__(
        self,
        records: Sequence[MailboxRecord],
        *,
        cookie: Cookie | None,
        gone: Sequence[bytes] = (),
        filling: bool,
        by: str,
    ) -> None:
        self._records, self._cookie, self._gone, self._filling, self._by = records, cookie, gone, filling, by

    def run(self, transaction: Transaction, changes: list[Committed]) -> CyrusExtError | None:
        for record in self._records:
            before = transaction.get(record.name)
            if before == record:
                continue
            transaction.put_copied(record)
            if before is not None or record.state is not State.DELETED:
                changes.append(Committed(record, server_of(before)))
        for name in self._gone:
            self._delete(name, transaction, changes)
        if self._cookie is not None:
            transaction.set_text(FOLLOWED, self._cookie.text())
            transaction.set_text(STORE_ID, "")
        elif self._filling:
            transaction.set_text(FOLLOWED, FILLING)
            transaction.set_text(STORE_ID, "")
        return None

    def _delete(self, name: bytes, transaction: Transaction, changes: list[Committed]) -> None:
        before = transaction.get(name)
        if before is None or before.state is State.DELETED:
            return
        seq = max(1, self._cookie.seq if self._cookie is not None else before.seq)
        now_us = time.time_ns() // 1000
        gone = before._replace(state=State.DELETED, acl=b"", seq=seq, changed_at=now_us, changed_by=self._by)
        changes.append(Committed(transaction.put_copied(gone), before.server))

    def failed(self, error: CyrusExtError) -> CyrusExtError:
        return error

    def applied_late(self) -> None:
        """Nobody was told anything: the records come again."""


class Names(Protocol):
    """What `Missing` needs of the store."""

    def chunk(self, *, after: bytes = b"", limit: int = 1000) -> list[MailboxRecord]: ...


class Missing:
    """Finds the live records of `store` that a full copy, which comes in Cyrus' order, does not have."""

    def __init__(self, store: Names) -> None:
        self._store = store
        self._ahead: deque[bytes] = deque()
        self._after = b""
        self._at_end = False
        self.names: list[bytes] = []
        """The missing ones, as far as they are remembered."""
        self.count = 0
        self.present = 0
        """Live records here that were looked at."""

    def pass_over(self, records: Sequence[MailboxRecord]) -> None:
        """Take the next piece of the copy."""
        there = {record.name for record in records}
        last = order_key(records[-1].name)
        while (name := self._next()) is not None and order_key(name) <= last:
            self._passed(name, name in there)

    def finish(self) -> None:
        """The copy is at its end."""
        while (name := self._next()) is not None:
            self._passed(name, False)

    @property
    def is_suspicious(self) -> bool:
        """More is missing than deletions while this node was away account for."""
        return self.count > max(MAY_MISS, self.present // MAY_MISS_SHARE)

    def _next(self) -> bytes | None:
        if not self._ahead and not self._at_end:
            records = self._store.chunk(after=self._after)
            self._ahead.extend(record.name for record in records)
            if records:
                self._after = records[-1].name
            self._at_end = not records
        return self._ahead[0] if self._ahead else None

    def _passed(self, name: bytes, is_there: bool) -> None:
        self._ahead.popleft()
        self.present += 1
        if not is_there:
            self.count += 1
            if len(self.names) < MISSING_KEPT:
                self.names.append(name)


_KEY_BYTES = bytes.maketrans(b".^", b"\x1f.")


def order_key(name: bytes) -> bytes:
    """Return what puts names into the order of Cyrus' own database when compared as plain bytes (csrc key.c)."""
    domain, mark, local = name.partition(b"!")
    if not mark:
        return name.translate(_KEY_BYTES)
    return domain + b"\x1d" + local.translate(_KEY_BYTES)
