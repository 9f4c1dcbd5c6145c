"""Where is this mailbox: our index against Cyrus' own look-up and the usual embedded databases, in C and in Python.

    python benchmarks/lookup.py
    python benchmarks/lookup.py --records 100000000 --table
    python benchmarks/lookup.py --records 100000000 --directory /var/tmp

Each engine is a program of its own (benchmarks/mlookup) with the same names, and every answer is checked.  Without
options: a million and ten million names, databases on tmpfs, warm; some 10 minutes and 8 GiB of memory.  `alone` is
one look-up after the other with the clock read around each, its cost taken off; `loop` lets the processor overlap them.
A change is timed from the end of its commit to the first right answer in another process.  `bytes` is what a name takes
in the database, for the hot table beside its store.

With --table there is no store and no other engine: a table of so many names, filled name by name, beside what memory
itself takes.  A hundred million want 3 GiB of memory and some minutes.

With --records the section is one of its own, and beyond ten million only LMDB and py-lmdb stand beside ours (Cyrus'
file would have 24 GB, tinycdb ends at 4).  A hundred million take some 40 GB below --directory, 3 GiB of memory for two
generations of the table, as much page cache as there is, and half an hour, most of it to fill the two databases.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rig.engines import (
    SOURCES,
    Engine,
    Figures,
    Pages,
    compile_chase,
    compile_engine,
    compile_node,
    on_tmpfs,
    printed_by,
    run_here,
    run_in_root,
)
from benchmarks.rig.generator import LoadFailed
from benchmarks.rig.lookup_tables import (
    FETCH,
    FULL,
    LARGE,
    LMDB,
    LOOKUP,
    STORE,
    TABLE,
    Found,
    c_table,
    limits,
    python_table,
    target_table,
)
from benchmarks.rig.masters import PLACES, say
from benchmarks.rig.results import PeerMissing
from benchmarks.rig.script import Bench, run

LIMIT_S = 1800
LIMIT_S_PER_MILLION = 60
CPU = 1
SEEN = 2_000
"""Changes whose way to a reader is timed."""
SLOW = 200_000
ENGINES = (
    Engine(FETCH, "twoskip", place="cyrus", in_root=True, largest=FULL, lookups=SLOW),
    Engine(LOOKUP, "mboxlist", place="cyrus", in_root=True, largest=FULL, lookups=SLOW),
    Engine("tinycdb", "cdb", ("cdb",), largest=FULL),
    Engine("GDBM, kept open", "gdbm", ("gdbm",), largest=FULL),
    Engine("SQLite", "sqlite", ("sqlite3",), largest=FULL, lookups=SLOW),
    Engine(LMDB, "lmdb", ("lmdb",)),
    Engine(TABLE, "cyx"),
    Engine(LARGE, "cyx", pages="always"),
    Engine(STORE, "cyx", environment={"MLOOKUP_STORE": "1"}),
)
KEPT = ("lmdb", "cyx")
"""Whose databases Python reads, too."""
Failures = list[str]


class Run:
    """One number of names: every engine, the node's own work, Python, the limit; and what failed."""

    def __init__(self, bench: Bench, base: Path, records: int, *, table_alone: bool = False) -> None:
        self.bench, self.base, self.records, self.table_alone = bench, base, records, table_alone
        self.environment = {"MLOOKUP_TABLE": str(records)} if table_alone else {}
        self.lookups = bench.size(1_000_000, 1_000)
        self.run_dir = base / "cyx" / "run"
        self.run_dir.mkdir(parents=True)

    def call(self, engine: Engine, *arguments: object) -> Figures:
        place = self.base / engine.directory
        program = compile_engine(engine.program, engine.libraries)
        command = [program, arguments[0], place, *arguments[1:]]
        if engine.in_root:
            return run_in_root(self.bench.root, place, engine.label, *command)
        if engine.is_ours:
            command = [*on_tmpfs(self.run_dir, engine.pages), *command]
        return run_here(engine.label, command, {**engine.environment, **self.environment})

    def engine(self, engine: Engine) -> Figures:
        place = self.base / engine.directory
        figures: Figures = {}
        if not self.table_alone and not any(path.is_file() for path in place.rglob("*")):
            place.mkdir(exist_ok=True)
            say(f"{engine.label}: filling it with {self.records:,} names")
            figures |= self.call(engine, "build", self.records)
        figures |= self.call(engine, "measure", self.records, min(self.lookups, engine.lookups))
        figures["bytes"] = bytes_of(place) / self.records
        return figures

    def node(self) -> Figures:
        arguments = (self.base / "cyx", self.records, self.lookups, self.bench.size(SEEN, 20), self.bench.size(5, 0.1))
        command = [*on_tmpfs(self.run_dir, "never"), compile_node(), *arguments]
        return run_here("the node's work", command, self.environment)

    def limit(self, pages: Pages, size: float) -> Figures:
        command = [compile_chase(), self.run_dir / "chase", int(size), self.bench.size(3_000_000, 10_000)]
        found = run_here("the limit", [*on_tmpfs(self.run_dir, pages), *command])
        if found["large"] != {"never": 0, "always": 1}[pages]:
            raise LoadFailed(f"of a tmpfs with huge={pages}, {found['large']:.0%} is mapped by large pages")
        return found

    def python(self) -> dict[str, Figures]:
        """In a process of its own: a dict of ten million names wants its memory back."""
        program, lookups = SOURCES / "in_python.py", min(self.lookups, 300_000)
        options = ["dict"] if self.records <= FULL else []
        command = ["taskset", "-c", CPU, sys.executable, program, self.base, self.records, lookups, *options]
        return dict(json.loads(printed_by("Python", [*on_tmpfs(self.run_dir, "never"), *command])))


