"""What a server costs: CPU time, memory, system calls, of all the processes that it has and has had.

Rule: CPU time is the kernel's, of a control group of its own (cgroup v2: it counts processes that have ended, too, in
microseconds); where none can be made, of /proc/PID/stat of all its processes, in ticks.  A table says which.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.rig.generator import LoadFailed
from tests.harness.server import Server
from tests.harness.side_by_side import SERVER_CPU, cpu_seconds, pin, processes
from tests.harness.waiting import wait_until

SAMPLE_S = 0.1


def _own_group() -> Path | None:
    """The directory of the cgroup v2 that this process is in; None where there is none."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind == "cgroup2":
            mine = [at[3:] for at in Path("/proc/self/cgroup").read_text().splitlines() if at.startswith("0::")]
            inside = Path(point) / mine[0].lstrip("/") if mine else Path(point)
            return inside if inside.is_dir() else Path(point)
    return None


class Account:
    """The processes of `servers`, kept on one CPU and in one control group."""

    def __init__(self, name: str, servers: Sequence[Server]) -> None:
        self._servers = list(servers)
        self._group = self._make_group(name)
        for server in self._servers:
            pin(server, SERVER_CPU)
            self._gather(server)

    def _make_group(self, name: str) -> Path | None:
        parent = _own_group()
        if parent is None:
            return None
        group = parent / f"cyx-bench-{os.getpid()}-{name}"
        try:
            group.mkdir()
        except OSError:
            return None
        return group

    def _gather(self, server: Server) -> None:
        """Move everything in; what moved processes start is in from its beginning."""
        if self._group is None:
            return
        members = self._group / "cgroup.procs"
        while missing := set(processes(server)) - set(map(int, members.read_text().split())):
            for pid in missing:
                with contextlib.suppress(ProcessLookupError):
                    members.write_text(str(pid))

    @property
    def exact(self) -> bool:
        """Whether the kernel counts in microseconds, in a group."""
        return self._group is not None

    @property
    def usage(self) -> Path | None:
        """The file in which the kernel counts."""
        return self._group / "cpu.stat" if self._group else None

    def ticks_s(self) -> float:
        """CPU seconds of the processes that there are now."""
        return sum(cpu_seconds(server) for server in self._servers)

    def pids(self) -> list[int]:
        return [pid for server in self._servers for pid in processes(server)]

    def close(self) -> None:
        """Give the group back, once its processes have ended."""
        if self._group is not None:
            members = self._group / "cgroup.procs"
            wait_until(lambda: not members.read_text(), "a control group is empty", 30)
            self._group.rmdir()

    # -- memory -------------------------------------------------------------------------------------------------------

    def memory_mib(self) -> tuple[float, float]:
        """Return proportional memory of all processes together, and the resident memory of the largest."""
        together, largest = 0, 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                together += _kib(text, "Pss")
                largest = max(largest, _kib(text, "Rss"))
        return together / 1024, largest / 1024

    @contextlib.contextmanager
    def peaks(self) -> Iterator[Callable[[], tuple[float, float]]]:
        """Look at the memory all the time; what is given says the highest values that were seen."""
        seen = [(0.0, 0.0)]
        over = threading.Event()

        def watch() -> None:
            while not over.wait(SAMPLE_S):
                seen.append(self.memory_mib())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield lambda: (max(both for both, _ in seen), max(one for _, one in seen))
        finally:
            over.set()
            watcher.join(30)

    # -- system calls -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def calls(self, summary: Path) -> Iterator[Callable[[], int]]:
        """Count system calls with strace, which slows everything down; what is given ends it and says how many."""
        traced = self.pids()
        command = ["strace", "-c", "-f", "-q", "-o", str(summary)]
        tracer = subprocess.Popen([*command, *(word for pid in traced for word in ("-p", str(pid)))])

        def count() -> int:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(30)
            found = re.search(r"^\s*100\.00\s+\S+\s+\S+\s+(\d+)\s.*total$", summary.read_text(), re.MULTILINE)
            if found is None:
                raise LoadFailed(f"strace counted nothing:\n{summary.read_text()}")
            return int(found[1])

        try:
            wait_until(lambda: tracer.poll() is not None or all(map(_is_traced, traced)), "strace follows", 30)
            if tracer.poll() is not None:
                raise LoadFailed(f"strace ended with {tracer.returncode}")
            yield count
        finally:
            if tracer.poll() is None:
                tracer.send_signal(signal.SIGINT)
                tracer.wait(30)


def _kib(rollup: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", rollup, re.MULTILINE)
    return int(found[1]) if found else 0


def _is_traced(pid: int) -> bool:
    try:
        return re.search(r"^TracerPid:\t0$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is None
    except (FileNotFoundError, ProcessLookupError):
        return True  # it has ended
