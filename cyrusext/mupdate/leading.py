"""What makes a node one that others may follow: which store it is, how far its change log goes back, who follows.

Rule: a follower goes on where it was only if the log still has the very change that it saw last; a store that was lost,
restored or replaced has not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from cyrusext.model import MailboxRecord
from cyrusext.mupdate import following
from cyrusext.mupdate.types import Follow
from cyrusext.store import Changed


class Log(Protocol):
    """What is read of the store for followers."""

    @property
    def seq(self) -> int: ...

    def changed(self, after: int, limit: int) -> Changed: ...

    def mark(self, seq: int) -> int | None: ...

    def chunk(self, *, after: bytes = b"", limit: int = 1000, tombstones: bool = False) -> list[MailboxRecord]: ...


class Follower(Protocol):
    """A follower that is connected: its name, and the last change that was sent to it."""

    node: str
    sent: int

    def committed(self) -> None:
        """Something was committed."""
        ...


@dataclass
class Leading:
    """The leader's side; `committed` listens to commits."""

    store_id: str
    cluster_id: str
    log: Log
    murder: str = "standard"
    """The mode of the murder: how its locations are to be read."""
    followers: set[Follower] = field(default_factory=set)
    full: int = 0
    """Full copies begun."""
    resumed: int = 0
    """Followers that went on where they had been."""

    def committed(self, _changes: object = None) -> None:
        for follower in tuple(self.followers):
            follower.committed()

    def refusal(self, command: Follow) -> str:
        """Say why this client may not follow, or ""."""
        if command.version != following.VERSION:
            return f"version {following.VERSION} of the extension is spoken here, not {command.version}"
        if command.cluster_id != self.cluster_id:
            return f"this is cluster {self.cluster_id!r}, not {command.cluster_id!r}"
        if command.murder != self.murder:
            return f"this is a murder of mode {self.murder!r}, not {command.murder!r}"
        return ""

    def mode(self, command: Follow) -> str:
        """Say what the client needs (types.FOLLOW_MODES): is its copy an earlier state of this store, and how old?"""
        if command.store_id != self.store_id or command.seq > self.log.seq:
            return "full"
        if command.seq == 0:
            return "log" if self.log.changed(0, 1).first in (0, 1) else "behind"
        mark = self.mark(command.seq)
        if not mark:
            return "behind"
        return "log" if mark == command.mark else "full"

    def mark(self, seq: int) -> str:
        """Return the mark of a change as it is sent, "" where the log does not have it."""
        mark = self.log.mark(seq)
        return "" if mark is None else mark_text(mark)


def mark_text(mark: int) -> str:
    """Return the mark of a change as it is sent."""
    return f"{mark:08x}"
