"""What every directory is to the node: the place that decides on a change and says when it holds.

Rule: a change that was granted is durable, and visible in this node's store, before its outcome is given; one whose
outcome is not known is refused with that reason, and repeating it is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from cyrusext.directory.ownership import Change
from cyrusext.errors import CyrusExtError
from cyrusext.model import MailboxRecord

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Outcome(NamedTuple):
    """The answer to a change; ``text`` goes to the client."""

    granted: bool
    text: str
    code: str = ""
    """Of a refusal: the stable name of its reason."""


class Committed(NamedTuple):
    """A change that holds: the record as stored, and the server that had the mailbox before ("" = nobody)."""

    record: MailboxRecord
    was: str


class Transaction(Protocol):
    """What a piece of work may do with the store, together with others in one transaction."""

    def get(self, name: bytes) -> MailboxRecord | None: ...

    def put(self, record: MailboxRecord) -> MailboxRecord: ...

    def put_copied(self, record: MailboxRecord) -> MailboxRecord: ...

    def set_text(self, key: str, text: str) -> None: ...


class Work(Protocol[R_co]):
    """A piece of work on the store: reads and writes in one transaction, or nothing of it happens."""

    def run(self, transaction: Transaction, changes: list[Committed]) -> R_co:
        """Do it, in the writer's thread; append to `changes` what the feed has to tell."""
        ...

    def failed(self, error: CyrusExtError) -> R_co:
        """Return the result that stands for `error`: nothing was written, or nobody knows (WriteUnknown)."""
        ...

    def applied_late(self) -> Work[None] | None:
        """Return what is to be done when the work took effect after `failed` had been given; on the event loop."""
        ...


class Committer(Protocol):
    """Takes work and commits it (replica.writer)."""

    def submit(self, work: Work[R]) -> asyncio.Future[R]: ...


class Directory(Protocol):
    """Decides on changes.  All methods are called on the event loop and return at once."""

    @property
    def may_answer(self) -> bool:
        """This node's copy is complete: without it, nothing is said at all (a NO to FIND would mean "not there")."""
        ...

    @property
    def is_fresh(self) -> bool:
        """This node knows every change that was granted anywhere: what is absent here is absent (DESIGN rule 1)."""
        ...

    def write(self, change: Change, by: str) -> asyncio.Future[Outcome]:
        """Decide on `change`, sent by `by`; the future is done within the write deadline and never raises."""
        ...

    async def catch_up(self) -> bool:
        """Wait until everything that was granted anywhere before this call is applied here.

        False when that is not to be had within the write deadline.
        """
        ...

    def claim(self, server: str, seconds: float) -> None:
        """Let `server` take over mailboxes that are ACTIVE elsewhere, for so long; 0 ends it."""
        ...

    def windows(self) -> dict[str, dict[str, float]]:
        """Return the windows that `claim` opened: server → ``seconds_left`` and ``taken_over``."""
        ...

    @property
    def taken_over(self) -> int:
        """Mailboxes that one server took over from another since the start."""
        ...


Listener = Callable[[list[Committed]], None]
"""Is told of each commit, in order, on the event loop, before the outcomes of its changes are given."""
