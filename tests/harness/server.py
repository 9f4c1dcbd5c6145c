"""What all servers of the harness have in common: start, stop, kill, hang, and a log that is looked at.

Rule: a server that is stopped has left no process and no core, and nothing in its log that is an error and was not
expected: `stop` raises ServerTrouble otherwise.  Only processes of its own sandbox are ever signalled.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from tests.harness.roots import Root
from tests.harness.sandbox import CHECKOUT, Running, Sandbox
from tests.harness.waiting import wait_until


class ServerTrouble(AssertionError):
    """A server did not start, or did not end cleanly; the text says what was found."""


class Server:
    """One real server.  Subclasses say what is run, when it is ready and what its log means."""

    NOISE: ClassVar[dict[str, str]] = {}
    """Pattern of a harmless line -> why it is harmless."""
    FATAL: ClassVar[tuple[str, ...]] = ()
    """Patterns of lines that are trouble whatever their priority."""
    TERM_TIMEOUT_S: ClassVar[float] = 20.0

    live: ClassVar[list[Server]] = []
    """Every server that is not closed; a failed test shows the ends of their logs."""

    def __init__(self, name: str, address: str, state: Path, root: Root | None) -> None:
        self.name = name
        self.address = address
        self.state = state
        state.mkdir(parents=True, exist_ok=True)
        state.chmod(0o755)  # servers change to users of their own; only the directories above keep strangers out
        self.log = state / "log"
        self.log.touch()
        self.output = state / "output"
        self.sandbox = Sandbox(state, root)
        self._running: Running | None = None
        self._catcher: subprocess.Popen[bytes] | None = None
        self._expected: list[str] = []
        self._checked = 0
        self._hung = False
        self.extra_environment: dict[str, str] = {}
        """What a test or a supervisor adds to its environment."""

    # -- what a subclass fills in ---------------------------------------------------------------------------------

    def command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    def is_error(self, line: str) -> bool:
        """Say whether a line of the log is of a priority that must not occur."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    # -- life -----------------------------------------------------------------------------------------------------

    @property
    def exit_code(self) -> int | None:
        """How its leader ended, None while it runs or when it was killed and forgotten."""
        return None if self._running is None else self._running.process.poll()

    @property
    def pid(self) -> int:
        if self._running is None:
            raise ServerTrouble(f"{self.name} is not running")
        return self._running.pid

    @property
    def running(self) -> bool:
        return self._running is not None and self._running.process.poll() is None

    def start(self, timeout_s: float = 30.0) -> Self:
        """Start and wait until it answers.  Raises ServerTrouble with its output and log when it does not."""
        self.launch()
        try:
            wait_until(lambda: not self.running or self.ready(), f"{self.name} answers", timeout_s)
            if self._running is not None and not self.running:
                raise ServerTrouble(f"it ended with {self._running.process.returncode}")
        except AssertionError as error:
            shown = self.tail()
            self.kill()
            raise ServerTrouble(f"{self.name} did not start: {error}\n{shown}") from error
        return self

    def launch(self) -> None:
        """Start without waiting, for a server that is meant to fail or to be late."""
        if self._running is not None:
            raise ServerTrouble(f"{self.name} is already running")
        if self not in Server.live:
            Server.live.append(self)
        self._catch()
        self._running = self.sandbox.spawn(
            self.command(), self.output, {**self.environment(), **self.extra_environment}
        )
        self._tell_catcher(f"+{self._running.pid}")

    def stop(self) -> None:
        """End with SIGTERM; raises ServerTrouble for anything that is left or was logged as an error."""
        self.ask_to_stop()
        self.finish_stop()

    def ask_to_stop(self) -> None:
        """Send SIGTERM and return at once; `finish_stop` waits.  (cyrmaster takes two seconds: stop many together.)"""
        if self._running is not None:
            self.resume()
            self._running.process.send_signal(signal.SIGTERM)

    def finish_stop(self) -> None:
        if self._running is None:
            return
        trouble = []
        try:
            code = self._running.process.wait(self.TERM_TIMEOUT_S)
            if code not in (0, -signal.SIGTERM):
                trouble.append(f"exit code {code}")
        except subprocess.TimeoutExpired:
            trouble.append(f"still there {self.TERM_TIMEOUT_S:g} s after SIGTERM")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self._processes(), "its children end too", 5.0)
        trouble += [f"left behind: {what}" for what in self._processes()]
        self.kill()
        trouble += self._findings()
        if trouble:
            raise ServerTrouble("\n  ".join([f"{self.name} did not end cleanly:", *trouble]))

    def kill(self) -> None:
        """End it and everything it started with SIGKILL (killing cyrmaster alone leaves its imapd answering)."""
        if self._running is None:
            return
        self._running.kill()
        self._tell_catcher(f"-{self._running.pid}")
        self._running.namespace.close()
        self._running = None
        self._hung = False

    def signal(self, number: int) -> None:
        """Send a signal to every process of it, and leave what comes of it to its supervisor."""
        running = self._running
        if running is None:
            raise ServerTrouble(f"{self.name} is not running")
        while running.namespace.signal(number) and number == signal.SIGKILL and running.process.poll() is None:
            pass

    def hang(self) -> None:
        """Stop every process of it, so that connections are accepted by the kernel and never answered."""
        if self._running is None:
            raise ServerTrouble(f"{self.name} is not running")
        self._running.namespace.signal(signal.SIGSTOP)
        self._hung = True

    def resume(self) -> None:
        if self._running is not None and self._hung:
            self._running.namespace.signal(signal.SIGCONT)
            self._hung = False

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop if running, and end the log catcher.  The object is of no use afterwards."""
        try:
            self.stop()
        finally:
            self.kill()
            if self._catcher is not None:
                self._catcher.communicate(timeout=10)
                self._catcher = None
            if self in Server.live:
                Server.live.remove(self)

    # -- its log --------------------------------------------------------------------------------------------------

    def mark(self) -> int:
        """Return the present end of the log, for `log_contains(..., since=mark)`."""
        return self.log.stat().st_size

    def log_lines(self, since: int = 0) -> list[str]:
        with self.log.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace").splitlines()

    def log_contains(self, pattern: str, since: int = 0) -> bool:
        return any(re.search(pattern, line) for line in self.log_lines(since))

    def wait_log(self, pattern: str, since: int = 0, timeout_s: float = 10.0) -> None:
        wait_until(lambda: self.log_contains(pattern, since), f"{self.name} logs {pattern!r}", timeout_s)

    def expect(self, *patterns: str) -> None:
        """Say that error lines which match are wanted by this test."""
        self._expected += patterns

    def forgive(self) -> None:
        """Take everything that was logged until now as seen."""
        self._checked = self.mark()

    def tail(self, lines: int = 25) -> str:
        printed = self.output.read_text(errors="replace").splitlines() if self.output.exists() else []
        return "\n".join([f"--- {self.name}: {self.log}", *printed[-lines:], *self.log_lines()[-lines:]])

    # -- inside ---------------------------------------------------------------------------------------------------

    def _processes(self) -> list[str]:
        found = []
        for pid in self._running.namespace.processes() if self._running else []:
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{pid} {command}")
        return found

    def _findings(self) -> list[str]:
        """Return what is wrong in the log since the last look, and cores."""
        self._checked, since = self.mark(), self._checked
        harmless = [*self.NOISE, *self._expected]
        lines = self.log_lines(since)
        found = [
            "\n    ".join([line, *_trace_below(lines, number)])
            for number, line in enumerate(lines)
            if (self.is_error(line) or any(re.search(pattern, line) for pattern in self.FATAL))
            and not any(re.search(pattern, line) for pattern in harmless)
        ]
        return found + [f"core: {core}" for core in self.state.rglob("core*") if core.is_file() and _is_core(core)]

    def _catch(self) -> None:
        if self._catcher is not None:
            return
        self._catcher = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.catcher", str(self.state)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._await_catcher(b"ready")

    def _tell_catcher(self, word: str) -> None:
        if self._catcher is not None and self._catcher.stdin is not None:
            self._catcher.stdin.write(f"{word}\n".encode())
            self._catcher.stdin.flush()
            self._await_catcher(b"done")

    def _await_catcher(self, word: bytes) -> None:
        assert self._catcher is not None and self._catcher.stdout is not None
        told = self._catcher.stdout.readline().strip()
        if told != word:
            raise ServerTrouble(f"the log catcher of {self.name} said {told!r}")


def stop_all(*groups: Sequence[Server]) -> None:
    """Close servers, those of a group together; raises one ServerTrouble for all that went wrong."""
    trouble = []
    for servers in groups:
        for server in servers:
            server.ask_to_stop()
        for server in servers:
            try:
                server.close()
            except AssertionError as error:
                trouble.append(str(error))
    if trouble:
        raise ServerTrouble("\n".join(trouble))


def _trace_below(lines: list[str], number: int) -> list[str]:
    """Return what belongs to a traceback that begins in this line: up to its first line without indent."""
    if not lines[number].startswith("Traceback "):
        return []
    below = list(itertools.takewhile(lambda line: line.startswith(" "), lines[number + 1 :]))
    return [*below, *lines[number + 1 + len(below) :][:1]]


def _is_core(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
