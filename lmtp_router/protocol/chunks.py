"""A message that a client sends in counted chunks: BDAT (RFC 3030).

Rule: the count alone says where a chunk ends, so that nothing in it can be taken for a command; what is passed on is
what would have followed DATA, unless the message is binary.
"""

from __future__ import annotations

from lmtp_router.protocol._stuff import BodyStuffer


class ChunkReader:
    """The chunks of one message: ``size`` octets have come, ``last`` says that the present chunk is the last."""

    __slots__ = ("_left", "_stuffer", "last", "size")

    def __init__(self, *, binary: bool = False) -> None:
        self.size = 0
        self.last = False
        self._left = 0
        self._stuffer = None if binary else BodyStuffer()

    def begin(self, size: int, *, last: bool) -> None:
        """A chunk of `size` octets follows."""
        self._left = size
        self.last = last

    @property
    def whole(self) -> bool:
        """True when the present chunk has come."""
        return not self._left

    @property
    def bare_newline(self) -> bool:
        """True if a CR or LF was not part of CRLF, which only a binary message may have."""
        return self._stuffer is not None and self._stuffer.bare_newline

    @property
    def nul(self) -> bool:
        """True if a NUL was seen; of a binary message nobody asks."""
        return self._stuffer is not None and self._stuffer.nul

    def take(self, buffer: bytes, at: int) -> tuple[int, bytes]:
        """Take the octets of the chunk in ``buffer[at:]``; return the offset behind them and what goes on of them."""
        stop = min(len(buffer), at + self._left)
        self._left -= stop - at
        self.size += stop - at
        if self._stuffer is None:
            return stop, buffer[at:stop]
        octets = self._stuffer.feed(buffer, at, stop)
        return stop, octets + self._stuffer.finish() if self.last and not self._left else octets
