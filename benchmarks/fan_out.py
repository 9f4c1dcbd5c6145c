"""Fan-out: 200 changes a second from one writer, and when each subscriber hears of them.

    python benchmarks/fan_out.py [--rounds N]

Latency is from the moment a change is due to be sent until a subscriber has read it, over all subscribers and changes.
Subscribers of our node say nothing.  The stock master pushes every five seconds only, or when it is sent NOOP, and
quiet subscribers stop it altogether: it is measured with NOOPs as well, on a fresh server each time.  A server that is
silent for 20 s while answers are missing has its sentence in the table.  Some 4 minutes; ended after 8.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rig.generator import Latency, LoadFailed, Value, load
from benchmarks.rig.masters import Name, masters, say
from benchmarks.rig.results import COST, Row, table
from benchmarks.rig.script import Bench, run
from tests.harness.side_by_side import CLIENT_CPU

LIMIT_S = 480
RATE_PER_S = 200
PATIENCE_S = 20
LONG_S = 25.0
"""The stock master stands still after some 14 s with quiet subscribers."""
QUIET, KICK, SLOW_NOOP = "no NOOP", "NOOP after each OK", "NOOP once a second"
SAID: dict[str, dict[str, Value]] = {QUIET: {}, KICK: {"kick": True}, SLOW_NOOP: {"noop_ms": 1000}}
"""What subscribers say -> how the generator is told."""


class Case(NamedTuple):
    """What one side is measured with."""

    name: Name
    subscribers: int
    said: str
    seconds: float = 5.0


class Line(NamedTuple):
    """One row: a case for each side, not always the same."""

    label: str
    node: Case
    stock: Case
    target: str = ""


def both(subscribers: int, said: str, target: str = "") -> Line:
    label = f"{subscribers:,} subscriber{'s' if subscribers > 1 else ''}, {said}"
    return Line(label, Case("node", subscribers, said), Case("stock", subscribers, said), target)


LINES = (
    both(1, QUIET, "p99 ≤ 5 ms"),
    both(1, KICK),
    both(50, KICK),
    Line(f"50 subscribers, stock: {KICK}", Case("node", 50, QUIET), Case("stock", 50, KICK), "p99 ≤ 5 ms"),
    Line(
        f"50 subscribers, {QUIET}, for {LONG_S:.0f} s",
        Case("node", 50, QUIET, LONG_S),
        Case("stock", 50, QUIET, LONG_S),
        "p99 ≤ 5 ms",
    ),
    Line(f"1,000 subscribers, stock: 900, {SLOW_NOOP}", Case("node", 1000, QUIET), Case("stock", 900, SLOW_NOOP)),
)
"""The stock master selects: 1,024 descriptors are its end."""
TOYS = (both(1, QUIET), both(3, KICK))
OFTEN = (
    *(Case("node", count, QUIET) for count in (1, 50, 1000)),
    *(Case("stock", count, KICK) for count in (1, 50)),
)
"""What is repeated in every round; the others take long, or show a stock master that only waits."""


class Heard(NamedTuple):
    """What one run showed: at each subscriber, at the last one of each change, and the writer's own OK."""

    each: Latency
    last: Latency
    answer: Latency


def once(bench: Bench, case: Case) -> Heard | str:
    """Both masters fresh, one run against one of them; a sentence where it did not get to the end."""
    with masters(bench.root, "tmpfs", bench.size(2_000, 200)) as pair:
        peer = pair.node if case.name == "node" else pair.stock
        try:
            report = load(
                "paced",
                peer.address,
                subscribers=case.subscribers,
                rate=RATE_PER_S,
                seconds=bench.size(case.seconds, 0.5),
                patience=PATIENCE_S,
                cpu=CLIENT_CPU,
                timeout_s=90,
                **SAID[case.said],
            )
        except LoadFailed as failure:
            say(f"{case}: {failure}")
            return str(failure).rpartition("mupload: ")[2]
    heard = Heard(*(report.latency(name) for name in ("each", "last", "answer")))
    say(f"{case}: p99 {heard.each.p99_us / 1e3:.2f} ms")
    return heard


def several(bench: Bench, lines: Sequence[Line]) -> dict[Case, list[Heard] | str]:
    """Every case once, and those that are quick in every round; the sides alternate."""
    found: dict[Case, list[Heard] | str] = {}
    for round_ in range(bench.rounds):
        for case in dict.fromkeys(
            case for line in lines for case in (line.node, line.stock)[:: 1 if round_ % 2 else -1]
        ):
            if round_ and case not in OFTEN:
                continue
            heard, before = once(bench, case), found.get(case, [])
            found[case] = heard if isinstance(heard, str) else [*([] if isinstance(before, str) else before), heard]
    return found


def p99_ms(heard: list[Heard] | str) -> list[float] | str:
    return heard if isinstance(heard, str) else [one.each.p99_us / 1e3 for one in heard]


def details(heard: list[Heard] | str) -> str:
    """Medians of p50 and maximum at a subscriber, p99 at the last subscriber, p99 of the writer's OK."""
    if isinstance(heard, str):
        return "–"
    figures = [(one.each.p50_us, one.each.max_us, one.last.p99_us, one.answer.p99_us) for one in heard]
    return " / ".join(f"{statistics.median(column) / 1e3:,.2f}" for column in zip(*figures, strict=True))


def measure(bench: Bench) -> Sequence[str]:
    lines = bench.size(LINES, TOYS)
    found = several(bench, lines)
    rows = [
        Row(
            line.label,
            p99_ms(found[line.node]),
            p99_ms(found[line.stock]),
            line.target,
            [details(found[line.node]), details(found[line.stock])],
        )
        for line in lines
    ]
    more = [f"{name}: p50 / max / p99 at the last / p99 of the OK" for name in ("node", "stock")]
    records = bench.size(2_000, 200)
    head = f"{RATE_PER_S} changes a second, {records:,} records before them, on tmpfs; milliseconds:"
    return [head, "", *table(rows, COST, "ms (p99)", more)]


if __name__ == "__main__":
    sys.exit(run(__file__, "Fan-out to subscribers", LIMIT_S, measure))
