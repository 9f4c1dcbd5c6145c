"""The directories of a node, and the lock that says whose they are.

Rule: one state directory belongs to one running node; who comes second is told which process has it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cyrusext.errors import ConfigError, StoreError
from cyrusext.runtime import privileges
from cyrusext.runtime.config import Config


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
