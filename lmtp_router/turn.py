"""What is written in one turn of the loop goes out at its end, all of it together.

Rule: a turn reads from many connections and leaves something to write for many.  Written one by one, in between, each
write would find its reader asleep and pay for waking it; at the end of the turn one write does, and a connection that
got several pieces has one system call for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cyrusext.runtime import logging

log = logging.get()

JOINED = 64 << 10
"""Octets up to which pieces wait and are copied into one.  What is more goes out at once: a loop reads many times from
one connection in a turn, and only what was written can say that its reader is behind and the client has to wait."""


class Turn:
    """What is left to do at the end of this turn; `call_soon` is the loop's."""

    __slots__ = ("_call_soon", "_due")

    def __init__(self, call_soon: Callable[[Callable[[], object]], object]) -> None:
        self._call_soon = call_soon
        self._due: list[Callable[[], object]] = []

    def soon(self, callback: Callable[[], object]) -> None:
        """Call `callback` at the end of this turn, behind those that are due already."""
        if not self._due:
            self._call_soon(self.run)
        self._due.append(callback)

    def run(self) -> None:
        """Do what is due, and what comes of it."""
        due = self._due
        at = 0
        try:
            while at < len(due):
                callback = due[at]
                at += 1
                callback()
        finally:
            del due[:at]
            if due:
                self._call_soon(self.run)


class Outlet:
    """A transport whose writes wait for the end of the turn; what else is asked of it is done in order with them."""

    __slots__ = ("_expected", "_muted", "_pieces", "_size", "_turn", "transport")

    def __init__(self, transport: asyncio.Transport, turn: Turn) -> None:
        self.transport = transport
        self._turn = turn
        self._pieces: list[bytes] = []
        self._size = 0
        self._expected = b""
        self._muted = False

    def expect(self, octets: bytes) -> None:
        """What is written next begins with `octets`, which were written before: they are not written again.

        Where it does not, the connection is cut: what its other end knows and what is known here are not the same.
        """
        self._expected = octets

    def mute(self) -> None:
        """Nobody hears any more: nothing is written from here on."""
        self._muted = True
        self._pieces, self._size = [], 0

    def _rest(self, octets: bytes) -> bytes:
        """What of `octets` has not been written."""
        if self._muted:
            return b""
        expected = self._expected
        known = min(len(expected), len(octets))
        if expected[:known] != octets[:known]:
            log.error("lmtp.retrace_failed", expected=expected[:200], octets=octets[:200])
            self.mute()
            self.transport.abort()
            return b""
        self._expected = expected[known:]
        return octets[known:]

    def write(self, octets: bytes) -> None:
        if self._expected or self._muted:
            octets = self._rest(octets)
            if not octets:
                return
        if not self._pieces:
            self._turn.soon(self.flush)
        self._pieces.append(octets)
        self._size += len(octets)
        if self._size > JOINED:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        pieces = self._pieces
        if not pieces:
            return
        size = self._size
        self._pieces, self._size = [], 0
        if self.transport.is_closing():
            return  # it was lost meanwhile, and will say so
        if len(pieces) == 1:
            self.transport.write(pieces[0])
        elif size <= JOINED:
            self.transport.write(b"".join(pieces))
        else:
            self.transport.writelines(pieces)

    def write_eof(self) -> None:
        self.flush()
        if not self.transport.is_closing():
            self.transport.write_eof()

    def close(self) -> None:
        self.flush()
        self.transport.close()

    def abort(self) -> None:
        self._pieces, self._size = [], 0
        self.transport.abort()

    def can_write_eof(self) -> bool:
        return self.transport.can_write_eof()

    def is_closing(self) -> bool:
        return self.transport.is_closing()

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def get_extra_info(self, name: str) -> Any:
        return self.transport.get_extra_info(name)
