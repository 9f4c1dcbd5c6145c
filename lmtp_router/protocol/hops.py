"""How often a message was passed on before: its Received fields are counted (RFC 5321 section 6.3).

Rule: only the header is looked at, and only its first `MAX_HEADER` octets; a header that came in one piece and is too
short for a loop costs one search for its end.
"""

from __future__ import annotations

MAX_HEADER = 64 << 10
"""Octets of a header that are looked at."""
_FIELD = b"\nReceived:"
_END = b"\r\n\r\n"


class Hops:
    """Counts in one message after the other; ``active`` from `begin` until the header is over."""

    __slots__ = ("_left", "_limit", "_room", "_short", "_tail", "active")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._short = limit * len(_FIELD)
        """A header of so few octets has no room for more fields than the limit."""
        self.active = False
        self._left = 0
        self._room = 0
        self._tail = b""

    def begin(self) -> None:
        """A message begins."""
        self.active = True
        self._tail = b""

    def feed(self, chunk: bytes) -> bool:
        """Look at the next piece of the message; True if it now has more than the limit."""
        if not self._tail and chunk.find(_END, 0, self._short) >= 0:
            self.active = False
            return False
        return self._count(chunk)

    def _count(self, chunk: bytes) -> bool:
        if self._tail:
            # What stands across the seam; no field is counted twice, for the tail is shorter than one.
            chunk = self._tail + chunk[: self._room]
        else:
            self._left, self._room = self._limit, MAX_HEADER
            # So that the first line begins like the others, and a header may be empty.
            chunk = b"\r\n" + chunk[:MAX_HEADER]
        end = chunk.find(_END, 0, self._room)
        self._left -= chunk.count(_FIELD, 0, self._room if end < 0 else end)
        self._room -= len(chunk)
        self._tail = chunk[1 - len(_FIELD) :]
        if end >= 0 or self._room <= 0 or self._left < 0:
            self.active = False
        return self._left < 0
