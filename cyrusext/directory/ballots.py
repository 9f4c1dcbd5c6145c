"""Ballots: who proposed when, in the one order that decides between proposals for a register.

Rule: no ballot is ever made twice.  The proposer's number is drawn anew at each start of a process, the counter goes up
with every ballot that the process makes, for whichever register; so a request that comes late, from before a restart
or from an attempt that was given up, is never mistaken for a new one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cyrusext.errors import DirectoryError

MAX_COUNTER = (1 << 40) - 1
"""A thousand rounds a second for thirty years; what is above it was not made by us."""
MAX_PROPOSER = (1 << 64) - 1
MAX_ROUND = (1 << 32) - 1

_TEXT = re.compile(rb"([0-9a-f]{12})\.([0-9a-f]{16})\.([0-9a-f]{8})")


class Ballot(NamedTuple):
    """A number of a proposal; a tuple's order is that of ballots, and so is the order of their texts.

    `round` counts the writes that one proposer made one after the other under one promise ("sticky").
    """

    counter: int
    proposer: int
    round: int = 0

    @property
    def text(self) -> bytes:
        """38 octets, always: the order of octets is the order of ballots (packaging/ldap/cyrusext.schema)."""
        return b"%012x.%016x.%08x" % self

    @property
    def following(self) -> Ballot | None:
        """The ballot of the same proposer's next write; None when this promise is used up."""
        return self._replace(round=self.round + 1) if self.round < MAX_ROUND else None


def parse_ballot(text: bytes) -> Ballot:
    """Return the ballot that `text` says; raises DirectoryError where it is none that could have been made."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise DirectoryError(f"not a ballot: {text[:60]!r}")
    ballot = Ballot(*(int(part, 16) for part in match.groups()))
    if ballot.counter > MAX_COUNTER:
        raise DirectoryError(f"a ballot that nobody can have made: {text!r}")
    return ballot


class Ballots:
    """Makes the ballots of one process; `proposer` is drawn at its start (64 random bits)."""

    def __init__(self, proposer: int) -> None:
        self.proposer = proposer
        self._counter = 0

    def saw(self, ballot: Ballot) -> None:
        """Let all later ballots be above `ballot`."""
        self._counter = max(self._counter, ballot.counter)

    def next(self) -> Ballot:
        """Raises DirectoryError when there are none left."""
        if self._counter >= MAX_COUNTER:
            raise DirectoryError("no ballots are left: a register holds the highest that there is")
        self._counter += 1
        return Ballot(self._counter, self.proposer)
