"""LIST and UPDATE of all records, and what a writer feels of them: our node beside the stock mupdate master.

    python benchmarks/list_update.py [--rounds N]

The writer sends 200 ACTIVATEs a second, answers or not, and its latencies count from when a change was due: a server
that stops for seconds is seen by every change that waited.  Some 4 minutes, databases filled; ended after 8.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rig.generator import Report, load
from benchmarks.rig.masters import NAMES, Name, Pair, Peer, masters, say
from benchmarks.rig.results import COST, Figures, Row, table
from benchmarks.rig.script import Bench, run
from tests.harness.side_by_side import CLIENT_CPU

LIMIT_S = 480
RATE_PER_S = 200

BESIDE = {
    "nobody": {"readers": 0},
    "one LIST after the other": {"readers": 1},
    "one UPDATE after the other": {"readers": 1, "update": True},
}
"""What goes on beside the writer -> how the generator is told."""


def whole_lists(bench: Bench, pair: Pair, records: int) -> list[str]:
    rates, speeds, times, busy = Figures({}), Figures({}), Figures({}), Figures({})
    for round_ in range(bench.rounds):
        for mode in ("list", "update"):
            for peer in pair.turn(round_):
                report = load(mode, peer.address, expect=records, cpu=CLIENT_CPU)
                times.add(mode.upper(), peer.name, report.number("seconds"))
                rates.add(mode.upper(), peer.name, report.number("records_per_s"))
                busy.add(mode, peer.name, report.number("cpu_s") / report.number("seconds") * 100)
                speeds.add(mode.upper(), peer.name, report.number("mb_per_s"))
                say(f"{peer.name}: {mode}: {report.number('seconds'):.2f} s")
    rows = [
        times.row(
            mode,
            "≥ 10×",
            [
                f"{rates.median(mode, name):,.0f} records/s, {speeds.median(mode, name):.1f} MB/s"
                for name in ("node", "stock")
            ],
        )
        for mode in ("LIST", "UPDATE")
    ]
    most = max(busy.median(mode, name) for mode in busy.rows for name in NAMES)
    share = f"The generator used at most {most:.0f} % of its CPU."
    return [f"{records:,} records, on tmpfs:", "", *table(rows, COST, "s", ["node", "stock"]), "", share, ""]


class Writers:
    """The writer of both sides, beside this and that."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._used: Counter[Name] = Counter()

    def write(self, peer: Peer, beside: str) -> Report:
        report = load(
            "paced",
            peer.address,
            first=self._used[peer.name],
            rate=RATE_PER_S,
            seconds=self._seconds,
            patience=60,
            cpu=CLIENT_CPU,
            **BESIDE[beside],
        )
        self._used[peer.name] += int(report.number("changes"))
        say(f"{peer.name}: writer beside {beside}: p99 {report.latency('answer').p99_us / 1e3:.2f} ms")
        return report


def writers(bench: Bench, pair: Pair) -> list[str]:
    work = Writers(bench.size(8.0, 0.5))
    figures = Figures({})
    lists: dict[tuple[str, Name], str] = {}
    for beside in BESIDE:
        for peer in pair:
            report = work.write(peer, beside)
            figures.add(f"p50 beside {beside}", peer.name, report.latency("answer").p50_us / 1e3)
            figures.add(f"p99 beside {beside}", peer.name, report.latency("answer").p99_us / 1e3)
            lists[beside, peer.name] = f"{report.values.get('lists', 0):,}"
    rows: list[Row] = []
    for beside in BESIDE:
        label = f"p99 beside {beside}"
        change = figures.median(label, "node") / figures.median("p99 beside nobody", "node")
        target = "" if beside == "nobody" else f"unchanged for the node (is {change:.2f} of quiet)"
        counts = [lists[beside, "node"], lists[beside, "stock"]]
        rows += [figures.row(f"p50 beside {beside}", "", counts), figures.row(label, target, counts)]
    return [*table(rows, COST, "ms to the OK", ["lists read, node", "lists read, stock"]), ""]


def measure(bench: Bench) -> Sequence[str]:
    records = bench.size(1_000_000, 400)
    lines: list[str] = []
    with masters(bench.root, "tmpfs", records) as pair:
        lines += whole_lists(bench, pair, records)
        lines += [f"A writer of {RATE_PER_S} changes a second beside readers of whole lists, on tmpfs:", ""]
        lines += writers(bench, pair)
    with masters(bench.root, "disk", records) as pair:
        lines += ["The same on disk:", "", *writers(bench, pair)]
    return lines


if __name__ == "__main__":
    sys.exit(run(__file__, "LIST and UPDATE, and writers beside them", LIMIT_S, measure))
