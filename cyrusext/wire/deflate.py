"""COMPRESS "DEFLATE": raw deflate in both directions (RFC 1951, as RFC 4978 uses it).

Rule: what is sent can be read at once, so each piece ends in a sync flush; what is received is never inflated further
than its reader has room for, however much a few bytes stand for.
"""

from __future__ import annotations

import zlib

from cyrusext.errors import RemoteProtocolError

LEVEL = 1
"""Names and ACLs repeat so much that higher levels gain little, and this runs where all clients wait."""
WINDOW = -13
MEMORY = 6
"""With a window of 8 KiB and this, compressing takes 64 KiB of memory for a connection and not 256."""
READ_WINDOW = -15
"""The peer may use all of deflate's window."""


class Deflate:
    """Both directions of one connection, from the answer to COMPRESS on."""

    def __init__(self) -> None:
        self._out = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW, MEMORY)
        self._in = zlib.decompressobj(READ_WINDOW)
        self._waiting = b""
        self._more = False

    def compress(self, data: bytes) -> bytes:
        """Return the octets that stand for `data`; the peer can read all of it when it has them."""
        return self._out.compress(data) + self._out.flush(zlib.Z_SYNC_FLUSH)

    def feed(self, data: bytes) -> None:
        """Take octets that the peer sent."""
        self._waiting += data

    @property
    def waiting(self) -> int:
        """Octets fed and not yet inflated."""
        return len(self._waiting)

    @property
    def pending(self) -> bool:
        """Whether `take` has something to do."""
        return self._more or bool(self._waiting)

    def take(self, limit: int) -> bytes:
        """Inflate what was fed and return at most `limit` octets of it; call again while `pending`.

        Raises RemoteProtocolError where it is not deflate, or goes on behind its own end.
        """
        try:
            data = self._in.decompress(self._waiting, limit)
        except zlib.error as error:
            raise RemoteProtocolError("the compressed data is damaged", fatal=True) from error
        if self._in.eof:
            raise RemoteProtocolError("the compressed data has an end", fatal=True)
        self._waiting = self._in.unconsumed_tail
        # Where the limit was reached, more may wait inside of zlib although all input is consumed.
        self._more = len(data) == limit
        return data
