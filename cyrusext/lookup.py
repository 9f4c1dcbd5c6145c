"""The one place where "where is it?" becomes an answer that a door may give (DESIGN rule 1).

Rule: not knowing is not "no".  ABSENT is said only with proof of freshness; a missing, damaged or silent index, a
record that is reserved, held or suspect, and (where a "no" bounces mail) an empty list and a mailbox deleted less than
a minute ago are TEMPORARY.  Nothing here raises for a bad index.
"""

from __future__ import annotations

import enum
import time
from pathlib import Path
from typing import NamedTuple

from cyrusext.errors import IndexUnavailable, InvalidName, LookupUnavailable
from cyrusext.index import Index
from cyrusext.index._lookup import Addresses
from cyrusext.model import Flag, Location, State, check_name
from cyrusext.names import NameRules, mailbox_of_address
from cyrusext.runtime.clock import StampClock

RECENTLY_DELETED_S = 60.0
"""A RENAME is a DELETE first: for so long a deleted mailbox may come back under the same name."""
_UNSURE = Flag.HELD | Flag.SUSPECT
_RETRY_MIN_S = 0.05
_RETRY_MAX_S = 2.0
_REFRESH_S = 1.0
_CLOCK_S = 0.1
"""How often hits look whether the clock jumped: a later "no" has to know it."""


class Verdict(enum.Enum):
    """What a door may tell its client."""

    FOUND = "found"
    ABSENT = "absent"
    """There is certainly no such mailbox (550 5.1.1)."""
    TEMPORARY = "temporary"
    """Not known now, or not certain: ask again later (451 4.4.3, 451 4.2.1)."""


class Answer(NamedTuple):
    """`mailbox` is the internal name asked for.

    `server` and `partition` are set when it was FOUND, and for a "no" that bounces mail also when it was deleted
    lately and its backend may still have it: where it was.  `reason` says why it was not found, for the log and for a
    peer (no paths).  ``unsettled``: TEMPORARY because of the record itself (reserved, held or suspect: 451 4.2.1), not
    because the list can not be trusted now (451 4.4.3).
    """

    verdict: Verdict
    mailbox: bytes = b""
    server: str = ""
    partition: str = ""
    reason: str = ""
    unsettled: bool = False


