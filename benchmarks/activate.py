"""ACTIVATE of new names, durable before its OK: our node beside the stock mupdate master, on disk and on tmpfs.

    python benchmarks/activate.py [--rounds N]

Some 3 minutes, databases filled; ended after 5.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rig.generator import load
from benchmarks.rig.masters import Name, Pair, Place, masters, say
from benchmarks.rig.results import COST, RATE, Figures, table
from benchmarks.rig.script import Bench, run
from tests.harness.side_by_side import CLIENT_CPU

LIMIT_S = 300


class Load(NamedTuple):
    """One row."""

    label: str
    mode: str
    connections: int
    depth: int
    target: str
    """On disk."""


LOADS = (
    Load("ACTIVATE, 1 connection, one at a time", "activate", 1, 1, "≥ 1×"),
    Load("ACTIVATE, 1 connection, 64 in flight", "activate", 1, 64, "≥ 5×"),
    Load("ACTIVATE, 64 connections, one at a time on each", "activate", 64, 1, "≥ 5×"),
    Load("RESERVE and ACTIVATE, 64 connections, one pair at a time on each", "create", 64, 1, ""),
)
PLACES: tuple[tuple[Place, int], ...] = (("disk", 100_000), ("disk", 1_000_000), ("tmpfs", 100_000))


def rounds(bench: Bench, pair: Pair) -> tuple[Figures, Figures]:
    """Answers a second, and milliseconds to the slowest answer in a hundred."""
    rates, waits = Figures({}), Figures({})
    used: Counter[Name] = Counter()
    for round_ in range(bench.rounds):
        for row in LOADS:
            for peer in pair.turn(round_):
                report = load(
                    row.mode,
                    peer.address,
                    connections=row.connections,
                    depth=row.depth,
                    first=used[peer.name],
                    seconds=bench.size(1.5, 0.2),
                    cpu=CLIENT_CPU,
                )
                used[peer.name] += int(report.number("answered"))
                rates.add(row.label, peer.name, report.number("per_s"))
                waits.add(row.label, peer.name, report.latency().p99_us / 1e3)
                say(f"{peer.name}: {row.label}: {report.number('per_s'):,.0f}/s")
    return rates, waits


def measure(bench: Bench) -> Sequence[str]:
    lines: list[str] = []
    for place, records in bench.size(PLACES, (("disk", 400), ("tmpfs", 400))):
        with masters(bench.root, place, records) as pair:
            rates, waits = rounds(bench, pair)
        target = {row.label: row.target if place == "disk" else "" for row in LOADS}
        lines += [f"On {place}, beside {records:,} records:", ""]
        lines += [*table([rates.row(row.label, target[row.label]) for row in LOADS], RATE, "per s"), ""]
        lines += [*table([waits.row(row.label) for row in LOADS], COST, "ms (p99)"), ""]
    return lines


if __name__ == "__main__":
    sys.exit(run(__file__, "ACTIVATE, durable", LIMIT_S, measure))
