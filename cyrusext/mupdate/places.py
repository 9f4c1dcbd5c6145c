"""Who has a place at a server, when all are taken: strangers give way, members never.

Rule: a connection that has logged in keeps its place.  One that has not may be asked to leave for a new one: the oldest
of the newcomer's own address where that has more than its share, else the oldest of all.  So nobody keeps others out by
being there and saying nothing, and nobody by coming again and again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

G = TypeVar("G", bound=Hashable)

SHARE = 8
"""An address has more than its share of places with one in so many."""


class Places(Generic[G]):
    """So many places for guests of type `G`."""

    def __init__(self) -> None:
        self._guests: dict[G, None] = {}
        self._strangers: dict[G, str] = {}
        """Those that have not logged in, with their address, in the order in which they came."""
        self._by_host: dict[str, dict[G, None]] = {}
        """The same by address."""

    def __len__(self) -> int:
        return len(self._guests)

    def __iter__(self) -> Iterator[G]:
        return iter(tuple(self._guests))

    @property
    def strangers(self) -> int:
        return len(self._strangers)

    def enter(self, guest: G, host: str) -> None:
        """Give `guest`, a stranger from the address `host`, a place."""
        self._guests[guest] = None
        self._strangers[guest] = host
        self._by_host.setdefault(host, {})[guest] = None

    def gives_way(self, host: str, places: int) -> G | None:
        """Return who is to leave for a newcomer from `host`, where there are so many `places`; None: nobody can."""
        own = self._by_host.get(host)
        if own is not None and len(own) > places // SHARE:
            return next(iter(own))
        return next(iter(self._strangers), None)

    def admitted(self, guest: G) -> None:
        """`guest` has logged in, or gives its place up as a stranger; harmless when known already."""
        host = self._strangers.pop(guest, None)
        if host is None:
            return
        own = self._by_host[host]
        del own[guest]
        if not own:
            del self._by_host[host]

    def leave(self, guest: G) -> None:
        """`guest` is gone; harmless when it is not there."""
        self.admitted(guest)
        self._guests.pop(guest, None)
