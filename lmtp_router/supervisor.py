"""The parent of the workers: binds, drops privileges, forks, starts again what crashed, stops all.

Rule: the parent holds every listening socket and does nothing with mail, so that a worker that dies costs its own
sessions and nothing else; no worker outlives the parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cyrusext.net import address
from cyrusext.net.address import Address, TcpAddress, UnixAddress
from cyrusext.runtime import logging, systemd

STOP_S = 40.0
"""How long workers may take to drain before they are killed."""
FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 5.0
"""Connections wait in a dead worker's queue: it must not be long."""
STEADY_S = 60.0
"""A worker that lived this long starts again at once."""

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}

log = logging.get()

Work = Callable[[list[socket.socket], Callable[[], None], int], int]
"""What a worker does: its sockets, what to call when it serves, a descriptor that ends with the parent; exit status."""


def bind_workers(addresses: Sequence[Address], workers: int) -> list[list[socket.socket]]:
    """Return the listening sockets of each worker: TCP ones of its own (SO_REUSEPORT), UNIX ones shared.

    Raises ConfigError when an address can not be had, also when another daemon has it with SO_REUSEPORT.
    """
    local = [place for place in addresses if isinstance(place, UnixAddress)]
    # Bound once without SO_REUSEPORT, for two daemons that share a port by accident would share the mail too.
    probes = address.bind_all([place for place in addresses if isinstance(place, TcpAddress)])
    places = [TcpAddress(*probe.getsockname()[:2]) for probe in probes]
    for probe in probes:
        probe.close()
    shared = address.bind_all(local)
    bound: list[list[socket.socket]] = []
    for _ in range(workers):
        bound.append([*address.bind_all(places, reuse_port=True), *shared])
    for place in (*places, *local):
        log.info("lmtp.listening", address=str(place), workers=workers)
    return bound


class _Worker:
    """One place for a worker process, taken by one after the other."""

    def __init__(self, number: int, sockets: list[socket.socket]) -> None:
        self.number = number
        self.sockets = sockets
        self.pid = 0
        self.started = 0.0
        self.pause_s = 0.0
        self.start_at = 0.0


class Supervisor:
    """Keeps one process per entry of `bound` running `work`."""

    def __init__(self, bound: list[list[socket.socket]], work: Work) -> None:
        self._workers = [_Worker(number, sockets) for number, sockets in enumerate(bound)]
        self._work = work
        self._unix_paths = {
            sock.getsockname() for sockets in bound for sock in sockets if sock.family == socket.AF_UNIX
        }
        self._life_read, self._life_write = os.pipe()
        self._ready_read, self._ready_write = os.pipe()
        os.set_blocking(self._ready_read, False)
        self._unready = len(bound)
        self._exit_code = 0
        self._stop_by = 0.0

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit status.  Workers that fail before all served end the daemon."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            while True:
                self._start_due()
                self._count_ready()
                number = self._wait()
                self._reap()
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._stop(signal.Signals(number).name, 0)
                if number == signal.SIGHUP:
                    log.warning("lmtp.reload_ignored", reason="configuration is read at the start only")
                if self._stop_by:
                    if not any(worker.pid for worker in self._workers):
                        log.info("lmtp.stopped")
                        return self._exit_code
                    if time.monotonic() > self._stop_by:
                        self._signal(signal.SIGKILL)
        finally:
            self._signal(signal.SIGKILL)
            self._unlink()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _wait(self) -> int:
        period_s = 0.02 if self._unready else min(systemd.watchdog_period_s() or 1.0, 1.0)
        info = signal.sigtimedwait(_SIGNALS, period_s)
        systemd.notify("WATCHDOG=1")
        return info.si_signo if info is not None else 0

    def _start_due(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if not worker.pid and now >= worker.start_at and not self._stop_by:
                worker.started = now
                worker.pid = os.fork()
                if worker.pid == 0:
                    self._be_worker(worker)

    def _be_worker(self, worker: _Worker) -> None:
        """The child: never returns."""
        code = 70
        try:
            os.close(self._life_write)
            os.environ.pop("NOTIFY_SOCKET", None)
            os.environ.pop("WATCHDOG_USEC", None)
            for other in self._workers:
                if other is not worker:
                    for sock in other.sockets:
                        if sock not in worker.sockets:
                            sock.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            code = self._work(worker.sockets, self._tell_ready, self._life_read)
        except BaseException as error:
            # Whatever it was: the child must not go on as a second parent.
            log.critical("lmtp.worker_failed", worker=worker.number, error=error, exc_info=error)
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(code)

    def _tell_ready(self) -> None:
        os.write(self._ready_write, b"r")

    def _count_ready(self) -> None:
        if not self._unready:
            return
        with contextlib.suppress(BlockingIOError):
            self._unready -= len(os.read(self._ready_read, self._unready))
        if not self._unready:
            log.info("lmtp.ready", workers=len(self._workers), pid=os.getpid())
            systemd.notify("READY=1")

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = next((worker for worker in self._workers if worker.pid == pid), None)
            if worker is None:
                continue
            worker.pid = 0
            if self._stop_by:
                continue
            code = os.waitstatus_to_exitcode(status)
            now = time.monotonic()
            if self._unready:
                self._stop("a worker failed at its start", code if code > 0 else 70)
                continue
            steady = now - worker.started >= STEADY_S
            worker.pause_s = FIRST_PAUSE_S if steady else min(max(worker.pause_s * 2, FIRST_PAUSE_S), LAST_PAUSE_S)
            worker.start_at = now + worker.pause_s
            log.error("lmtp.worker_died", worker=worker.number, pid=pid, status=code, again_in_s=worker.pause_s)

    def _stop(self, reason: str, code: int) -> None:
        if self._stop_by:
            return
        log.info("lmtp.stopping", reason=reason)
        systemd.notify("STOPPING=1")
        self._exit_code = code
        self._stop_by = time.monotonic() + STOP_S
        for sock in {sock for worker in self._workers for sock in worker.sockets}:
            sock.close()
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for worker in self._workers:
            if worker.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    def _unlink(self) -> None:
        """Remove the UNIX sockets; where we may not (privileges are gone), the next start replaces them."""
        for path in self._unix_paths:
            with contextlib.suppress(OSError):
                Path(path).unlink()
