"""Events that a peer can provoke as often as it likes, logged so often that its log stays readable.

Rule: of one event from one host `BURST` lines pass at once and then one a second; what was not written is counted, and
the count is written with the next line that passes, or by `tell`.  The number of hosts remembered is bounded.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from cyrusext.runtime import logging

BURST = 50
PER_S = 1.0
_HOSTS = 4096


class _Bucket:
    """What one host may still write of one event."""

    __slots__ = ("at", "lines", "suppressed")

    def __init__(self, at: float) -> None:
        self.at, self.lines, self.suppressed = at, float(BURST), 0


class PeerLog:
    """Writes events with a ``peer``, an address and a port; `clock` tells seconds."""

    def __init__(self, log: logging.EventLogger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def info(self, event: str, *, peer: str, **fields: object) -> None:
        if self._passes(event, peer):
            self._log.info(event, peer=peer, **fields)

    def warning(self, event: str, *, peer: str, **fields: object) -> None:
        if self._passes(event, peer):
            self._log.warning(event, peer=peer, **fields)

    def tell(self) -> None:
        """Write what was suppressed and not yet told; to be called now and then."""
        for key, bucket in self._buckets.items():
            self._report(key, bucket)

    def _passes(self, event: str, peer: str) -> bool:
        key, now = (event, peer.rpartition(":")[0] or peer), self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(now)
            if len(self._buckets) > _HOSTS:
                self._report(*self._buckets.popitem(last=False))
        else:
            self._buckets.move_to_end(key)
            bucket.lines = min(BURST, bucket.lines + (now - bucket.at) * PER_S)
            bucket.at = now
        if bucket.lines < 1:
            bucket.suppressed += 1
            return False
        bucket.lines -= 1
        self._report(key, bucket)
        return True

    def _report(self, key: tuple[str, str], bucket: _Bucket) -> None:
        if bucket.suppressed:
            event, host = key
            self._log.warning("log.suppressed", of=event, peer=host, lines=bucket.suppressed)
            bucket.suppressed = 0
