"""How long ago something was, by stamps of a wall clock that somebody may set.

Rule: nothing seems older than it is.  The offset of the wall clock to the machine's steady one is remembered; when it
jumps, stamps are held against both offsets, until as much time has passed as is asked about.
"""

from __future__ import annotations

import time
from collections.abc import Callable

JUMP_S = 2.0
"""A smaller change of the offset is the correction of a clock that runs."""
_KEPT = 16
"""Jumps remembered; of more the one that makes things youngest stays."""


def _steady() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class StampClock:
    """Knows the jumps since it was made, and only those between two questions."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _steady) -> None:
        self._wall, self._steady = wall, steady
        self._offset = wall() - steady()
        self._before: list[tuple[float, float]] = []  # an offset that was, and when it was found to have changed

    def jumped(self) -> float:
        """Look at the clock; return by how many seconds it jumped since the last look, 0.0 where it did not."""
        now = self._steady()
        offset = self._wall() - now
        by, self._offset = offset - self._offset, offset
        if abs(by) < JUMP_S:
            return 0.0
        self._before.append((offset - by, now))
        if len(self._before) > _KEPT:
            youngest = min(before for before, _ in self._before)
            self._before = [(youngest, now)]
        return by

    def older_than(self, seconds: float) -> float:
        """Return the Unix time before which everything is certainly `seconds` old."""
        self.jumped()
        now = self._steady()
        offsets = [before for before, noticed in self._before if now - noticed < seconds]
        return now + min([self._offset, *offsets]) - seconds
