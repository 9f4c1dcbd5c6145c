"""Windows that an operator opens: for so long a server may take over mailboxes that are ACTIVE elsewhere.

Rule: a window ends by itself, is counted and logged, and outlives no restart; it never lets another server do it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cyrusext.runtime import logging

log = logging.get()


class _Window:
    __slots__ = ("taken", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.taken = 0


class Claims:
    """The windows that are open, by server."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def __bool__(self) -> bool:
        return bool(self._windows)

    @property
    def servers(self) -> frozenset[str]:
        """Who may take over now."""
        return frozenset(self._windows)

    def set(self, server: str, seconds: float) -> None:
        """Open a window of `server`, or give the one that is open another end; 0 seconds ends it."""
        until = self._clock() + seconds
        if server in self._windows:
            self._windows[server].until = until
        elif seconds:
            self._windows[server] = _Window(until)
        self.expire()

    def count(self, server: str) -> None:
        """Note that `server` has taken over a mailbox."""
        if server in self._windows:
            self._windows[server].taken += 1

    def expire(self) -> bool:
        """End what is over; return whether something was."""
        now = self._clock()
        over = [server for server, window in self._windows.items() if window.until <= now]
        for server in over:
            log.warning("backend.claim_ended", server=server, taken_over=self._windows.pop(server).taken)
        return bool(over)

    def status(self) -> dict[str, dict[str, float]]:
        """Return what `cyrusext status` shows."""
        now = self._clock()
        return {
            server: {"seconds_left": round(window.until - now, 1), "taken_over": window.taken}
            for server, window in self._windows.items()
        }
