"""The refill of this node's store: begun by a restored backup or an operator, ended by an operator, kept in the store.

Rule: it survives every restart, and it ends only when every server that is known has told what it has, or by force.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from cyrusext.directory.base import Directory
from cyrusext.directory.embedded import EmbeddedDirectory
from cyrusext.errors import RefillIncomplete, StoreError
from cyrusext.mupdate.refill import KEY, MARKER, Refill
from cyrusext.replica.rebuild import REBUILT_FROM
from cyrusext.replica.writer import GroupCommit
from cyrusext.runtime import logging
from cyrusext.store import Store

log = logging.get()


class RefillRequest(msgspec.Struct, tag_field="op", tag="refill"):
    """Begin a refill, or end it; `force` ends it though servers are missing."""

    action: Literal["begin", "end"]
    force: bool = False


def load(store: Store, state_dir: Path, *, decides: bool = True) -> Refill:
    """Return the refill that the store is in; begin one where the marker asks for it.

    A node that follows another one has none: it takes the other's word.  Raises StoreError.
    """
    marker = state_dir / MARKER
    text = store.text(KEY)
    if not decides:
        if text:
            _keep(store, None)
        return Refill()
    upto = int(text) if text else None
    if marker.exists():
        upto = store.seq
        _keep(store, upto)
        try:
            marker.unlink()
        except OSError as error:
            raise StoreError(f"{marker} can not be removed: {error.strerror}") from error
    if upto is not None:
        log.warning("refill.active", upto=upto, reason="the records may be out of date; see docs/operations/backup.md")
    return Refill(upto)


class Refilling:
    """Begins and ends it while the node runs."""

    def __init__(self, store: Store, writer: GroupCommit, refill: Refill, directory: Directory) -> None:
        self._store, self._writer, self._refill, self._directory = store, writer, refill, directory
        self.rebuilt_from = store.text(REBUILT_FROM)
        """Where the damaged store is kept that this one was built of, "" when it was not or its refill has ended."""
        self._tell()

    async def answer(self, request: RefillRequest, known: Iterable[str]) -> None:
        """Do what `request` asks; `known` are the servers of the configuration.

        Raises RefillIncomplete, naming the servers that have not told yet, and StoreError.
        """
        if request.action == "begin":
            await self._begin()
        elif self._refill.active:
            await self._end(set(known), request.force)

    def status(self) -> dict[str, object]:
        """Return what `cyrusext status` shows."""
        return {
            "active": self._refill.active,
            "pushed": sorted(self._refill.pushed),
            "missing": self._missing(()) if self._refill.active else [],
            "rebuilt_from": self.rebuilt_from,
        }

    async def _begin(self) -> None:
        upto = self._store.seq
        await self._writer.call_between(lambda: _keep(self._store, upto))
        self._refill.begin(upto)
        self._tell()
        log.warning("refill.begun", upto=upto)

    async def _end(self, known: set[str], force: bool) -> None:
        missing = self._missing(known)
        if missing and not force:
            raise RefillIncomplete(f"not pushed yet (ctl_mboxlist -m): {', '.join(missing)}")
        await self._writer.call_between(lambda: _keep(self._store, None))
        self._refill.end()
        self.rebuilt_from = ""
        self._tell()
        log.warning("refill.ended", pushed=" ".join(sorted(self._refill.pushed)), missing=" ".join(missing))

    def _tell(self) -> None:
        if isinstance(self._directory, EmbeddedDirectory):
            self._directory.set_stale(self._refill.upto)

    def _missing(self, known: Iterable[str]) -> list[str]:
        return self._refill.missing([*known, *(name for name, live in self._store.stat().servers.items() if live)])


def _keep(store: Store, upto: int | None) -> None:
    with store.begin() as transaction:
        transaction.set_text(KEY, "" if upto is None else str(upto))
        if upto is None:
            transaction.set_text(REBUILT_FROM, "")
