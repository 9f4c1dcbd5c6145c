"""The change feed: every commit goes to every subscriber, at once and never waiting for one.

Rule: a subscription holds at most one entry per mailbox (its latest record) and a bounded number of mailboxes; one that
would hold more is marked as overflowed and gets nothing more, which costs nobody else anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cyrusext.directory.base import Committed
from cyrusext.model import MailboxRecord


class Subscription:
    """What one subscriber has still to be told.

    `servers`: only their mailboxes (empty: all); one that moves away from them is told once more.  `wake` is called
    when there is something to take where there was nothing, and when it has overflowed.
    """

    __slots__ = ("_limit", "_servers", "_waiting", "_wake", "overflowed")

    def __init__(self, servers: frozenset[str], limit: int, wake: Callable[[], None]) -> None:
        self._servers, self._limit, self._wake = servers, limit, wake
        self._waiting: dict[bytes, MailboxRecord] = {}
        self.overflowed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def tell(self, changes: Iterable[Committed]) -> None:
        """Take `changes`; of a mailbox that still waits, the new record takes the old one's place in the queue."""
        if self.overflowed:
            return
        waiting, servers = self._waiting, self._servers
        idle = not waiting
        for record, was in changes:
            name = record.name
            if servers and record.server not in servers and was not in servers and name not in waiting:
                continue
            waiting[name] = record
        if len(waiting) > self._limit:
            self.overflowed = True
            waiting.clear()
            self._wake()
        elif idle and waiting:
            self._wake()

    def repeat(self, records: Iterable[MailboxRecord]) -> None:
        """Take current `records` again, where nothing newer waits."""
        waiting = self._waiting
        idle = not waiting
        for record in records:
            waiting.setdefault(record.name, record)
        if idle and waiting:
            self._wake()

    def take(self, limit: int) -> list[MailboxRecord]:
        """Remove and return what has waited longest, at most `limit` records."""
        waiting = self._waiting
        if len(waiting) <= limit:
            taken = list(waiting.values())
            waiting.clear()
            return taken
        names = [name for name, _ in zip(waiting, range(limit), strict=False)]
        return [waiting.pop(name) for name in names]


class ChangeFeed:
    """Hands each commit to all subscriptions; `publish` is called on the event loop, in the order of commits."""

    def __init__(self, *, limit: int = 50_000) -> None:
        self._limit = limit
        self._subscriptions: set[Subscription] = set()

    def __len__(self) -> int:
        return len(self._subscriptions)

    def subscribe(self, wake: Callable[[], None], servers: frozenset[str] = frozenset()) -> Subscription:
        """Begin a subscription: it is told of every commit published from now on."""
        subscription = Subscription(servers, self._limit, wake)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End it; harmless when ended already."""
        self._subscriptions.discard(subscription)

    def publish(self, changes: list[Committed]) -> None:
        """Tell everybody of one commit."""
        if changes:
            for subscription in tuple(self._subscriptions):
                subscription.tell(changes)
