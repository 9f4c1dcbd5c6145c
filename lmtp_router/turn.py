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

JOINED = 16 << 10
"""Octets up to which pieces wait and are copied into one.  What is more goes out at once: a loop reads many times from
one connection in a turn, and only what was written can say that its reader is behind and the client has to wait."""


FEW = 2
"""Connections written to at the end of one turn, up to which the next one does not wait for more."""


class Turn:
    """What is left to do at the end of this turn; `call_soon` is the loop's.

    After a turn that wrote to more than `FEW` connections the next one lasts for two rounds of the loop: what comes in
    between is answered together with the rest, so that fewer sleeping readers are woken, and all is done sooner.
    """

    __slots__ = ("_busy", "_call_soon", "_due", "_outlets", "_planned")

    def __init__(self, call_soon: Callable[[Callable[[], object]], object]) -> None:
        self._call_soon = call_soon
        self._due: list[Callable[[], object]] = []
        self._outlets: list[Outlet] = []
        """Those that have something to write."""
        self._planned = False
        self._busy = False

    def soon(self, callback: Callable[[], object]) -> None:
        """Call `callback` at the end of this turn, behind those that are due already and before anything is written."""
        self._due.append(callback)
        self._plan()

    def flush_soon(self, outlet: Outlet) -> None:
        """Have `outlet` write at the end of this turn."""
        self._outlets.append(outlet)
        self._plan()

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._call_soon(self._wait if self._busy else self.run)

    def _wait(self) -> None:
        """Let one more round come in."""
        self._call_soon(self.run)

    def run(self) -> None:
        """Do what is due, write, and do what comes of it."""
        self._busy = len(self._outlets) > FEW
        try:
            while self._due or self._outlets:
                self._call()
                self._write()
        finally:
            self._planned = False
            if self._due or self._outlets:
                self._plan()

    def _call(self) -> None:
        due = self._due
        at = 0
        try:
            while at < len(due):
                callback = due[at]
                at += 1
                callback()
        finally:
            del due[:at]

    def _write(self) -> None:
        at = 0
        try:
            for outlet in self._outlets:
                at += 1
                outlet.flush()
        finally:
            del self._outlets[:at]


class Outlet:
    """A transport whose writes wait for the end of the turn; what else is asked of it is done in order with them."""

    __slots__ = ("_closes", "_expected", "_muted", "_pieces", "_size", "_turn", "transport")

    def __init__(self, transport: asyncio.Transport, turn: Turn) -> None:
        self.transport = transport
        self._turn = turn
        self._pieces: list[bytes] = []
        self._size = 0
        self._expected = b""
        self._muted = False
        self._closes = False

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
            self._turn.flush_soon(self)
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
        if not self.transport.is_closing():  # it was lost meanwhile, and will say so
            if len(pieces) == 1:
                self.transport.write(pieces[0])
            elif size <= JOINED:
                self.transport.write(b"".join(pieces))
            else:
                self.transport.writelines(pieces)
        if self._closes:
            self.transport.close()

    def write_eof(self) -> None:
        self.flush()
        if not self.transport.is_closing():
            self.transport.write_eof()

    def close(self) -> None:
        """Close, behind what is to be written at the end of the turn."""
        self._closes = True
        if not self._pieces:
            self.transport.close()

    def abort(self) -> None:
        self._pieces, self._size = [], 0
        self.transport.abort()

    def can_write_eof(self) -> bool:
        return self.transport.can_write_eof()

    def is_closing(self) -> bool:
        return self._closes or self.transport.is_closing()

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.is_closing():
            self.transport.resume_reading()

    def get_extra_info(self, name: str) -> Any:
        return self.transport.get_extra_info(name)
