"""The change feed: every commit goes to every subscriber, at once and never waiting for one.

Rule: a subscription holds at most one entry per mailbox (its latest record) and a bounded number of mailboxes and
bytes; one that would hold more is marked as overflowed and gets nothing more, which costs nobody else anything.  Where
there are many subscriptions they are told a few in each turn of the event loop, and what is committed meanwhile goes
with the next round: a round may be of several commits, but nobody hears them in another order.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable

from cyrusext.directory.base import Committed
from cyrusext.model import MailboxRecord

SLICE = 64
"""Subscriptions told in one turn."""


class News:
    """Changes in the order of their commits, encoded once for all who are told of them by the same tag."""

    __slots__ = ("_encoded", "changes")

    def __init__(self, changes: list[Committed]) -> None:
        self.changes = changes
        self._encoded: dict[bytes, bytes] = {}

    def encoded(self, tag: bytes, encode: Callable[[bytes, list[MailboxRecord]], bytes]) -> bytes:
        """Return what `encode` makes of them for `tag`; it is the same for all."""
        lines = self._encoded.get(tag)
        if lines is None:
            lines = self._encoded[tag] = encode(tag, [record for record, _ in self.changes])
        return lines


class Subscription:
    """What one subscriber has still to be told.

    `servers`: only their mailboxes (empty: all); one that moves away from them is told once more.  `wake` is called
    when there is something to take where there was nothing, and when it has overflowed.  News of everything is offered
    to `offer` first where nothing waits, and is not kept where that takes it.
    """

    __slots__ = ("_bytes", "_limit", "_max_bytes", "_offer", "_servers", "_waiting", "_wake", "heard", "overflowed")

    def __init__(
        self,
        servers: frozenset[str],
        limit: int,
        wake: Callable[[], None],
        *,
        offer: Callable[[News], bool] | None = None,
        max_bytes: int = 32 << 20,
    ) -> None:
        self._servers, self._limit, self._wake = servers, limit, wake
        self._offer = None if servers else offer
        self._waiting: dict[bytes, MailboxRecord] = {}
        self._bytes, self._max_bytes = 0, max_bytes
        self.overflowed = False
        self.heard = 0
        """The number of the news that it is told next (ChangeFeed)."""

    def __len__(self) -> int:
        return len(self._waiting)

    def tell(self, news: News) -> None:
        """Take `news`; of a mailbox that still waits, the new record takes the old one's place in the queue."""
        if self.overflowed or (self._offer is not None and not self._waiting and self._offer(news)):
            return
        waiting, servers = self._waiting, self._servers
        idle = not waiting
        for record, was in news.changes:
            if servers and record.server not in servers and was not in servers and record.name not in waiting:
                continue
            self._keep(record)
        if len(waiting) > self._limit or self._bytes > self._max_bytes:
            self.overflowed = True
            waiting.clear()
            self._wake()
        elif idle and waiting:
            self._wake()

    def _keep(self, record: MailboxRecord) -> None:
        old = self._waiting.get(record.name)
        self._bytes += _size(record) - (_size(old) if old is not None else 0)
        self._waiting[record.name] = record

    def repeat(self, records: Iterable[MailboxRecord]) -> None:
        """Take current `records` again, where nothing newer waits."""
        waiting = self._waiting
        idle = not waiting
        for record in records:
            if record.name not in waiting:
                self._keep(record)
        if idle and waiting:
            self._wake()

    def take(self, limit: int) -> list[MailboxRecord]:
        """Remove and return what has waited longest, at most `limit` records."""
        waiting = self._waiting
        if len(waiting) <= limit:
            taken = list(waiting.values())
            waiting.clear()
            self._bytes = 0
            return taken
        names = [name for name, _ in zip(waiting, range(limit), strict=False)]
        taken = [waiting.pop(name) for name in names]
        self._bytes -= sum(map(_size, taken))
        return taken


def _size(record: MailboxRecord) -> int:
    return len(record.name) + len(record.acl)


class ChangeFeed:
    """Hands each commit to all subscriptions; `publish` is called on the event loop, in the order of commits."""

    def __init__(self, *, limit: int = 50_000) -> None:
        self._limit = limit
        self._subscriptions: dict[Subscription, None] = {}
        self._news: deque[News] = deque()
        self._first = 0
        """The number of the first of `_news`: what all have heard is forgotten."""
        self._round: list[Subscription] = []
        """Who is still to be told in this round, the first one last."""
        self._round_ends = 0
        self._going = False
        self._joined_for, self._joined = (0, 0), News([])

    def __len__(self) -> int:
        return len(self._subscriptions)

    @property
    def _next(self) -> int:
        return self._first + len(self._news)

    @property
    def deepest(self) -> int:
        """Records that wait for the subscriber that is furthest behind."""
        return max(map(len, self._subscriptions), default=0)

    def subscribe(
        self,
        wake: Callable[[], None],
        servers: frozenset[str] = frozenset(),
        offer: Callable[[News], bool] | None = None,
    ) -> Subscription:
        """Begin a subscription: it is told of every commit published from now on."""
        subscription = Subscription(servers, self._limit, wake, offer=offer)
        subscription.heard = self._next
        self._subscriptions[subscription] = None
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End it; harmless when ended already."""
        self._subscriptions.pop(subscription, None)

    def publish(self, changes: list[Committed]) -> None:
        """Tell everybody of one commit, now or with the next round."""
        if not changes or not self._subscriptions:
            return
        self._news.append(News(changes))
        if not self._going:
            self._begin_round()

    def catch_up(self, subscription: Subscription) -> None:
        """Tell `subscription` all that was published, whosever turn it is."""
        if subscription.heard < self._next and subscription in self._subscriptions:
            news = self._since(subscription.heard)
            subscription.heard = self._next
            subscription.tell(news)

    def _since(self, number: int) -> News:
        """Return the news from `number` on, as one; nearly always the same for all."""
        if number == self._next - 1:
            return self._news[-1]
        if self._joined_for != (number, self._next):
            told = itertools.islice(self._news, number - self._first, None)
            self._joined_for = number, self._next
            self._joined = News([change for news in told for change in news.changes])
        return self._joined

    def _begin_round(self) -> None:
        self._going = True
        self._round_ends = self._next
        self._round = list(self._subscriptions)[::-1]
        self._go_on()

    def _go_on(self) -> None:
        """Tell the next few; after the last one forget what all have heard."""
        for _ in range(min(SLICE, len(self._round))):
            self.catch_up(self._round.pop())
        if self._round:
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        while self._first < self._round_ends:
            self._news.popleft()
            self._first += 1
        if self._news:
            asyncio.get_running_loop().call_soon(self._begin_round)
        else:
            self._going = False
            self._joined_for, self._joined = (0, 0), News([])
