"""What an operator's batch says and what comes of it: the same words for the command and for the node.

Rule: these are the only declarations of what crosses the control socket; the client (manage.control) and the work that
is done (replica.apply) both use them.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

MAX_CHANGES = 5000
"""Changes in one batch."""

ABSENT = 0
"""State of what was not there, in `Applied.before`."""


class Wanted(NamedTuple):
    """One record as it shall be, or in `Applied.before` as it was.

    `state` is a State's value; DELETED removes the record (its other fields do not matter).
    """

    name: bytes
    state: int
    server: str = ""
    partition: str = ""
    acl: bytes = b""


class Refusal(NamedTuple):
    """A change that was not made, why, and where the mailbox is."""

    name: bytes
    reason: str
    server: str
    partition: str


class Applied(msgspec.Struct):
    """What came of a batch; ``before`` has the previous values of everything that changed (or would)."""

    created: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    absent: int = 0
    refused: list[Refusal] = msgspec.field(default_factory=list)
    before: list[Wanted] = msgspec.field(default_factory=list)
