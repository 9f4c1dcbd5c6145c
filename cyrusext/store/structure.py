"""The store's file looked at without LMDB: is it sound, and what can still be read of it?

Rule: nothing is written, and nothing in the file is believed before it was checked (csrc structure.c, salvage.c).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cyrusext.errors import CyrusExtError, StoreCorrupt, StoreError, StoreVersion
from cyrusext.index import _structure
from cyrusext.model import MailboxRecord

_ERRORS: dict[int, type[CyrusExtError]] = {0: StoreError, -4: StoreCorrupt, -5: StoreVersion}
"""Codes of cyrusext.h (CYX_ECORRUPT, CYX_EVERSION)."""
_BATCH = 5000


def problems(state_dir: Path) -> list[str]:
    """Return what is wrong with the store below `state_dir`, at most twenty findings; none where there is no store.

    Nobody may be writing it, nor have it open in this process.  Raises StoreVersion, and StoreError where it can not be
    read.
    """
    return _structure.check(os.fsencode(state_dir), _ERRORS) or []


class Salvage:
    """What can be read of the damaged store in ``data.mdb``: records with a right checksum, the newest of each name."""

    def __init__(self, data: Path) -> None:
        self._found = _structure.Salvage(os.fsencode(data), _ERRORS)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def lost(self) -> int:
        """Records that are there and can not be read; those of which nothing is left are not counted."""
        return self._found.lost

    @property
    def mode(self) -> str:
        """What `Store.mode` was; "" where that is lost."""
        return self._found.mode

    @property
    def followed(self) -> str:
        """What the store said of the one that it was a copy of (replica.copying), "" for nothing."""
        return self._found.followed

    def batches(self) -> Iterator[list[MailboxRecord]]:
        """The records, tombstones too, in Cyrus' order."""
        for first in range(0, len(self), _BATCH):
            yield self._found.records(first, _BATCH)
