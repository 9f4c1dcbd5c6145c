"""All processes of one sandbox, found by their mount namespace.

Rule: nothing else is ever signalled.  A server's children may leave its process group and outlive it (a killed
cyrmaster leaves imapd processes that go on answering), but none can leave its mount namespace; and while this object
keeps the namespace open, the kernel can not give its number to another one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


class Namespace:
    """The mount namespace of the process `pid`, which must not be our own."""

    def __init__(self, pid: int) -> None:
        self._handle = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._number = os.fstat(self._handle).st_ino
        if self._number == Path("/proc/self/ns/mnt").stat().st_ino:
            os.close(self._handle)
            raise ValueError(f"process {pid} is not in a sandbox")

    def processes(self) -> list[int]:
        """Return the pids of everybody inside, zombies excepted."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if (entry / "ns/mnt").stat().st_ino == self._number:
                        found.append(int(entry.name))
        return found

    def signal(self, number: int) -> list[int]:
        """Send a signal to everybody inside; returns whom it was sent to."""
        pids = self.processes()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def reap(self, within_s: float = 10.0) -> None:
        """Kill everybody inside, again and again, since a process may fork while it is being killed."""
        deadline = time.monotonic() + within_s
        while self.signal(signal.SIGKILL):
            if time.monotonic() > deadline:
                raise TimeoutError("a sandbox does not die")
            time.sleep(0.005)

    def close(self) -> None:
        """Let the namespace go; its mounts vanish with it."""
        os.close(self._handle)
