"""A damaged store is found before LMDB follows it, kept aside, and built anew from what can still be read of it.

Rule: nothing of a damaged store is written or deleted, and a store has its place only when it is complete.  What was
built of one may be old and may lack records, and says so until the backends have told what they have (a refill): nobody
hears a "no" from it, and no backend is told of another owner (DESIGN rules 1 and 4).
"""

from __future__ import annotations

import datetime
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from cyrusext.errors import StoreError, StoreFull
from cyrusext.mupdate.refill import KEY
from cyrusext.replica.copying import FILLING, FOLLOWED, STORE_ID
from cyrusext.store import Store
from cyrusext.store.structure import Salvage, problems

REBUILT_FROM = "rebuilt_from"
"""Key of the name under which the damaged store is kept that this one was built of; "" once its refill has ended."""

_REBUILDING = "store.rebuilding"
_REBUILT = "store.rebuilt"


class Rebuilt(NamedTuple):
    """What became of a damaged store: where it is now, and what the new one has (tombstones included) and lacks.

    `lost` counts the records that were found and could not be read; those of which nothing is left are not counted.
    """

    findings: list[str]
    kept: Path
    records: int
    lost: int


def ensure_sound(state_dir: Path, *, mode: str, follows: bool) -> Rebuilt | None:
    """Look at the store below `state_dir`, which nobody has open, and build it anew where it is damaged.

    `mode` is that of the murder, where the store does not tell any more; a node that `follows` takes its records from
    the other one, all of them.  Raises StoreVersion, StoreFull and StoreError; then the store is as it was.
    """
    store, rebuilt = state_dir / "store", state_dir / _REBUILT
    try:
        if not store.exists() and rebuilt.exists():  # it died between the two renames below
            rebuilt.rename(store)
            _sync(state_dir)
        findings = problems(state_dir)
        if not findings:
            return None
        salvage = Salvage(store / "data.mdb")
        for left in (state_dir / _REBUILDING, rebuilt):
            if left.exists():
                shutil.rmtree(left)
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = state_dir / f"store.damaged-{stamp}"
        _build(state_dir / _REBUILDING, salvage, kept.name, mode=mode, follows=follows)
        (state_dir / _REBUILDING / "store").rename(rebuilt)
        shutil.rmtree(state_dir / _REBUILDING)
        _sync(state_dir)
        store.rename(kept)
        rebuilt.rename(store)
        _sync(state_dir)
    except StoreFull as error:
        raise StoreFull(f"the store is damaged, and there is no room to build it anew beside it: {error}") from error
    except OSError as error:
        raise StoreError(f"the store is damaged and can not be built anew: {error}") from error
    return Rebuilt(findings, kept, len(salvage), salvage.lost)


def _build(place: Path, salvage: Salvage, kept: str, *, mode: str, follows: bool) -> None:
    place.mkdir(mode=0o700)
    with Store.open(place, run_dir=place / "run") as store:
        for batch in salvage.batches():
            with store.begin() as transaction:
                for record in batch:
                    transaction.put_copied(record)
        store.mode = salvage.mode or mode
        with store.begin() as transaction:
            transaction.set_text(KEY, str(store.seq))
            transaction.set_text(REBUILT_FROM, kept)
            # Its change log has gaps, like that of a copy; as a copy it was, or is, not complete.
            incomplete = follows or salvage.followed == FILLING
            transaction.set_text(FOLLOWED, FILLING if incomplete else "no more")
            if incomplete:
                transaction.set_text(STORE_ID, "")
    for name in ("lock.mdb", "writer.lock"):
        (place / "store" / name).unlink()
    for path in (place / "store/data.mdb", place / "store"):
        _sync(path)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
