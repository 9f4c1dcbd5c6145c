"""What every benchmark of two servers needs: a place for both, one CPU for each of them in turn, their own clocks.

Rule: CPU time is that of the server's processes, children included, as the kernel counts it; nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.network import Network
from tests.harness.server import Server

SERVER_CPU, CLIENT_CPU = 0, 1


@contextmanager
def workplace() -> Iterator[tuple[Path, Network]]:
    """A directory and addresses for the servers; whatever still runs at the end is killed."""
    state, network = Path(tempfile.mkdtemp(prefix="cyx-bench-")), Network()
    try:
        yield state, network
    finally:
        for server in list(Server.live):
            server.kill()
            server.close()
        network.close()
        shutil.rmtree(state, ignore_errors=True)


def processes(server: Server) -> list[int]:
    """Return the pids of everything that `server` has started, itself included."""
    assert server._running is not None
    return list(server._running.namespace.processes())


def cpu_seconds(server: Server) -> float:
    """CPU seconds that `server` has used since it was started, to the kernel's tick."""
    ticks = 0
    for pid in processes(server):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def pin(server: Server, cpu: int) -> None:
    """Keep all threads that `server` has, and those that they will start, on one CPU."""
    threads = [Path(f"/proc/{pid}/task") for pid in processes(server)]
    while any(_moved(int(thread.name), cpu) for tasks in threads for thread in _entries(tasks)):
        continue  # one that was not moved yet may have started another


def _entries(directory: Path) -> list[Path]:
    """What is in a directory of /proc; nothing when its process has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return list(directory.iterdir())
    return []


def _moved(thread: int, cpu: int) -> bool:
    """Move one thread; False when it was there already, or has ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        if os.sched_getaffinity(thread) != {cpu}:
            os.sched_setaffinity(thread, {cpu})
            return True
    return False
