"""How the event loop and the writer's thread wake each other: an eventfd each way.

Rule: a bell is rung by a system call during which other threads may have the interpreter, so that who is woken can go
on at once.  (A `threading.Condition` wakes a thread while the waker still holds it; on one CPU each change then costs
four more changes of threads.)
"""

from __future__ import annotations

import contextlib
import os
import select


class Bell:
    """Wakes who waits for it; a ring before the wait is not lost, and several are one."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def fileno(self) -> int:
        return self._fd

    def ring(self) -> None:
        os.eventfd_write(self._fd, 1)

    def hush(self) -> None:
        """Forget that it was rung."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def wait(self, timeout_s: float | None) -> None:
        """Wait until it is rung, or for so long."""
        self._poll.poll(None if timeout_s is None else timeout_s * 1000)
        self.hush()

    def close(self) -> None:
        os.close(self._fd)
