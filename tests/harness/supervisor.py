"""What systemd does for a service, for the servers of the harness: start again what ends, end what hangs.

Rule: only what systemd.service(5) promises.  A service that ended is started again after a pause, its remaining
processes killed first; one that does not say ``WATCHDOG=1`` in time gets SIGABRT, SIGCONT and then SIGKILL.  While a
server is supervised nobody else starts or kills it: a test calls `crash` and `freeze`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Self

from tests.harness.sandbox import SandboxError
from tests.harness.server import Server
from tests.harness.waiting import wait_until

ABORT_S = 1.0
"""How long a service has to end by SIGABRT (systemd's TimeoutAbortSec, which is far longer)."""


class Supervisor:
    """Keeps `server` running from `start` to `stop`; use it as a context manager.

    `restart_s` is RestartSec; with `on_failure` (Restart=on-failure, else always) one that ended with 0 stays ended.
    `watchdog_s` is WatchdogSec, told to the server; it counts from READY=1 on, and only while `watching`.
    """

    def __init__(
        self, server: Server, *, restart_s: float = 0.1, watchdog_s: float | None = None, on_failure: bool = False
    ) -> None:
        self.server = server
        self.restart_s = restart_s
        self.watching = True
        self.may_restart = threading.Event()
        """Cleared by a test that wants what ended to stay away for a while."""
        self.may_restart.set()
        self.restarts = 0
        self.aborts = 0
        """How often the watchdog ended it."""
        self._on_failure = on_failure
        self._watchdog_s = watchdog_s
        self._heard_at: float | None = None
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = Path(server.state) / "notify"
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        self._socket.settimeout(0.02)
        server.extra_environment["NOTIFY_SOCKET"] = str(path)
        if watchdog_s is not None:
            server.extra_environment["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        self._thread = threading.Thread(target=self._run, name=f"supervisor of {server.name}", daemon=True)

    def start(self) -> Self:
        """Begin; returns at once, `wait_up` waits."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the supervision; the server is left as it is.  Raises what went wrong meanwhile."""
        self._stopping.set()
        self._thread.join(30)
        self._socket.close()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """It still looks after its server."""
        return self._thread.is_alive()

    def crash(self) -> None:
        """kill -9, every process of it."""
        self.server.signal(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP, every process of it; the watchdog's time runs from here."""
        self.server.signal(signal.SIGSTOP)

    def wait_up(self, after: int = 0, timeout_s: float = 60.0) -> None:
        """Wait until it answers and has been started again `after` times."""
        wait_until(
            lambda: self.restarts >= after and self.server.running and self.server.ready(),
            f"{self.server.name} is up again",
            timeout_s,
        )

    # -- inside: the supervisor's thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                if not self.server.running:
                    self._start()
                self._attend()
                if self._stopping.is_set() or self._ended_well():
                    return
                self.server.kill()
                self._stopping.wait(self.restart_s)
                while not self._stopping.is_set() and not self.may_restart.wait(0.02):
                    pass
                self.restarts += 1
        except BaseException as error:  # noqa: BLE001 - shown by stop(), on the test's thread
            self._failure = error

    def _start(self) -> None:
        self._heard_at = None
        with contextlib.suppress(SandboxError):  # it ended at once: the next turn
            self.server.launch()

    def _ended_well(self) -> bool:
        return self._on_failure and self.server.exit_code == 0

    def _attend(self) -> None:
        """Listen to the server until it ends or must be ended."""
        while not self._stopping.is_set() and self.server.running:
            with contextlib.suppress(TimeoutError):
                said = self._socket.recv(4096)
                if b"READY=1" in said or (b"WATCHDOG=1" in said and self._heard_at is not None):
                    self._heard_at = time.monotonic()
            silent_s = time.monotonic() - self._heard_at if self._heard_at is not None else 0.0
            if self._watchdog_s is not None and self.watching and silent_s > self._watchdog_s:
                self._abort()
                return

    def _abort(self) -> None:
        self.aborts += 1
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self.server.pid, resource.RLIMIT_CORE, (0, 0))  # its core would tell nothing
            os.kill(self.server.pid, signal.SIGABRT)
            os.kill(self.server.pid, signal.SIGCONT)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.server.running, "it aborts", ABORT_S)
