"""A free /24 of 127/8 for each group of servers, so that all of them use the standard ports.

Rule: a network belongs to one user at a time; a lock file (held, not just present) decides, so that parallel test
runs, also of different checkouts, never meet, and a killed run leaves nothing locked.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import socket
import struct
import tempfile
from pathlib import Path
from typing import IO

PORTS = (24, 25, 110, 143, 389, 2003, 2004, 3905)
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


CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
IFF_UP = 1


class OwnNetwork(Network):
    """A network namespace for the calling thread and what it starts, with addresses that are not loopback's.

    Make it in a thread of its own: there is no way back.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no network namespace")
        self.prefix = "10.77.0"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
            for host in range(10, 21):
                name = b"lo:%d" % host
                for request, address in ((SIOCSIFADDR, self.address(host)), (SIOCSIFNETMASK, "255.255.255.0")):
                    family = struct.pack("=H2x4s8x", socket.AF_INET, socket.inet_aton(address))
                    fcntl.ioctl(handle, request, struct.pack("16s16s", name, family))

    def close(self) -> None:
        """The namespace ends with the last of its processes."""
