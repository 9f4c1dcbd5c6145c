"""The frame of a benchmark script: its options, its time limit, and what its section says of the machine.

Rule: nothing is written unless everything was measured, and a script that takes longer than it says is ended.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.rig import generator
from benchmarks.rig.generator import LoadFailed
from benchmarks.rig.masters import PLACES, say
from benchmarks.rig.results import PeerMissing, write_section
from tests.harness import roots
from tests.harness.sandbox import CHECKOUT
from tests.harness.waiting import NeverHappened

T = TypeVar("T")

RESULTS = CHECKOUT / "benchmarks" / "RESULTS.md"
TOY_LIMIT_S = 100


class TooLong(Exception):
    """The script's own time limit is over."""


@dataclass(frozen=True, slots=True)
class Bench:
    """How large a run is."""

    root: roots.Root
    toy: bool
    rounds: int

    def size(self, full: T, toy: T) -> T:
        """What to use in a run that counts, and in one that only shows that the script works."""
        return toy if self.toy else full


Measure = Callable[[Bench], Sequence[str]]


def run(
    script: str, title: str, limit_s: int, measure: Measure, argv: Sequence[str] | None = None, *, once: bool = False
) -> int:
    """Be the script `script`: measure, write the section `title`, return the exit code.

    `once`: what is measured does not vary enough to be measured again.
    """
    name = Path(script).name
    parser = argparse.ArgumentParser(prog=name, description=sys.modules["__main__"].__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    if not once:
        parser.add_argument("--rounds", type=int, default=3, help="the median of this many is shown (default 3)")
    parser.add_argument("--toy", action="store_true", help="a few records, a moment each: only to show that it works")
    parser.add_argument("--results", type=Path, help=f"page to write to (default {RESULTS.relative_to(CHECKOUT)})")
    parser.add_argument("--release", choices=roots.SUITES, default=roots.SUITES[0], help="whose Cyrus is the peer")
    arguments = parser.parse_args(argv)
    if arguments.toy and arguments.results is None:
        parser.error("--toy needs --results: its figures mean nothing")
    rounds = 1 if arguments.toy or once else arguments.rounds
    bench = Bench(roots.build(arguments.release, say=say), arguments.toy, rounds)
    load_before, began = os.getloadavg()[0], time.monotonic()
    generator.build()
    _limit(TOY_LIMIT_S if arguments.toy else limit_s)
    try:
        lines = measure(bench)
    except (PeerMissing, LoadFailed, TooLong, NeverHappened) as error:
        print(f"{name}: no table: {error}", file=sys.stderr)
        return 1
    finally:
        signal.alarm(0)
    facts = _facts(name, bench, load_before, time.monotonic() - began)
    section = [f"## {title}", "", *facts, "", *lines]
    write_section(arguments.results or RESULTS, name, section)
    print("\n".join(section))
    return 0


def _limit(seconds: int) -> None:
    """End the script when it takes longer, or is told to end, as an exception."""

    def over(_signal: int, _frame: object) -> None:
        raise TooLong(f"not done after {seconds} s")

    def ended(_signal: int, _frame: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGALRM, over)
    signal.signal(signal.SIGTERM, ended)  # so that the servers are ended, too
    signal.alarm(seconds)


def _facts(name: str, bench: Bench, load: float, took_s: float) -> list[str]:
    """One paragraph: command, time, commit, machine, peer."""
    options = " --toy" if bench.toy else f" --rounds {bench.rounds}" if bench.rounds > 1 else ""
    cpus = f"{os.cpu_count()} CPUs ({_cpu_model()}), {_memory_gib():.0f} GiB, kernel {platform.release()}"
    busy = f"; other work was going on (load {load:.1f} before it began)" if load > 0.7 else ""
    disk = _file_system(PLACES["disk"])
    medians = f" Medians of {bench.rounds} rounds, alternating; lowest and highest in brackets." * (bench.rounds > 1)
    text = (
        f"`benchmarks/{name}{options}`, {time.strftime('%Y-%m-%d %H:%M')}, commit {_commit()}, {took_s:.0f} s."
        f" {cpus}, disk is {disk}{busy}. Python {platform.python_version()}; the peer is Cyrus"
        f" {roots.package_version(bench.root, 'cyrus-common')} ({bench.root.suite}). Servers run on CPU 0, the load"
        f" generator on CPU 1, unless a row says otherwise.{medians}"
    )
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/RESULTS.md")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _file_system(path: Path) -> str:
    """The type of the file system that holds `path`."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    holding = [(len(point), kind) for point, kind in mounts if path.is_relative_to(point)]
    return max(holding)[1] if holding else "unknown"
