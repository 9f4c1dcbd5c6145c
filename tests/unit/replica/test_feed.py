"""The change feed: everybody hears everything, nobody is waited for."""

from __future__ import annotations

import asyncio

from cyrusext.directory.base import Committed
from cyrusext.model import MailboxRecord, State
from cyrusext.replica.feed import SLICE, ChangeFeed, News, Subscription


def record(name: bytes, server: str = "be1", seq: int = 0, state: State = State.ACTIVE) -> MailboxRecord:
    return MailboxRecord(name, state, server, "default", b"a\tl\t", seq)


class Ear:
    """A subscriber that counts its wake-ups."""

    def __init__(self, feed: ChangeFeed, *servers: str) -> None:
        self.woken = 0
        self.subscription = feed.subscribe(self._wake, frozenset(servers))

    def _wake(self) -> None:
        self.woken += 1

    def taken(self, limit: int = 1000) -> list[tuple[bytes, int]]:
        return [(taken.name, taken.seq) for taken in self.subscription.take(limit)]


def test_every_subscriber_hears_every_change_in_order() -> None:
    feed = ChangeFeed()
    ears = [Ear(feed), Ear(feed)]
    feed.publish([Committed(record(b"b", seq=1), ""), Committed(record(b"a", seq=2), "")])
    for ear in ears:
        assert ear.taken() == [(b"b", 1), (b"a", 2)]


def test_a_mailbox_that_waits_is_told_once_with_its_latest_record() -> None:
    feed = ChangeFeed()
    ear = Ear(feed)
    for seq in range(1, 4):
        feed.publish([Committed(record(b"x", seq=seq), ""), Committed(record(b"y%d" % seq, seq=seq), "")])
    assert ear.taken() == [(b"x", 3), (b"y1", 1), (b"y2", 2), (b"y3", 3)]


def test_it_wakes_only_when_there_was_nothing() -> None:
    feed = ChangeFeed()
    ear = Ear(feed)
    feed.publish([Committed(record(b"x"), "")])
    feed.publish([Committed(record(b"y"), "")])
    assert ear.woken == 1
    ear.taken()
    feed.publish([])
    assert ear.woken == 1
    feed.publish([Committed(record(b"z"), "")])
    assert ear.woken == 2


def test_one_that_is_too_slow_is_marked_and_costs_the_others_nothing() -> None:
    feed = ChangeFeed(limit=3)
    slow, quick = Ear(feed), Ear(feed)
    for number in range(5):
        feed.publish([Committed(record(b"%d" % number, seq=number), "")])
        assert quick.taken() == [(b"%d" % number, number)]
    assert slow.subscription.overflowed
    assert slow.woken == 2  # the first change, the overflow
    assert slow.taken() == []
    assert not quick.subscription.overflowed


def test_of_some_servers_only_with_what_moves_away_told_once_more() -> None:
    feed = ChangeFeed()
    ear = Ear(feed, "be1", "be2")
    feed.publish([Committed(record(b"elsewhere", "be3"), "")])
    assert (ear.taken(), ear.woken) == ([], 0)
    feed.publish([Committed(record(b"here", "be2", 1), "")])
    feed.publish([Committed(record(b"moves", "be3", 2), "be1")])
    assert ear.taken() == [(b"here", 1), (b"moves", 2)]
    feed.publish([Committed(record(b"moves", "be3", 3), "be3")])
    assert ear.taken() == []


def test_what_moves_away_twice_before_it_is_told_has_its_last_place() -> None:
    feed = ChangeFeed()
    ear = Ear(feed, "be1")
    feed.publish([Committed(record(b"moves", "be3", 1), "be1")])
    feed.publish([Committed(record(b"moves", "be4", 2), "be3")])
    assert ear.taken() == [(b"moves", 2)]


def test_a_repetition_is_never_older_than_what_waits() -> None:
    feed = ChangeFeed()
    ear = Ear(feed)
    feed.publish([Committed(record(b"x", seq=5), "")])
    ear.subscription.repeat([record(b"x", seq=4), record(b"y", seq=1)])
    assert ear.taken() == [(b"x", 5), (b"y", 1)]


def test_taking_little_by_little_keeps_the_order() -> None:
    feed = ChangeFeed()
    ear = Ear(feed)
    feed.publish([Committed(record(b"%d" % number, seq=number), "") for number in range(5)])
    assert [ear.taken(2), ear.taken(2), ear.taken(2)] == [
        [(b"0", 0), (b"1", 1)],
        [(b"2", 2), (b"3", 3)],
        [(b"4", 4)],
    ]


def test_who_has_left_hears_nothing() -> None:
    feed = ChangeFeed()
    ear = Ear(feed)
    feed.unsubscribe(ear.subscription)
    feed.unsubscribe(ear.subscription)
    feed.publish([Committed(record(b"x"), "")])
    assert (ear.taken(), len(feed)) == ([], 0)


def test_many_are_told_in_turns_and_in_the_order_of_commits() -> None:
    async def run() -> None:
        feed = ChangeFeed()
        ears = [Ear(feed) for _ in range(3 * SLICE)]
        for seq in range(1, 4):
            feed.publish([Committed(record(b"%d" % seq, seq=seq), "")])
        first, last = ears[0], ears[-1]
        assert (len(first.subscription), len(last.subscription)) == (1, 0)
        late = Ear(feed)
        feed.catch_up(last.subscription)
        told = last.taken()
        assert [seq for _, seq in told] == [1, 2, 3]
        feed.unsubscribe(ears[-2].subscription)
        feed.publish([Committed(record(b"x", seq=4), "")])
        for _ in range(20):
            await asyncio.sleep(0)
        assert last.taken() == late.taken() == [(b"x", 4)]
        assert ears[-2].taken() == []
        for ear in ears[:-2]:
            assert [seq for _, seq in ear.taken()] == [1, 2, 3, 4]
        feed.publish([Committed(record(b"y", seq=5), "")])
        assert first.taken() == [(b"y", 5)]  # at once again

    asyncio.run(run())


def test_news_are_offered_first_and_encoded_once() -> None:
    feed = ChangeFeed()
    heard: list[bytes] = []
    calls: list[bytes] = []
    willing = True

    def encode(tag: bytes, records: list[MailboxRecord]) -> bytes:
        calls.append(tag)
        return tag + b"".join(known.name for known in records)

    def offer(news: News) -> bool:
        if willing:
            heard.append(news.encoded(b"U", encode))
        return willing

    subscriptions = [feed.subscribe(lambda: None, offer=offer) for _ in range(3)]
    feed.publish([Committed(record(b"a"), ""), Committed(record(b"b"), "")])
    assert (heard, calls) == ([b"Uab"] * 3, [b"U"])
    willing = False
    feed.publish([Committed(record(b"c"), "")])
    willing = True
    feed.publish([Committed(record(b"d"), "")])  # not before what waits
    for subscription in subscriptions:
        assert [known.name for known in subscription.take(9)] == [b"c", b"d"]
    assert len(heard) == 3


def test_the_queue_is_bounded_in_bytes() -> None:
    woken: list[int] = []
    subscription = Subscription(frozenset(), 1000, lambda: woken.append(1), max_bytes=1000)

    def tell(name: bytes, size: int) -> None:
        subscription.tell(News([Committed(record(name)._replace(acl=b"x" * size), "")]))

    for _ in range(5):
        tell(b"a", 900)  # in the place of the one before
    subscription.take(1)
    tell(b"b", 900)
    assert not subscription.overflowed
    tell(b"c", 900)
    assert subscription.overflowed
    assert (len(subscription), len(woken)) == (0, 3)
