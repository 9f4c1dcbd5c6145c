"""Runs the LMTP load generator and its sink (benchmarks/mlmtp), both on the CPU that no server has.

Rule: every reply of the code that is due, and as many recipients at the sink as were answered 250, or no figures.
"""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.rig import generator
from benchmarks.rig.generator import LoadFailed, Report
from tests.harness.sandbox import CHECKOUT
from tests.harness.side_by_side import CLIENT_CPU

SOURCES = CHECKOUT / "benchmarks" / "mlmtp"
SHARED = (SOURCES / "shared.c", generator.SOURCES / "support.c")
READY_S = 30.0
DONE_S = 60.0
"""A load that is not done by then, never is: some servers leave connections unanswered."""
USERS = 1000


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent; facts of a message and of its connections."""

    name: str
    what: str
    recipients: int = 1
    size: int = 4096
    fresh: bool = False


LOADS = {
    load.name: load
    for load in (
        Load("a", "a new connection for each message, 4 KiB", fresh=True),
        Load("b", "kept connections, 4 KiB"),
        Load("c", "20 recipients at 2 backends, 4 KiB", recipients=20),
        Load("d", "5 MiB", size=5 << 20),
    )
}


class Extent(NamedTuple):
    """How long: so many seconds after so many, or so many messages, until they are at the sink."""

    seconds: float = 1.0
    warm_s: float = 0.3
    messages: int = 0


def program(name: str) -> Path:
    main = {"mlmtp-load": "generator.c", "mlmtp-sink": "sink.c"}[name]
    return generator.compile_program(CHECKOUT / "build" / "bin" / name, [SOURCES / main, *SHARED])


class Sink:
    """The backends: one process at several addresses."""

    def __init__(self, counters: Path, places: Sequence[str]) -> None:
        self.counters = counters
        command = [str(program("mlmtp-sink")), "--counters", str(counters), "--cpu", str(CLIENT_CPU), *places]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._await_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=30)

    def check(self, body: str) -> None:
        """Compare what follows the header of each message with this hash, "0" for no longer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"check {body}\n".encode())
        self._process.stdin.flush()
        self._await_ready()

    def _await_ready(self) -> None:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], READY_S)
        if not ready or self._process.stdout.readline() != b"ready\n":
            raise LoadFailed("the sink does not answer")

    def deliver(
        self, to: str, load: Load, connections: int, extent: Extent, *, usage: Path | None = None, smtp: bool = False
    ) -> Report:
        """Put `load` on the server at `to`.  Raises LoadFailed."""
        command = [str(program("mlmtp-load")), "--to", to, "--counters", str(self.counters), "--cpu", str(CLIENT_CPU)]
        command += ["--connections", str(connections), "--recipients", str(load.recipients), "--size", str(load.size)]
        command += ["--new"] * load.fresh + ["--smtp"] * smtp + ["--users", str(USERS)]
        command += ["--usage", str(usage)] if usage else []
        if extent.messages:
            command += ["--messages", str(extent.messages)]
        else:
            command += ["--seconds", str(extent.seconds), "--warm", str(extent.warm_s)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DONE_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise LoadFailed(f"load {load.name}, {connections} connections to {to}: not done in {DONE_S} s") from error
        if done.returncode:
            raise LoadFailed(f"load {load.name}, {connections} connections to {to}: {done.stderr.strip()}")
        return Report(json.loads(done.stdout))
