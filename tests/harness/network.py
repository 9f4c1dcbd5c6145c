"""A free /24 of 127/8 for each group of servers, so that all of them use the standard ports.

Rule: a network belongs to one user at a time; a lock file (held, not just present) decides, so that parallel test
runs, also of different checkouts, never meet, and a killed run leaves nothing locked.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

PORTS = (24, 25, 110, 143, 2003, 2004, 3905)
"""What the servers of the harness listen on."""


class Network:
    """The addresses ``127.x.y.1`` to ``127.x.y.254``, ours until `close`."""

    def __init__(self) -> None:
        home = Path(tempfile.gettempdir()) / "cyrusext-networks"
        home.mkdir(mode=0o777, exist_ok=True)
        candidates = [(x, y) for x in range(64, 68) for y in range(256)]
        random.Random(os.getpid()).shuffle(candidates)
        for x, y in candidates:
            lock = (home / f"127.{x}.{y}").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            self._lock: IO[str] = lock
            self.prefix = f"127.{x}.{y}"
            self._check_ports()
            return
        raise RuntimeError(f"all networks are locked, see {home}")

    def _check_ports(self) -> None:
        """A server that listens on *all* addresses of this machine is in the way: say so before anything starts."""
        for port in PORTS:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.address(1), port))
                    probe.listen(1)
                except OSError as error:
                    self.close()
                    raise RuntimeError(
                        f"the test servers need port {port} on 127.64.0.0/14 and something on this machine listens on"
                        f" all addresses: {error.strerror}"
                    ) from error

    def address(self, host: int) -> str:
        return f"{self.prefix}.{host}"

    def close(self) -> None:
        self._lock.close()
