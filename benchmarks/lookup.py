"""Where is this mailbox: our index against Cyrus' own database and the usual embedded ones, in C and in Python.

    python benchmarks/lookup.py

Each engine is a program of its own (benchmarks/mlookup) with the same names; every answer is checked.  The databases
lie on tmpfs and are warm.  `alone` is one look-up after the other with the clock read around each, its cost taken off;
`loop` lets the processor overlap them.  Ratios are to Cyrus' twoskip in the same run.  At most 10
minutes.  A hundred million names by hand, with 12 GiB of memory: build/bin/mlookup-cyx build DIR 100000000, and then
measure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rig.generator import FLAGS, LoadFailed
from benchmarks.rig.masters import PLACES, say
from benchmarks.rig.results import PeerMissing
from benchmarks.rig.script import Bench, run
from tests.harness.sandbox import CHECKOUT, Sandbox

LIMIT_S = 1500
SOURCES = CHECKOUT / "benchmarks" / "mlookup"
LIBRARY = CHECKOUT / "csrc"
PEER = "twoskip"
CPU = 1


class Engine(NamedTuple):
    """One program, and what it is called in the table."""

    label: str
    program: str
    libraries: tuple[str, ...] = ()
    in_root: bool = False
    environment: Mapping[str, str] = {}


ENGINES = (
    Engine("Cyrus' twoskip (3.6's own library)", PEER, (), in_root=True),
    Engine("ours, hot table", "cyx", ("lmdb",)),
    Engine("ours, store", "cyx", ("lmdb",), environment={"MLOOKUP_STORE": "1"}),
    Engine("LMDB", "lmdb", ("lmdb",)),
    Engine("tinycdb", "cdb", ("cdb",)),
    Engine("GDBM, kept open", "gdbm", ("gdbm",)),
    Engine("SQLite", "sqlite", ("sqlite3",)),
)


def build(program: str, libraries: Sequence[str]) -> Path:
    """Compile one engine's program; anew each time, it takes a second."""
    target = CHECKOUT / "build" / "bin" / f"mlookup-{program}"
    sources = [SOURCES / name for name in ("main.c", "keys.c", f"e_{program}.c")]
    options = [*FLAGS, "-rdynamic"]  # a plugin's view of the program: Cyrus' libraries call back
    if program == "cyx":
        sources += sorted((LIBRARY / "libcyrusext").glob("*.c"))
        options += [f"-I{LIBRARY}/include", f"-I{LIBRARY}/libcyrusext", "-pthread"]
    command = ["cc", *options, "-o", str(target), *map(str, sources), *(f"-l{name}" for name in libraries)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise PeerMissing(f"{program} can not be built:\n{done.stderr[-2000:]}")
    return target


def call(bench: Bench, engine: Engine, program: Path, place: Path, *arguments: object) -> dict[str, float]:
    """One run of an engine's program; what it printed."""
    command = ["taskset", "-c", str(CPU), str(program), *map(str, arguments)]
    if arguments[0] == "measure":
        command = command[3:]  # two processes at once want two processors
    if engine.in_root:
        sandbox = Sandbox(place, bench.root)
        return dict(json.loads(sandbox.run(*command, timeout_s=LIMIT_S).splitlines()[-1]))
    environment = {**os.environ, **engine.environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False)
    if done.returncode:
        raise LoadFailed(f"{engine.label}: {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


def bytes_of(place: Path) -> int:
    """What the files below `place` occupy."""
    return sum(path.stat().st_blocks * 512 for path in place.rglob("*") if path.is_file() and path.name != "lock.mdb")


def measure_engine(bench: Bench, engine: Engine, base: Path, records: int, lookups: int) -> dict[str, float]:
    program = build(engine.program, engine.libraries)
    place = base / engine.program
    figures: dict[str, float] = {}
    if not place.exists():
        place.mkdir()
        figures |= call(bench, engine, program, place, "build", place, records)
    figures |= call(bench, engine, program, place, "measure", place, records, lookups)
    table = place / "run" / "hot"
    figures["bytes"] = (table.stat().st_size if engine.label.endswith("table") else bytes_of(place)) / records
    say(f"{engine.label}: {figures}")
    return figures


def measure_python(base: Path, records: int, lookups: int) -> dict[str, dict[str, float]]:
    """The Python rows, in a process of their own: a dict of ten million names wants its memory back."""
    program = SOURCES / "in_python.py"
    command = ["taskset", "-c", str(CPU), sys.executable, str(program), str(base), str(records), str(lookups)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=CHECKOUT)
    if done.returncode:
        raise LoadFailed(f"Python: {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


def limit(records: int, accesses: int) -> dict[str, float]:
    target = CHECKOUT / "build" / "bin" / "mlookup-chase"
    subprocess.run(["cc", *FLAGS, "-o", target, SOURCES / "chase.c"], check=True, timeout=60)
    command = ["taskset", "-c", str(CPU), str(target), str(records), str(accesses)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return dict(json.loads(done.stdout))


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def c_table(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    peer = figures[ENGINES[0].label]
    heads = ("", "times as fast, alone", "alone p50, ns", "p99", "loop, ns", "absent, ns", "batch, ns", "two processes")
    lines = [row(*heads, "bytes"), row(*["---"] * 9)]
    for label, found in figures.items():
        batch = f"{found['batch_ns']:,.0f}" if found["batch_ns"] else "–"
        lines.append(
            row(
                label,
                f"{peer['p50_ns'] / found['p50_ns']:,.1f}×",
                *(f"{found[figure]:,.0f}" for figure in ("p50_ns", "p99_ns", "loop_ns", "absent_ns")),
                batch,
                f"{found['two_processes']:.2f}×",
                f"{found['bytes']:,.1f}",
            )
        )
    return lines


def python_table(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    ours = figures["cyrusext.Index.lookup"]["ns"]
    lines = [row("", "ours is faster by", "ns a look-up", "absent, ns"), row(*["---"] * 4)]
    for label, found in figures.items():
        absent = f"{found['absent_ns']:,.0f}" if "absent_ns" in found else "–"
        lines.append(row(label, f"{found['ns'] / ours:.2f}×", f"{found['ns']:,.0f}", absent))
    return lines


def measure(bench: Bench) -> Sequence[str]:
    lines: list[str] = []
    for records in bench.size([1_000_000, 10_000_000], [3_000]):
        lookups = bench.size(1_000_000, 1_000)
        base = Path(tempfile.mkdtemp(prefix="cyx-lookup-", dir=PLACES["tmpfs"]))
        try:
            figures = {engine.label: measure_engine(bench, engine, base, records, lookups) for engine in ENGINES}
            python = measure_python(base, records, min(lookups, 300_000))
            chase = limit(records, bench.size(3_000_000, 10_000))
        finally:
            shutil.rmtree(base, ignore_errors=True)
        lines += ["", f"{records:,} mailboxes, in C:", "", *c_table(figures), ""]
        lines += [
            f"The physical limit, one line of 64 bytes out of as many as the table has "
            f"({chase['bytes'] / 1e6:,.0f} MB, 4 KiB pages): {chase['dependent_ns']:.0f} ns where each access waits "
            f"for the last, {chase['independent_ns']:.0f} ns where not.",
        ]
        lines += ["", f"{records:,} mailboxes, in Python:", "", *python_table(python)]
    return lines


if __name__ == "__main__":
    sys.exit(run(__file__, "Look-ups", LIMIT_S, measure, once=True))
