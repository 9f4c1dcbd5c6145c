"""What a peer provokes is logged a few times and then counted."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest

from cyrusext.runtime import log_limit, logging
from cyrusext.runtime.log_limit import BURST, PeerLog


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    written = io.StringIO()
    logging.setup("info", written)
    yield written
    logging.setup("info")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.log = PeerLog(logging.get(), lambda: self.now)


def count(stream: io.StringIO, event: str) -> int:
    return len(re.findall(rf"event={re.escape(event)} ", stream.getvalue()))


def test_a_flood_is_counted_and_others_are_heard(stream: io.StringIO) -> None:
    clock = Clock()
    for port in range(1000):
        clock.log.info("a.violation", peer=f"10.0.0.1:{port}", reason="x")
    clock.log.info("a.violation", peer="10.0.0.2:5", reason="x")
    clock.log.warning("a.other", peer="10.0.0.1:5")
    clock.log.info("a.violation", peer="[::1]:5")
    assert (count(stream, "a.violation"), count(stream, "a.other")) == (BURST + 2, 1)
    assert "log.suppressed" not in stream.getvalue()
    clock.now += 1
    for _ in range(2):
        clock.log.info("a.violation", peer="10.0.0.1:7")
    assert count(stream, "a.violation") == BURST + 3
    assert (
        f"level=warning event=log.suppressed of=a.violation peer=10.0.0.1 lines={1000 - BURST}\n" in stream.getvalue()
    )


def test_what_was_suppressed_is_told_in_the_end(stream: io.StringIO) -> None:
    clock = Clock()
    for _ in range(BURST + 7):
        clock.log.info("a.violation", peer="unix")
    clock.log.tell()
    clock.log.tell()
    assert stream.getvalue().count("of=a.violation peer=unix lines=7\n") == 1


def test_many_hosts_are_forgotten_in_turn_and_nothing_is_lost(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_limit, "_HOSTS", 3)
    clock = Clock()
    for _ in range(BURST + 1):
        clock.log.info("a.violation", peer="10.0.0.1:1")
    for host in range(2, 9):
        clock.log.info("a.violation", peer=f"10.0.0.{host}:1")
    assert "peer=10.0.0.1 lines=1\n" in stream.getvalue()
    assert len(clock.log._buckets) == 3
