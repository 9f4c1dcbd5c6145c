"""One RCPT of a client and what became of it.

Rule: a recipient is answered once and, when accepted, settled once; nobody else's fate changes that.
"""

from __future__ import annotations

from collections.abc import Iterator

from lmtp_router.protocol.types import Rcpt, Reply
from lmtp_router.results import Slot


class Times:
    """When a delivery came how far, on the clock of the loop; 0 where it did not come so far."""

    __slots__ = ("asked", "ended", "linked", "opened")

    def __init__(self) -> None:
        self.asked = 0.0
        """A connection was asked for."""
        self.linked = 0.0
        """It was there."""
        self.opened = 0.0
        """The backend said 354."""
        self.ended = 0.0
        """It was given the end of the message."""

    def phases(self, at: float) -> Iterator[tuple[str, float]]:
        """Yield name and seconds of each phase that is over; `at` is when the backend gave its last word, or 0."""
        if self.linked:
            yield "connect_ms", self.linked - self.asked
        if self.opened:
            yield "envelope_ms", self.opened - self.linked
        if self.ended:
            yield "data_ms", self.ended - self.opened
            if at:
                yield "final_ms", at - self.ended


class Recipient:
    """One RCPT: ``answer`` is the reply to it, ``final`` the reply after the message; each comes once."""

    __slots__ = ("answer", "delivery", "final", "left_out", "rcpt", "rerouted", "server", "slot", "started", "times")

    def __init__(self, rcpt: Rcpt, slot: Slot, started: float) -> None:
        self.rcpt = rcpt
        self.slot = slot
        self.started = started
        self.server = ""
        self.delivery: object | None = None
        """Whose answer counts: another delivery's, for a recipient that went elsewhere, does not."""
        self.answer: Reply | None = None
        self.final: Reply | None = None
        self.rerouted = False
        self.left_out = b""
        """Parameters that its backend was not told, for it has nothing to do with them."""
        self.times: Times | None = None
        """Of the delivery that it went with."""

    @property
    def accepted(self) -> bool:
        return self.answer is not None and self.answer.positive

    @property
    def open(self) -> bool:
        """True while a reply to this recipient is still to come."""
        return self.answer is None or (self.answer.positive and self.final is None)