class Lookup:
    """Answers from the index below `state_dir`, opened when first needed and again, with back-off, after a failure.

    `no_max_age_s` is how old the node's heartbeat may be for an ABSENT.
    """

    def __init__(self, state_dir: Path, rules: NameRules, *, no_max_age_s: float = 2.0) -> None:
        self._state_dir = Path(state_dir)
        self._rules = rules
        self._no_max_age_s = no_max_age_s
        self._index: Index | None = None
        self._failure = ""
        self._retry_s = _RETRY_MIN_S
        self._retry_at = 0.0
        self._refresh_at = 0.0
        self._clock = StampClock()
        self._clock_at = 0.0
        self._plain = Addresses(
            rules.virtdomains,
            rules.default_domain.encode("utf-8"),
            rules.recipient_delimiter.encode("utf-8"),
            rules.postuser.encode("utf-8"),
            rules.downcase,
        )

    def server_of(self, address: bytes) -> str | None:
        """The server of the user at `address`, where that is all there is to say; else None, and `recipient` says more.

        What nearly all mail needs, from the table in memory: nothing here is a "no".
        """
        if self._index is None:
            return None
        if time.monotonic() >= self._clock_at:
            self._watch_clock()
        try:
            return self._index.server_at(address, self._plain)
        except LookupUnavailable:
            return None

    def servers_of(self, addresses: list[bytes]) -> list[str] | None:
        """`server_of` for each of `addresses`; None where it is None for one."""
        if self._index is None:
            return None
        if time.monotonic() >= self._clock_at:
            self._watch_clock()
        try:
            return self._index.servers_at(addresses, self._plain)
        except LookupUnavailable:
            return None

    def _watch_clock(self) -> None:
        """To be called when `_clock_at` is past."""
        self._clock_at = time.monotonic() + _CLOCK_S
        self._clock.jumped()

    def recipient(self, address: bytes) -> Answer:
        """Where mail to `address` goes; an ABSENT here bounces the mail."""
        try:
            name = mailbox_of_address(address, self._rules)
        except InvalidName as error:
            return Answer(Verdict.ABSENT, reason=error.public)
        return self.mailbox(name, bounces=True)

    def mailbox(self, name: bytes, *, bounces: bool = False) -> Answer:
        """Where the mailbox with this internal name is.

        `bounces` says that mail is lost by an ABSENT, so that one just deleted is TEMPORARY.
        """
        try:
            check_name(name)
        except InvalidName as error:
            return Answer(Verdict.ABSENT, name, reason=error.public)
        try:
            index = self._opened()
            if index is None:
                return Answer(Verdict.TEMPORARY, name, reason=self._failure)
            return self._ask(index, name, bounces)
        except LookupUnavailable as error:
            if isinstance(error, IndexUnavailable):
                self.close()  # opened again at the next question
            return Answer(Verdict.TEMPORARY, name, reason=error.public)

    def close(self) -> None:
        """Close the index; the next question opens it again."""
        if self._index is not None:
            self._index.close()
            self._index = None

    def _ask(self, index: Index, name: bytes, bounces: bool) -> Answer:
        if bounces:
            self._clock.jumped()  # or a jump is not known when it matters
        # The entry and the time of a deletion are read at one moment: a mailbox that is made again in between must not
        # look like one that never was.
        entry, deleted_at = index.probe(name)
        if entry is None and not index.fresh_within(self._no_max_age_s):
            if self._refreshed(index):
                entry, deleted_at = index.probe(name)
            if entry is None and not index.fresh_within(self._no_max_age_s):
                return Answer(Verdict.TEMPORARY, name, reason="mailbox list is not known to be up to date")
        if entry is not None:
            return _judge(name, entry)
        if bounces and deleted_at is not None and deleted_at / 1e6 >= self._clock.older_than(RECENTLY_DELETED_S):
            return Answer(Verdict.TEMPORARY, name, reason="mailbox was deleted a moment ago")
        if bounces and index.is_empty:
            # a new node that no backend has written to: every mailbox of the site would be bounced
            return Answer(Verdict.TEMPORARY, name, reason="mailbox list is still empty")
        # A RENAME that was cut off after its DELETE leaves the mailbox where it was: ask there before mail is bounced.
        last = index.last_place(name) if bounces and deleted_at is not None else None
        if last is not None and deleted_at is not None and not index.was_put_aside(name, deleted_at):
            return Answer(Verdict.ABSENT, name, last.server, last.partition, reason="mailbox was deleted")
        return Answer(Verdict.ABSENT, name, reason="no such mailbox")

    def _refreshed(self, index: Index) -> bool:
        """A silent index may be one whose store was replaced: look, once a second."""
        now = time.monotonic()
        if now < self._refresh_at:
            return False
        self._refresh_at = now + _REFRESH_S
        index.refresh()
        return True

    def _opened(self) -> Index | None:
        if self._index is not None:
            return self._index
        now = time.monotonic()
        if now < self._retry_at:
            return None
        try:
            self._index = Index(self._state_dir)
        except LookupUnavailable as error:
            self._failure = f"mailbox list is not available: {error.public}"
            self._retry_at = now + self._retry_s
            self._retry_s = min(2 * self._retry_s, _RETRY_MAX_S)
            return None
        self._retry_s = _RETRY_MIN_S
        return self._index


def _judge(name: bytes, entry: Location) -> Answer:
    if entry.state is State.RESERVED:
        return Answer(Verdict.TEMPORARY, name, reason="mailbox is being created or moved", unsettled=True)
    if entry.flags & _UNSURE:
        reason = "mailbox is held" if entry.flags & Flag.HELD else "mailbox is being verified"
        return Answer(Verdict.TEMPORARY, name, reason=reason, unsettled=True)
    if not entry.server:
        # mode replicated: any server may serve it, and which one is nowhere said
        return Answer(Verdict.TEMPORARY, name, reason="mailbox list names no server")
    return Answer(Verdict.FOUND, name, entry.server, entry.partition)
