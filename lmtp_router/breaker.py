"""When to stop trying a backend that can not be reached.

Rule: after `THRESHOLD` failures in a row no attempt is made for a growing interval, then exactly one; its success
closes the breaker, its failure opens it for longer.
"""

from __future__ import annotations

THRESHOLD = 3
FIRST_INTERVAL_S = 1.0
LAST_INTERVAL_S = 30.0


class Breaker:
    """Counts the failed connections of one backend; the caller has the clock (seconds)."""

    __slots__ = ("_failures", "_interval_s", "_open_until", "_probing")

    def __init__(self) -> None:
        self._failures = 0
        self._interval_s = 0.0
        self._open_until = 0.0
        self._probing = False

    @property
    def closed(self) -> bool:
        """True while attempts are free."""
        return self._failures < THRESHOLD

    @property
    def state(self) -> str:
        """closed, open, or half-open while the one attempt is under way."""
        if self.closed:
            return "closed"
        return "half-open" if self._probing else "open"

    def allow(self, now: float) -> bool:
        """True if an attempt may be made now; the caller then makes it, and tells its outcome."""
        if self.closed:
            return True
        if self._probing or now < self._open_until:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """A connection came to be."""
        self._failures = 0
        self._interval_s = 0.0
        self._probing = False

    def failed(self, now: float) -> None:
        """A connection did not come to be.  Attempts that were under way when it opened do not lengthen the pause."""
        if not self.closed and not self._probing:
            return
        self._probing = False
        self._failures += 1
        if not self.closed:
            self._interval_s = min(max(self._interval_s * 2, FIRST_INTERVAL_S), LAST_INTERVAL_S)
            self._open_until = now + self._interval_s
