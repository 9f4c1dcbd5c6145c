"""The directory of a node that follows another one: that node decides, and this one has a copy.

Rule: nothing is decided here, and nothing is taken for known that the leader has not confirmed.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from cyrusext.directory.base import Outcome
from cyrusext.directory.ownership import Change
from cyrusext.runtime import logging

log = logging.get()


class Forwarding(Protocol):
    """Takes changes to the leader."""

    def write(self, change: Change, by: str) -> asyncio.Future[Outcome]: ...


class Link(Protocol):
    """The connection to the leader, be it up or down."""

    @property
    def is_complete(self) -> bool: ...

    @property
    def is_fresh(self) -> bool: ...

    @property
    def forwarding(self) -> Forwarding: ...

    async def catch_up(self) -> bool: ...


class FollowDirectory:
    """The contract of directory.base.Directory on a copy and the way to its leader."""

    def __init__(self, link: Link, leader: str) -> None:
        self._link, self._leader = link, leader

    @property
    def may_answer(self) -> bool:
        return self._link.is_complete

    @property
    def is_fresh(self) -> bool:
        return self._link.is_fresh

    def write(self, change: Change, by: str) -> asyncio.Future[Outcome]:
        return self._link.forwarding.write(change, by)

    async def catch_up(self) -> bool:
        return await self._link.catch_up()

    def claim(self, server: str, seconds: float) -> None:
        """Claims are the leader's; the control socket refuses them here."""
        log.error("backend.claim_refused", server=server, seconds=seconds, leader=self._leader)

    def windows(self) -> dict[str, dict[str, float]]:
        return {}

    @property
    def taken_over(self) -> int:
        return 0
