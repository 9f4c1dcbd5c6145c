"""A store whose records may be out of date, since it is a restored backup or empty: what is told of it, and until when.

Rule: no answer of ours makes a backend delete mail (DESIGN rule 4), and not knowing is not "no" (rule 1).  While the
store is being refilled by the backends' ``ctl_mboxlist -m``,

- such a push is never told that another server owns what it has.  Its ACTIVATE takes a record from before over; where
  another server has told since that it has the mailbox, the ACTIVATE is refused, and an operator has to decide;
- nobody is given the list as the truth (UPDATE is refused, so frontends keep what they have), and no miss is fresh.

A push counts when it has ended with LOGOUT, with every mailbox that it asked for in vain activated: a dry run does not.
"""

from __future__ import annotations

from collections.abc import Iterable

from cyrusext.model import MailboxRecord, State

KEY = "refill"
"""Where the store keeps up to which sequence its records may be out of date; "" when none is."""
MARKER = "refill"
"""A file in state_dir that has a node begin a refill at its start."""


class Refill:
    """What the node knows of a refill; `upto` is the sequence of the last record that may be out of date, None when
    none is."""

    def __init__(self, upto: int | None = None) -> None:
        self.upto = upto
        self.pushed: set[str] = set()
        """Servers that have told everything they have since the refill began, or this node started in it."""

    @property
    def active(self) -> bool:
        return self.upto is not None

    def begin(self, upto: int) -> None:
        """All records up to the sequence `upto` may be out of date."""
        self.upto = upto
        self.pushed.clear()

    def end(self) -> None:
        self.upto = None

    def missing(self, servers: Iterable[str]) -> list[str]:
        """Return those of `servers` that have not pushed."""
        return sorted(set(servers) - self.pushed)

    def hides(self, record: MailboxRecord, asking: str) -> bool:
        """The push of `asking` hears nothing of `record`; reservations made since are another matter (leftover)."""
        if self.upto is None or asking in ("", record.server):
            return False
        return record.seq <= self.upto or record.state is State.ACTIVE


class Account:
    """One client's ``ctl_mboxlist -m``, as far as it goes."""

    def __init__(self, refill: Refill) -> None:
        self._refill = refill
        self._owed: set[int] = set()

    def asked_in_vain(self, name: bytes) -> None:
        """It was told that there is no mailbox `name`: if it has one, it will activate it."""
        if self._refill.active:
            self._owed.add(hash(name))

    def activated(self, name: bytes) -> None:
        self._owed.discard(hash(name))

    def ended(self, server: str) -> bool:
        """It said LOGOUT, `server` being whom it pushed for; return whether it counts."""
        counts = self._refill.active and bool(server) and not self._owed
        if counts:
            self._refill.pushed.add(server)
        return counts
