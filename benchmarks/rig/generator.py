"""Builds and runs the load generator (benchmarks/mupload).

Rule: a run whose answers were not all there and right has no figures: it raises, and no table is made of it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.harness.sandbox import CHECKOUT

SOURCES = CHECKOUT / "benchmarks" / "mupload"
PROGRAM = CHECKOUT / "build" / "bin" / "mupload"
FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")
EXIT_SILENT = 3

Value = int | float | str | bool


class LoadFailed(Exception):
    """The generator ended without figures; the text is what it said."""


class ServerSilent(LoadFailed):
    """The server stopped answering."""


@dataclass(frozen=True, slots=True)
class Latency:
    """One histogram, in microseconds."""

    count: int
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float


class Report(NamedTuple):
    """What one run of the generator printed."""

    values: dict[str, Any]

    def number(self, name: str) -> float:
        return float(self.values[name])

    def latency(self, name: str = "latency") -> Latency:
        return Latency(**self.values[name])


def compile_program(program: Path, sources: Sequence[Path]) -> Path:
    """Compile `program` when something in a directory of its sources is newer than it."""
    newest = max(path.stat().st_mtime for source in sources for path in source.parent.iterdir())
    if not program.exists() or program.stat().st_mtime < newest:
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", *FLAGS, "-o", program, *sources], check=True, timeout=300)
    return program


def build() -> Path:
    """Compile the generator when a source is newer than it."""
    return compile_program(PROGRAM, sorted(SOURCES.glob("*.c")))


def _command(mode: str, address: str, options: dict[str, Value]) -> list[str]:
    command = [str(build()), mode, "--host", address]
    for name, value in options.items():
        if value is True:
            command.append(f"--{name.replace('_', '-')}")
        elif value is not False:
            command += [f"--{name.replace('_', '-')}", str(value)]
    return command


def load(mode: str, address: str, *, timeout_s: float = 300.0, **options: Value) -> Report:
    """Run the generator to its end.  Raises LoadFailed, or ServerSilent where the server said nothing any more."""
    command = _command(mode, address, options)
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode:
        failure = ServerSilent if done.returncode == EXIT_SILENT else LoadFailed
        raise failure(f"{' '.join(command[1:])}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return Report(json.loads(done.stdout))


class Background:
    """The generator beside what the caller does: connections that say nothing, or a load to be looked at."""

    def __init__(self, mode: str, address: str, **options: Value) -> None:
        self._process = subprocess.Popen(
            _command(mode, address, options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(30)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def line(self) -> Report:
        """The next line that it prints; raises LoadFailed at its end."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            raise LoadFailed(f"the generator ended with {self._process.wait(30)}")
        return Report(json.loads(text))

    def let_go(self) -> Report:
        """End its input, which is what `idle` waits for; returns its last line."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.line()
