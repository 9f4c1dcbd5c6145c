"""What the journal writes and counts of a transaction, and how the figures of several workers become one."""

from __future__ import annotations

import io

import msgspec
import pytest

from cyrusext.runtime import logging
from lmtp_router.journal import Done, Journal, reason_of
from lmtp_router.privacy import Disclosure
from lmtp_router.protocol.types import Rcpt, Reply
from lmtp_router.recipient import Recipient, Times
from lmtp_router.results import Slot
from lmtp_router.tally import MAX_REASONS, OTHER, PHASE_BOUNDS_S, Counts, PoolState, Snapshot, Tally, pools_of, total_of

OK = Reply(250, b"250 2.1.5 delivered\r\n")
FULL = Reply(452, b"452-4.2.2 Over quota for u2@example.org\r\n452 4.2.2 try later\r\n")
UNKNOWN = Reply(550, b"550 5.1.1 User unknown\r\n")


def recipient(name: bytes, server: str, times: Times | None) -> Recipient:
    one = Recipient(Rcpt(b"<%b@example.org>" % name), Slot(), 100.0)
    one.server, one.times = server, times
    return one


def times() -> Times:
    stamps = Times()
    stamps.asked, stamps.linked, stamps.opened, stamps.ended = 100.0, 100.002, 100.012, 100.112
    return stamps


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def transaction() -> list[Done]:
    shared = times()
    return [
        Done(recipient(b"u1", "be1", shared), OK, 5000, 100.5),
        Done(recipient(b"u2", "be1", shared), FULL, 5000, 100.6),
        Done(recipient(b"u3", "be2", times()), OK, 5000, 100.2),
        Done(recipient(b"u4", "", None), UNKNOWN, 0, 100.0),
    ]


def test_each_recipient_has_its_line_with_who_where_and_when(stream: io.StringIO) -> None:
    logging.setup("info", stream)
    try:
        Journal(Disclosure.FULL).note("s-1", b"<from@example.org>", transaction())
    finally:
        logging.setup()
    lines = stream.getvalue().splitlines()
    assert [line.partition(" to=")[2].partition(" ")[0] for line in lines] == [
        f"<u{n}@example.org>" for n in (1, 2, 3, 4)
    ]
    assert lines[0].endswith(
        'session=s-1 from=<from@example.org> to=<u1@example.org> backend=be1 size=5000 reply="250 2.1.5 delivered"'
        " took_ms=500 connect_ms=2 envelope_ms=10 data_ms=100 final_ms=388"
    )
    assert lines[3].endswith('backend="" size=0 reply="550 5.1.1 User unknown" took_ms=0')


@pytest.mark.parametrize("disclosure", [Disclosure.HASHED, Disclosure.OFF])
def test_no_line_and_no_count_has_an_address(stream: io.StringIO, disclosure: Disclosure) -> None:
    journal = Journal(disclosure)
    logging.setup("info", stream)
    try:
        journal.note("s-1", b"<from@example.org>", transaction())
    finally:
        logging.setup()
    assert stream.getvalue().count("event=lmtp.recipient ") == 4
    assert "example.org" not in stream.getvalue()
    assert b"example.org" not in msgspec.msgpack.encode(journal.tally)


def test_what_is_counted(stream: io.StringIO) -> None:
    journal = Journal(Disclosure.OFF)
    logging.setup("error", stream)
    try:
        journal.note("s-1", b"<>", transaction())
    finally:
        logging.setup()
    tally = journal.tally
    assert stream.getvalue() == ""
    assert tally.transactions == 1
    assert tally.recipients == {"be1": {"delivered": 1, "deferred": 1}, "be2": {"delivered": 1}, "": {"rejected": 1}}
    assert tally.rejects == {"452 4.2.2": 1, "550 5.1.1": 1}
    assert (tally.received_bytes, tally.delivered_bytes) == (5000, {"be1": 5000, "be2": 5000})
    assert {phase: sum(counts.counts) for phase, counts in tally.phases.items()} == dict.fromkeys(
        ("connect", "envelope", "data", "final"), 2
    ), "one for each delivery, not for each recipient"


def test_reasons_are_bounded() -> None:
    tally = Tally()
    for number in range(MAX_REASONS + 50):
        tally.count_reject(f"550 5.1.{number}")
    assert len(tally.rejects) == MAX_REASONS + 1
    assert tally.rejects[OTHER] == 50
    assert reason_of(Reply(500, b"500 what\r\n")) == "500"
    assert reason_of(Reply(550, b"550 5.7.1\r\n")) == "550 5.7.1"


def test_sums_leave_the_parts_as_they_are() -> None:
    first, second = Journal(Disclosure.OFF), Journal(Disclosure.OFF)
    for journal in (first, second, second):
        journal._count(transaction())
    told = [msgspec.msgpack.decode(msgspec.msgpack.encode(one.tally), type=Tally) for one in (first, second)]
    assert total_of(told).transactions == 3
    whole = total_of(told)
    assert whole.recipients["be1"] == {"delivered": 3, "deferred": 3}
    assert sum(whole.phases["final"].counts) == 6
    assert told[0] == first.tally


def test_quantiles_come_from_the_ranges() -> None:
    counts = Counts()
    assert counts.quantile_s(0.5) is None
    counts.counts[1] = 98
    counts.counts[-1] = 2
    median = counts.quantile_s(0.5)
    assert median is not None and PHASE_BOUNDS_S[0] < median < PHASE_BOUNDS_S[1]
    assert counts.quantile_s(0.99) == PHASE_BOUNDS_S[-1]


def test_the_worst_breaker_of_all_workers_counts() -> None:
    pools = pools_of(
        Snapshot(Tally(), pools={"a:24": PoolState(3, 1, 0, 2, breaker)}) for breaker in ("closed", "open", "half-open")
    )
    assert pools == {"a:24": PoolState(9, 3, 0, 6, "open")}
