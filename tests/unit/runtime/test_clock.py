"""Stamps of a wall clock that is set forward and back: nothing seems older than it is."""

from __future__ import annotations

import pytest

from cyrusext.runtime.clock import StampClock

DAY = 86_400.0


class Clocks:
    """A machine whose wall clock somebody sets."""

    def __init__(self) -> None:
        self.steady, self.offset = 1000.0, 1.7e9
        self.clock = StampClock(self.wall, lambda: self.steady)

    def wall(self) -> float:
        return self.steady + self.offset

    def is_old(self, stamp: float, seconds: float = 60.0) -> bool:
        return stamp < self.clock.older_than(seconds)

    def pass_time(self, seconds: float) -> None:
        self.steady += seconds
        self.clock.jumped()


def test_a_clock_that_runs_is_a_clock() -> None:
    clocks = Clocks()
    stamp = clocks.wall()
    for _ in range(12):
        assert not clocks.is_old(stamp)
        clocks.offset += 0.5  # corrected in small steps
        clocks.pass_time(4.9)
    assert clocks.is_old(stamp)


@pytest.mark.parametrize("jump", [DAY, 300.0])
def test_set_forward_nothing_is_older_than_it_is(jump: float) -> None:
    clocks = Clocks()
    long_ago = clocks.wall()
    clocks.pass_time(100)
    stamp = clocks.wall()
    clocks.pass_time(1)
    clocks.offset += jump
    assert clocks.is_old(long_ago) and not clocks.is_old(stamp)
    later = clocks.wall()
    clocks.pass_time(58)
    assert not clocks.is_old(stamp) and not clocks.is_old(later)
    clocks.pass_time(3)
    assert clocks.is_old(stamp) and clocks.is_old(later)


def test_set_back_nothing_is_older_than_it_is() -> None:
    clocks = Clocks()
    stamp = clocks.wall()
    clocks.offset -= DAY
    later = clocks.wall()
    clocks.pass_time(59)
    assert not clocks.is_old(stamp) and not clocks.is_old(later)
    clocks.pass_time(2)
    assert clocks.is_old(later)
    assert not clocks.is_old(stamp)  # of the future: nobody can tell, and "not now" harms nobody


@pytest.mark.parametrize("jumps", [[DAY, -DAY], [-DAY, DAY], [10.0] * 40, [DAY, DAY, -3 * DAY]])
def test_set_again_and_again(jumps: list[float]) -> None:
    clocks = Clocks()
    stamp = clocks.wall()
    for jump in jumps:
        clocks.offset += jump
        assert clocks.clock.jumped() == pytest.approx(jump)
        assert clocks.clock.jumped() == 0.0
        clocks.pass_time(1)
        assert not clocks.is_old(stamp)
        assert not clocks.is_old(clocks.wall() - 1)
