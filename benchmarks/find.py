"""FIND: our node beside the stock mupdate master.

    python benchmarks/find.py [--rounds N]

Random names over all records; each answer is compared with what was asked.  Some 3 minutes, databases filled; ended
after 5.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rig.generator import load
from benchmarks.rig.masters import NAMES, Pair, masters, say
from benchmarks.rig.results import RATE, Figures, table
from benchmarks.rig.script import Bench, run
from tests.harness.side_by_side import CLIENT_CPU, SERVER_CPU, cpu_seconds

LIMIT_S = 300


class Load(NamedTuple):
    """One row."""

    label: str
    connections: int
    depth: int
    miss: int
    cpu: int
    """Where the generator runs."""
    target: str


LOADS = (
    Load("1 connection, one at a time, all on one CPU", 1, 1, 0, SERVER_CPU, "≥ 1×"),
    Load("1 connection, one at a time", 1, 1, 0, CLIENT_CPU, ""),
    Load("1 connection, 64 in flight", 1, 64, 0, CLIENT_CPU, "≥ 3×, aim 5×"),
    Load("8 connections, one at a time on each", 8, 1, 0, CLIENT_CPU, ""),
    Load("8 connections, 64 in flight on each", 8, 64, 0, CLIENT_CPU, "≥ 3×, aim 5×"),
    Load("the same, half of the names absent", 8, 64, 50, CLIENT_CPU, ""),
)


def rounds(bench: Bench, records: int, pair: Pair) -> tuple[Figures, Figures, Figures]:
    """Commands a second, the server's CPU microseconds for one, and per cent of its CPU that the generator used."""
    rates, costs, busy = Figures({}), Figures({}), Figures({})
    for round_ in range(bench.rounds):
        for row in LOADS:
            for peer in pair.turn(round_):
                before = cpu_seconds(peer.server)
                report = load(
                    "find",
                    peer.address,
                    connections=row.connections,
                    depth=row.depth,
                    miss=row.miss,
                    records=records,
                    seconds=bench.size(1.2, 0.1),
                    cpu=row.cpu,
                    seed=round_ + 1,
                )
                rates.add(row.label, peer.name, report.number("per_s"))
                cost = (cpu_seconds(peer.server) - before) / report.number("answered")
                costs.add(row.label, peer.name, cost * 1e6)
                busy.add(row.label, peer.name, report.number("cpu_s") / report.number("seconds") * 100)
                say(f"{peer.name}: {row.label}: {report.number('per_s'):,.0f}/s")
    return rates, costs, busy


def measure(bench: Bench) -> Sequence[str]:
    lines: list[str] = []
    for records in bench.size((100_000, 1_000_000), (400,)):
        with masters(bench.root, "tmpfs", records) as pair:
            rates, costs, busy = rounds(bench, records, pair)
        rows = [
            rates.row(
                row.label,
                row.target,
                [f"{costs.median(row.label, 'node'):.1f}", f"{costs.median(row.label, 'stock'):.1f}"],
            )
            for row in LOADS
        ]
        lines += [f"{records:,} records, on tmpfs:", ""]
        lines += [*table(rows, RATE, "per s", ["node, CPU µs each", "stock, CPU µs each"]), ""]
        most = max(busy.median(row.label, name) for row in LOADS for name in NAMES if row.cpu == CLIENT_CPU)
        lines += [f"The generator used at most {most:.0f} % of its CPU.", ""]
    return lines


if __name__ == "__main__":
    sys.exit(run(__file__, "FIND", LIMIT_S, measure))