def bytes_of(place: Path) -> int:
    """What the files below `place` occupy."""
    return sum(path.stat().st_blocks * 512 for path in place.rglob("*") if path.is_file() and path.name != "lock.mdb")


def measure_engines(one: Run, failures: Failures) -> dict[str, Figures]:
    """Those that fail are told of, and the others go on."""
    figures: dict[str, Figures] = {}
    engines = [engine for engine in ENGINES if one.records <= engine.largest]
    if one.table_alone:
        engines = [engine for engine in engines if engine.label in (TABLE, LARGE)]
    for n, engine in enumerate(engines):
        try:
            figures[engine.label] = one.engine(engine)
            say(f"{engine.label}: {figures[engine.label]}")
        except (LoadFailed, PeerMissing, subprocess.SubprocessError) as error:
            say(f"{engine.label} failed: {error}")
            failures.append(f"{one.records:,} names, {engine.label}: {error}")
        if engine.directory not in KEPT and all(later.directory != engine.directory for later in engines[n + 1 :]):
            shutil.rmtree(one.base / engine.directory, ignore_errors=True)
    return figures


def measure_one(one: Run, failures: Failures) -> list[str]:
    engines = measure_engines(one, failures)
    if failures:
        return []
    node = one.node()
    say(f"the node's work: {node}")
    size = node["bytes_per_key"] * one.records
    small, large = one.limit("never", size), one.limit("always", size)
    say(f"the limit: {small}, with large pages {large}")
    for label in (TABLE, LARGE):
        engines[label]["bytes"] = node["bytes_per_key"]
    if one.table_alone:
        found = Found(one.records, engines, {}, node, small, large)
        return [
            *("", f"{one.records:,} mailboxes in a table without a store, targets:", "", *target_table(found)),
            *("", *c_table(found), "", *textwrap.wrap(limits(found), 120)),
        ]
    python = one.python()
    say(f"Python: {python}")
    found = Found(one.records, engines, python, node, small, large)
    return [
        *("", f"{one.records:,} mailboxes, targets:", "", *target_table(found)),
        *("", f"{one.records:,} mailboxes, in C:", "", *c_table(found), ""),
        *textwrap.wrap(limits(found), 120),
        *("", f"{one.records:,} mailboxes, in Python:", "", *python_table(found)),
    ]


def measure(bench: Bench, records: Sequence[int], directory: Path, *, table_alone: bool = False) -> Sequence[str]:
    lines: list[str] = []
    failures: Failures = []
    for count in records:
        base = Path(tempfile.mkdtemp(prefix="cyx-lookup-", dir=directory))
        try:
            base.chmod(0o755)  # Cyrus' own user goes through it
            lines += measure_one(Run(bench, base, count, table_alone=table_alone), failures)
        except (LoadFailed, PeerMissing, subprocess.SubprocessError) as error:
            say(f"failed: {error}")
            failures.append(f"{count:,} names: {error}")
        finally:
            shutil.rmtree(base, ignore_errors=True)
    if failures:
        raise LoadFailed("; ".join(failures))
    return lines[1:]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--records", type=int)
    parser.add_argument("--directory", type=Path, default=PLACES["tmpfs"])
    parser.add_argument("--table", action="store_true")
    ours, rest = parser.parse_known_args(argv)
    script, limit_s = Path(__file__).name, LIMIT_S
    if ours.records:
        script += f" --records {ours.records}" + (" --table" if ours.table else "")
        limit_s += LIMIT_S_PER_MILLION * ours.records // 1_000_000

    def measured(bench: Bench) -> Sequence[str]:
        wanted = [ours.records] if ours.records else bench.size([1_000_000, 10_000_000], [3_000])
        return measure(bench, wanted, ours.directory, table_alone=ours.table)

    title = f"Look-ups, {ours.records:,} mailboxes" if ours.records else "Look-ups"
    title += ", the table alone" if ours.table else ""
    return run(script, title, limit_s, measured, rest, once=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
