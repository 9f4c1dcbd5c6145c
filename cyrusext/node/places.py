"""The directories of a node, the lock that says whose they are, and what the store in them is of.

Rule: one state directory belongs to one running node; who comes second is told which process has it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cyrusext.directory.modes import Mode, compatible
from cyrusext.errors import ConfigError, StoreError
from cyrusext.replica.rebuild import ensure_sound
from cyrusext.runtime import logging, privileges
from cyrusext.runtime.config import Config
from cyrusext.store import Store

log = logging.get()

SHOWN_FINDINGS = 3
"""Of those that make a store a damaged one, how many are logged."""


def prepare_directories(config: Config) -> None:
    """Make state_dir and run_dir where they are missing, for the user that the node becomes.  Raises ConfigError."""
    uid, gid = privileges.resolve(config.node.user, config.node.group)
    for place in (config.node.state_dir, config.node.run_dir):
        try:
            if not place.is_dir():
                place.mkdir(mode=0o755, parents=True)
                if os.geteuid() == 0:
                    os.chown(place, uid, gid)
        except OSError as error:
            raise ConfigError(f"{place} can not be made: {error.strerror}") from error


@contextlib.contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Hold the lock of `state_dir`; raises StoreError, naming the process, when another node has it."""
    path = state_dir / "node.lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            raise StoreError(f"{state_dir} is in use by another node (process {pid})") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def look_at_store(config: Config) -> None:
    """Have a damaged store built anew before it is opened, and say so; to be called with `state_lock` held.

    Raises StoreVersion, StoreFull and StoreError.
    """
    node = config.node
    rebuilt = ensure_sound(node.state_dir, mode=config.mupdate.mode, follows=bool(node.follow))
    if rebuilt is None:
        return
    log.error("store.damaged", findings="; ".join(rebuilt.findings[:SHOWN_FINDINGS]), kept=str(rebuilt.kept))
    log.error(
        "store.rebuilt",
        records=rebuilt.records,
        lost=rebuilt.lost,
        action="let the backends push and end the refill, or restore a backup:"
        " docs/operations/faults.md, 'A damaged store'",
    )


def settle_mode(store: Store, mode: Mode) -> None:
    """Serve `store` under `mode` from now on; raises ConfigError where its records have locations of another form."""
    before = Mode(store.mode or Mode.STANDARD.value)
    if before is mode:
        return
    stat = store.stat()
    if stat.entries and not compatible(before, mode):
        raise ConfigError(
            f'[mupdate] mode: the store has {stat.entries} records of mode "{before.value}", whose locations are of'
            f' another form than those of "{mode.value}"; go on with that mode, or begin with an empty state_dir'
        )
    store.mode = mode.value
    log.warning("node.mode_changed", before=before.value, mode=mode.value, entries=stat.entries)
