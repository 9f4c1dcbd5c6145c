"""What a worker has counted and what it holds now, as it tells its parent, and how many workers' figures become one.

Rule: a count only grows while its process lives, and what an ended process had counted stays in the sum; so a rate
that is read from the sums is right whatever happens to a worker.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cyrusext.runtime.histogram import Histogram

PHASES = ("connect", "envelope", "data", "final")
PHASE_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper ends of the ranges for a phase: from a kept connection to the longest default deadline."""
MAX_REASONS = 100
"""Different reasons that are counted; backends choose their words, so the rest is counted as one."""
OTHER = "other"


class Counts(msgspec.Struct):
    """A histogram that can be sent."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(PHASE_BOUNDS_S) + 1))
    total: float = 0.0

    def add(self, other: Counts) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def since(self, before: Counts) -> Counts:
        """Return what was counted after `before`, an earlier state of this."""
        fresh = [a - b for a, b in zip(self.counts, before.counts, strict=True)]
        return Counts(fresh, self.total - before.total)

    def histogram(self) -> Histogram:
        """Return it as metrics show it."""
        shown = Histogram(PHASE_BOUNDS_S)
        shown.counts, shown.total = list(self.counts), self.total
        return shown

    def quantile_s(self, share: float) -> float | None:
        """Return the duration that `share` (0 to 1) of the values do not exceed, within its range; None without any."""
        wanted = share * sum(self.counts)
        below, start = 0, 0.0
        if not wanted:
            return None
        for count, end in zip(self.counts, (*PHASE_BOUNDS_S, PHASE_BOUNDS_S[-1]), strict=True):
            if count and below + count >= wanted:
                return start + (end - start) * (wanted - below) / count
            below, start = below + count, end
        return PHASE_BOUNDS_S[-1]


class Tally(msgspec.Struct):
    """What was counted since the process began."""

    sessions: int = 0
    refused: dict[str, int] = {}
    """Clients that were not served, by reason."""
    logins: dict[str, int] = {}
    """AUTH of clients, by what came of it: good, refused, unavailable."""
    transactions: int = 0
    express: int = 0
    """Those of them that went the short way to their end."""
    recipients: dict[str, dict[str, int]] = {}
    """By server ("" where none was asked) and verdict."""
    rejects: dict[str, int] = {}
    """By code and enhanced status code of the reply."""
    received_bytes: int = 0
    delivered_bytes: dict[str, int] = {}
    """By server: message octets that it took."""
    connects: dict[str, int] = {}
    """Connections made, by endpoint."""
    failures: dict[str, int] = {}
    """Connections that did not come to be, by endpoint."""
    phases: dict[str, Counts] = msgspec.field(default_factory=lambda: {phase: Counts() for phase in PHASES})

    def count_reject(self, reason: str) -> None:
        if reason not in self.rejects and len(self.rejects) >= MAX_REASONS:
            reason = OTHER
        self.rejects[reason] = self.rejects.get(reason, 0) + 1

    def add(self, other: Tally) -> None:
        """Count what `other` has counted."""
        self.sessions += other.sessions
        self.transactions += other.transactions
        self.express += other.express
        self.received_bytes += other.received_bytes
        for name in ("refused", "logins", "rejects", "delivered_bytes", "connects", "failures"):
            _add(getattr(self, name), getattr(other, name))
        for server, verdicts in other.recipients.items():
            _add(self.recipients.setdefault(server, {}), verdicts)
        for phase, counts in other.phases.items():
            self.phases[phase].add(counts)


def _add(into: dict[str, int], counts: dict[str, int]) -> None:
    for key, count in counts.items():
        into[key] = into.get(key, 0) + count


class PoolState(msgspec.Struct):
    """One worker's connections to one endpoint."""

    connections: int = 0
    idle: int = 0
    connecting: int = 0
    waiting: int = 0
    """Deliveries that wait for a connection."""
    breaker: str = "closed"
    """Or open, or half-open while it is tried whether the backend is back."""


class Snapshot(msgspec.Struct):
    """What a worker tells its parent, about once a second."""

    tally: Tally
    sessions: int = 0
    """Clients connected."""
    retiring: bool = False
    pools: dict[str, PoolState] = {}
    cpu_s: float = 0.0
    rss_bytes: int = 0


def total_of(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of `tallies`, none of which is changed."""
    whole = Tally()
    for tally in tallies:
        whole.add(tally)
    return whole


_RANK = {"closed": 0, "half-open": 1, "open": 2}


def pools_of(snapshots: Iterable[Snapshot]) -> dict[str, PoolState]:
    """Return the pools of all workers by endpoint; of their breakers the one that is worst."""
    whole: dict[str, PoolState] = {}
    for snapshot in snapshots:
        for endpoint, pool in snapshot.pools.items():
            into = whole.setdefault(endpoint, PoolState())
            into.connections += pool.connections
            into.idle += pool.idle
            into.connecting += pool.connecting
            into.waiting += pool.waiting
            into.breaker = max(into.breaker, pool.breaker, key=_RANK.__getitem__)
    return whole
