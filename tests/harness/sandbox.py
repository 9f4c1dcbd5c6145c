"""Run commands in a private root: one mount namespace each, the state directory and the checkout bound in.

Rule: the pid of the command is the pid of the server, and everything that it starts is found again by its namespace.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.harness.namespace import Namespace
from tests.harness.roots import Root

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("sandbox.sh")


class SandboxError(AssertionError):
    """A command in a sandbox could not be started, failed, or took too long; the text has its output."""


class Running:
    """A command that was started: the process of its leader and the namespace that all its children share."""

    def __init__(self, process: subprocess.Popen[bytes], namespace: Namespace) -> None:
        self.process = process
        self.namespace = namespace

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """End everything at once, without a chance to clean up."""
        self.namespace.reap()
        self.process.wait(10)


class Sandbox:
    """Where commands run: a state directory, and a private root or (`root` None) this machine's own."""

    def __init__(self, state: Path, root: Root | None) -> None:
        self.state = state
        self.root = root
        self.shared: list[Path] = []
        """Directories beside `state` that are seen from a private root, too."""

    def spawn(self, command: Sequence[str | Path], output: Path, environment: dict[str, str] | None = None) -> Running:
        """Start a server; its standard output and error are appended to `output`.  Raises SandboxError."""
        with output.open("ab") as out:
            process = self._popen(command, out, subprocess.STDOUT, subprocess.DEVNULL, environment)
        namespace = self._namespace(process)
        if namespace is None:
            raise SandboxError(
                f"{command[0]} ended with {process.wait()}:\n{output.read_text(errors='replace')[-2000:]}"
            )
        return Running(process, namespace)

    def run(self, *command: str | Path, stdin: bytes = b"", timeout_s: float = 60.0, check: bool = True) -> str:
        """Run a command to its end; returns what it printed.  Raises SandboxError when it fails (with `check`)."""
        process = self._popen(command, subprocess.PIPE, subprocess.STDOUT, subprocess.PIPE, None)
        namespace = self._namespace(process)
        try:
            printed, _ = process.communicate(stdin, timeout_s)
        except subprocess.TimeoutExpired as error:
            raise SandboxError(f"{' '.join(map(str, command))}: not done after {timeout_s:g} s") from error
        finally:
            if namespace is not None:
                namespace.reap()
                namespace.close()
            process.wait(10)
        text = printed.decode(errors="replace")
        if check and process.returncode:
            raise SandboxError(f"{' '.join(map(str, command))}: exit code {process.returncode}\n{text}")
        return text

    def _popen(
        self,
        command: Sequence[str | Path],
        stdout: IO[bytes] | int,
        stderr: int,
        stdin: int,
        environment: dict[str, str] | None,
    ) -> subprocess.Popen[bytes]:
        lower = self.root.lower if self.root else ""
        binds = " ".join(map(str, [CHECKOUT, *self.shared])) if self.root else ""
        # A session of its own: cyrmaster signals its whole process group when it is told to end.
        return subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", SCRIPT, self.state, *command],
            env={**os.environ, **(environment or {}), "LOWER": lower, "BINDS": binds},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def _namespace(self, process: subprocess.Popen[bytes]) -> Namespace | None:
        """Return the namespace that `process` is about to enter; None when the process ended before."""
        deadline = time.monotonic() + 10
        while process.poll() is None:
            with contextlib.suppress(ValueError, FileNotFoundError):
                return Namespace(process.pid)
            if time.monotonic() > deadline:
                process.kill()
                raise SandboxError("unshare does not enter a mount namespace")
            time.sleep(0.002)
        return None
