"""Replies in the order of their commands, whenever they become known.

Rule: a slot is reserved for each command that owes a reply, filled once, and written when all before it are written;
so every recipient, duplicates included, has exactly one reply, in RCPT order (RFC 2033 section 4.2).
"""

from __future__ import annotations

from collections import deque

from cyrusext.errors import LocalProtocolError


class Slot:
    """The place of one reply.  ``patient``: while the next reply is still to come, this one may wait for it."""

    __slots__ = ("patient", "raw")

    def __init__(self, raw: bytes = b"", *, patient: bool = False) -> None:
        self.raw = raw
        self.patient = patient


class Replies:
    """The replies that a client is owed."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: deque[Slot] = deque()

    @property
    def owed(self) -> int:
        """Number of replies that are reserved or waiting."""
        return len(self._slots)

    def reserve(self) -> Slot:
        """Take the next place for a reply that is not known yet."""
        slot = Slot()
        self._slots.append(slot)
        return slot

    def add(self, raw: bytes, *, patient: bool = False) -> None:
        """Take the next place for a reply that is known."""
        self._slots.append(Slot(raw, patient=patient))

    def fill(self, slot: Slot, raw: bytes) -> None:
        """Give a reserved place its reply; raises LocalProtocolError if it has one."""
        if slot.raw:
            raise LocalProtocolError("a command was answered twice")
        slot.raw = raw

    def ready(self) -> bytes:
        """Take out what may be written now.

        Patient replies alone stay until the reply behind them is there: one write instead of two, and the client that
        pipelines waits for the later one anyway.
        """
        slots = self._slots
        known = 0
        eager = False
        for slot in slots:
            if not slot.raw:
                break
            known += 1
            eager = eager or not slot.patient
        if not known or (not eager and known < len(slots)):
            return b""
        if known == 1:
            return slots.popleft().raw
        return b"".join([slots.popleft().raw for _ in range(known)])
