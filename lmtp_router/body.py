"""The body of one message between the client and the backends that have not said 354 yet.

Rule: written once, read from the start by each backend that joins, and let go of at once when no backend is left to
join.  What a backend has been given and not taken stands in its transport, whose size is bounded there: the chunks are
shared, so the memory of a transaction is what the slowest backend is behind, never more than `limit` and one read.
"""

from __future__ import annotations


class Body:
    """The chunks from the start of the message; ``size`` octets are held, ``complete`` when the end has come."""

    __slots__ = ("_chunks", "complete", "keep", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.complete = False
        self.keep = True
        self._chunks: list[bytes] = []

    @property
    def full(self) -> bool:
        """True when the client has to wait."""
        return self.size >= self.limit

    def append(self, chunk: bytes) -> None:
        """Hold a chunk for the backends that are still to join."""
        if self.keep:
            self._chunks.append(chunk)
            self.size += len(chunk)

    def chunks(self) -> list[bytes]:
        """All of the message so far; raises ValueError when its start is gone."""
        if not self.keep:
            raise ValueError("the start of the body is gone")
        return self._chunks

    def drop(self) -> None:
        """Nobody joins any more: hold nothing from here on."""
        self.keep = False
        self._chunks = []
        self.size = 0
