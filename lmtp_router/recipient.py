"""One RCPT of a client and what became of it.

Rule: a recipient is answered once and, when accepted, settled once; nobody else's fate changes that.
"""

from __future__ import annotations

from lmtp_router.protocol.types import Rcpt, Reply
from lmtp_router.results import Slot


class Recipient:
    """One RCPT: ``answer`` is the reply to it, ``final`` the reply after the message; each comes once."""

    __slots__ = ("answer", "delivery", "final", "rcpt", "rerouted", "server", "slot", "started")

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

    @property
    def accepted(self) -> bool:
        return self.answer is not None and self.answer.positive

    @property
    def open(self) -> bool:
        """True while a reply to this recipient is still to come."""
        return self.answer is None or (self.answer.positive and self.final is None)
