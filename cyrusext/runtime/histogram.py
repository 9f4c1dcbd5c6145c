"""How long something took, counted in ranges: what a metric can tell of a million durations.

Rule: counting costs one search in a short list, and reading it disturbs nobody who counts.
"""

from __future__ import annotations

from bisect import bisect_left

COMMIT_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the ranges for a commit: from a tmpfs to a disk in trouble."""


class Histogram:
    """Counts values by the ranges that end at `bounds` (ascending), and above the last; one thread counts."""

    def __init__(self, bounds: tuple[float, ...] = COMMIT_BOUNDS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return ``(upper end, values up to it)`` for each range, the last as ``+Inf``."""
        rows: list[tuple[str, float]] = []
        below = 0
        for end, count in zip((*(f"{bound:g}" for bound in self.bounds), "+Inf"), tuple(self.counts), strict=True):
            below += count
            rows.append((end, below))
        return rows
