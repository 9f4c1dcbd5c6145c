"""Long messages: how much of them is read at once, and into what.

Rule: what a worker has of all messages that come at a time is bounded, whatever their size and number: few are read in
large pieces, which costs least, many in small ones.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from lmtp_router._intake import Intake

LONG = 64 << 10
"""Octets from which on a message is long; shorter ones are read as they come."""
BUDGET = 8 << 20
"""Octets that are divided among the long messages of a worker."""
MOST = 250 << 10
"""Octets read at once where few come: as many as uvloop reads at once of everything else."""
LEAST = MOST >> 4


class Share:
    """What each of the long messages of one worker may take at once."""

    __slots__ = ("_active", "_intake", "size")

    def __init__(self) -> None:
        self._active = 0
        self._intake = Intake()
        self.size = MOST
        """Octets that are read at once: halves of `MOST`, so that what is free again fits."""

    @property
    def active(self) -> int:
        """Long messages that come."""
        return self._active

    def count(self, more: int) -> None:
        """So many more long messages come, or (-1) one less."""
        self._active += more
        size = MOST
        while size > LEAST and size * self._active > BUDGET:
            size //= 2
        self.size = size

    def room(self) -> Intake:
        """What is read into."""
        return self._intake.room(self.size)

    def take(self, size: int) -> bytes:
        """The octets that were read."""
        return self._intake.take(size)


class Listener(Protocol):
    """The session whose messages these are."""

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> bool: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Bulk:
    """The reading of one session's long messages: what its transport calls (asyncio.BufferedProtocol) from the first
    one on."""

    def __init__(self, session: Listener, share: Share) -> None:
        self._session = session
        self._share = share
        self._size = 0
        self._counted = False
        self._reads = False

    def came(self, size: int, transport: asyncio.Transport, *, reading: bool) -> None:
        """So many more octets of a message came by `transport`, which is read if `reading`."""
        self._size += size
        if self._counted or self._size <= LONG:
            return
        self._counted = True
        self._share.count(1)
        if self._reads or transport.is_closing():
            return
        self._reads = True
        # uvloop takes up another way of reading when it begins to read.
        if reading:
            transport.pause_reading()
        transport.set_protocol(cast(asyncio.BaseProtocol, self))
        if reading:
            transport.resume_reading()

    def over(self) -> None:
        """The message is over."""
        self._size = 0
        if self._counted:
            self._counted = False
            self._share.count(-1)

    # What the transport tells.

    def get_buffer(self, hint: int) -> Intake:
        return self._share.room()

    def buffer_updated(self, nbytes: int) -> None:
        self._session.data_received(self._share.take(nbytes))

    def eof_received(self) -> bool:
        return self._session.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._session.connection_lost(exc)

    def pause_writing(self) -> None:
        self._session.pause_writing()

    def resume_writing(self) -> None:
        self._session.resume_writing()
