"""Copies of the store: taken beside a node that writes it, and put back where none runs.

Rule: a copy is complete and on disk when it has its name, and nothing is ever written over.  A copy says of itself that
its records may be out of date, so that a node which is started on it begins with a refill (cyrusext/mupdate/refill.py).
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import cyrusext
from cyrusext.errors import InputError, NodeUnavailable, StoreCorrupt, StoreError, StoreFull
from cyrusext.manage.control import ControlClient
from cyrusext.mupdate.refill import KEY, MARKER
from cyrusext.replica.copying import STORE_ID
from cyrusext.store import Store, copy_to
from cyrusext.store.structure import problems

_PARTIAL = ".partial"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def create(state_dir: Path, target: Path) -> None:
    """Write a copy of the store below `state_dir` to the new directory `target`.

    All that was acknowledged before is in it.  Raises InputError where `target` exists, StoreCorrupt where the copy is
    not sound, StoreFull and StoreError; then nothing is left of it.
    """
    if os.path.lexists(target):
        raise InputError(f"{target} exists already")
    partial = target.with_name(target.name + _PARTIAL)
    with _told(partial):
        _remove_partial(partial)
        partial.mkdir(mode=0o700)
        try:
            _copy(state_dir, partial)
            partial.rename(target)
        except BaseException:
            _remove_partial(partial)
            raise
        _sync_directory(target.parent)


def restore(source: Path, state_dir: Path, run_dir: Path) -> Path | None:
    """Put the copy `source` in the place of the store; return where the store that was there is kept.

    Raises InputError where a node runs or `source` is no copy, StoreCorrupt where it is damaged, StoreFull and
    StoreError; then the store is as it was.
    """
    if findings := problems(source):
        raise StoreCorrupt(f"{source} is damaged: {findings[0]}")
    with cyrusext.open(source) as index:
        if not index.may_be_old:
            raise InputError(f"{source} is no backup: it does not say that its records may be out of date")
    _check_stopped(state_dir, run_dir)
    store, new = state_dir / "store", state_dir / f"store{_PARTIAL}"
    owner = (store if store.exists() else state_dir).stat()
    with _told(new):
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(mode=0o750)
        with (source / "store/data.mdb").open("rb") as reading, (new / "data.mdb").open("xb") as writing:
            shutil.copyfileobj(reading, writing, 1 << 20)
            writing.flush()
            os.fsync(writing.fileno())
        for path in (new, new / "data.mdb"):
            os.chown(path, owner.st_uid, owner.st_gid)
        (new / "data.mdb").chmod(0o640)
        kept = None
        if store.exists():
            stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            kept = store.rename(state_dir / f"store.before-{stamp}")
        new.rename(store)
        _sync_directory(state_dir)
    return kept


def mark(state_dir: Path) -> Path:
    """Have the next node that starts in `state_dir` begin with a refill; return the file that says so."""
    marker = state_dir / MARKER
    with _told(marker):
        marker.touch()
        owner = state_dir.stat()
        os.chown(marker, owner.st_uid, owner.st_gid)
    return marker


def _copy(state_dir: Path, partial: Path) -> None:
    (partial / "store").mkdir(mode=0o700)
    with (partial / "store/data.mdb").open("xb") as file:
        copy_to(state_dir, file.fileno())
        os.fsync(file.fileno())
    if findings := problems(partial):
        raise StoreCorrupt(
            f"the store is damaged: {findings[0]}; restart the node, which replaces it by what can be read"
        )
    scratch = partial / "run"
    with Store.open(partial, run_dir=scratch) as store, store.begin() as transaction:
        transaction.set_text(KEY, str(store.seq))
        transaction.set_text(STORE_ID, "")  # it will go another way than the store that it is a copy of
    shutil.rmtree(scratch)
    for name in ("lock.mdb", "writer.lock"):
        (partial / "store" / name).unlink()
    (partial / "store").chmod(0o700)
    _sync_directory(partial / "store")
    _sync_directory(partial)


def _check_stopped(state_dir: Path, run_dir: Path) -> None:
    with contextlib.suppress(NodeUnavailable), ControlClient(run_dir):
        raise InputError("the node runs: stop it first")
    with contextlib.suppress(FileNotFoundError):
        lock = os.open(state_dir / "node.lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("the node runs: stop it first") from None
        finally:
            os.close(lock)


def _remove_partial(partial: Path) -> None:
    """Remove what a backup that was killed has left: nobody else's files have such a name."""
    if partial.exists():
        shutil.rmtree(partial)


@contextlib.contextmanager
def _told(place: Path) -> Iterator[None]:
    """Have an error of the file system say where, and be one of ours."""
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in _NO_ROOM else StoreError
        raise kind(f"{error.filename or place}: {error.strerror}") from error


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
