"""Routing mail: our router, a relay of bytes that parses nothing, and the proxies that there are.

    python benchmarks/lmtp.py [--rounds N]
    python benchmarks/lmtp.py --load b --concurrency 20 --subject router        # a look at one thing; writes nothing

CPU time is that of all processes of a server, in a control group of its own, on one CPU; the load generator and the
sink have the other.  All have the same thousand users on the same two backends, the router its log at info and its
figures on.
Some 4 minutes for each round; ended after 20.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rig.generator import LoadFailed, Report
from benchmarks.rig.lmtp_load import LOADS, Extent, Load
from benchmarks.rig.lmtp_subjects import SUBJECTS, Stage, Subject, stage
from benchmarks.rig.masters import say
from benchmarks.rig.results import Row, Unit, table
from benchmarks.rig.script import Bench, run
from tests.harness import roots

POSTED = 300
"""How many messages go to what queues them."""
LIMIT_S = 1200
CONCURRENCY = (1, 20, 200)
JUDGED = 20
"""The concurrency at which the targets are set."""
TARGETS = {
    ("a", "forwarder"): "≥ 1.67×",
    ("b", "forwarder"): "≥ 0.67×",
    ("c", "forwarder"): "≥ 0.25×, aim 0.33×",
    ("d", "forwarder"): "≥ 0.71×",
    ("a", "dovecot"): "≥ 7.5×",
    ("b", "dovecot"): "≥ 9×",
    ("c", "dovecot"): "≥ 22×, aim 30×",
    ("d", "dovecot"): "≥ 10×",
}
"""DESIGN section 8, as how much dearer the other one has to be."""
CPU = Unit(lambda value: f"{value:,.4f}", more_is_better=False)
FINE = Unit(lambda value: f"{value:,.2f}", more_is_better=False)
FEW = Unit(lambda value: f"{value:,.1f}", more_is_better=False)
DOVECOT_OF = {"bookworm": "2.3", "trixie": "2.4"}
Cells = dict[tuple[str, int, str], list[tuple[float, Report]] | str]
"""What was measured, by load, concurrency and subject; or why nothing was."""


def measure_cell(on: Stage, subject: Subject, load: Load, connections: int, extent: Extent) -> tuple[float, Report]:
    """One load on one subject; CPU ms of a message, and what the generator saw."""
    before = subject.account.ticks_s()
    report = on.sink.deliver(subject.to, load, connections, extent, usage=subject.account.usage, smtp=subject.smtp)
    if subject.account.exact:
        return report.number("usage_us") / report.number("messages") / 1e3, report
    return (subject.account.ticks_s() - before) / report.number("all") * 1e3, report


def shown(cpu_ms: float, report: Report) -> str:
    latency = report.latency()
    return (
        f"{cpu_ms:.4f} CPU ms/message, {report.number('per_s'):,.0f} messages/s, p50 {latency.p50_us / 1e3:.2f} ms,"
        f" p99 {latency.p99_us / 1e3:.2f} ms, {report.number('backend_connections'):.0f} new backend connections"
    )


def measure(bench: Bench) -> Sequence[str]:
    """All loads on all subjects, which take turns."""
    dovecots = bench.size(["dovecot-2.3", "dovecot-2.4"], [f"dovecot-{DOVECOT_OF[bench.root.suite]}"])
    names = ["router", "forwarder", *dovecots, *bench.size(["cyrus", "postfix"], [])]
    cells: Cells = {}
    with stage(bench.root) as on:
        subjects = [on.add(name) for name in names]
        several = itertools.product(LOADS, bench.size(CONCURRENCY, (2,)), range(bench.rounds), subjects)
        for load, connections, _, subject in several:
            fill(bench, cells, on, subject, load, connections)
        calls = [calls_of(on, subject, bench.size(2000, 50)) for subject in subjects[:2]]
        memory = [memory_of(bench, on, subject) for subject in subjects[: bench.size(3, 2)]]
    judged = bench.size(JUDGED, 2)
    lines: list[str] = []
    for connections in dict.fromkeys(key[1] for key in cells):
        lines += [
            f"{connections} connections:",
            "",
            *cpu_table(cells, subjects, connections, connections == judged),
            "",
        ]
    p99 = [cells["b", judged, subject.name] for subject in subjects]
    latencies = [
        Row(f"{subject.label}", ms_of(p99[0]), ms_of(of), "≥ 0.4×" if subject.name == "forwarder" else "")
        for subject, of in zip(subjects[1:], p99[1:], strict=True)
    ]
    lines += ["p99 in load b:", "", *table(latencies, FINE, "ms"), ""]
    lines += ["System calls in load b, one connection:", ""]
    lines += [*table([Row(subjects[1].label, [calls[0]], [calls[1]], "≤ 13 for the router")], FEW, "each message"), ""]
    lines += ["Resident memory of the largest process, 200 times 5 MiB at once:", ""]
    rows = [
        Row(subject.label, [memory[0]], [mib], "≤ 48 MiB for the router" if subject.name == "forwarder" else "")
        for subject, mib in zip(subjects[1:], memory[1:], strict=False)
    ]
    return [*lines, *table(rows, FEW, "MiB")]


def fill(bench: Bench, cells: Cells, on: Stage, subject: Subject, load: str, connections: int) -> None:
    """Measure once more; what others can not do is a sentence, what the router or the relay can not do ends the run."""
    key = (load, connections, subject.name)
    known = cells.setdefault(key, [])
    if isinstance(known, str):
        return
    posted = bench.size(POSTED // (10 if load == "d" else 1), 3)
    extent = Extent(bench.size(1.0, 0.1), bench.size(0.3, 0.05), messages=posted if subject.smtp else 0)
    try:
        known.append(measure_cell(on, subject, LOADS[load], connections, extent))
    except LoadFailed as error:
        if subject.name in ("router", "forwarder"):
            raise
        say(f"{key}: {error}")
        cells[key] = "did not do it"


def cpu_table(cells: Cells, subjects: Sequence[Subject], connections: int, judged: bool) -> list[str]:
    rows = []
    for (load, what), subject in itertools.product([(load.name, load.what) for load in LOADS.values()], subjects[1:]):
        mine, others = cells[load, connections, "router"], cells[load, connections, subject.name]
        target = TARGETS.get((load, subject.name.partition("-")[0]), "") if judged else ""
        rows.append(Row(f"{load}: {what}; {subject.label}", ms(mine), ms(others), target, (seen(mine), seen(others))))
    return table(rows, CPU, "CPU ms", ("node: messages/s, p50 and p99 ms, new backend connections", "the other"))


def ms(cell: list[tuple[float, Report]] | str) -> list[float] | str:
    return cell if isinstance(cell, str) else [cpu for cpu, _ in cell]


def ms_of(cell: list[tuple[float, Report]] | str) -> list[float] | str:
    return cell if isinstance(cell, str) else [report.latency().p99_us / 1e3 for _, report in cell]


def seen(cell: list[tuple[float, Report]] | str) -> str:
    """What the generator saw in the last round."""
    if isinstance(cell, str):
        return "–"
    _, report = cell[-1]
    latency = report.latency()
    made = report.number("backend_connections") / report.number("messages")
    return f"{report.number('per_s'):,.0f}, {latency.p50_us / 1e3:.2f}, {latency.p99_us / 1e3:.2f}, {made:.2f} each"


def calls_of(on: Stage, subject: Subject, messages: int) -> float:
    """System calls of a message, kept connection, one at a time."""
    with subject.account.calls(on.sink.counters.parent / f"calls-{subject.name}") as count:
        on.sink.deliver(subject.to, LOADS["b"], 1, Extent(messages=messages))
        return count() / messages


def memory_of(bench: Bench, on: Stage, subject: Subject) -> float:
    """MiB of the largest process while 200 large messages are on their way."""
    with subject.account.peaks() as peaks:
        on.sink.deliver(subject.to, LOADS["d"], bench.size(200, 4), Extent(bench.size(2.0, 0.2)))
        return peaks()[1]


def look(argv: Sequence[str]) -> int:
    """Measure what is asked for, print it, write nothing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--load", choices=sorted(LOADS), action="append", help="which (default b)")
    parser.add_argument("--concurrency", type=int, action="append", help="connections (default 20)")
    parser.add_argument(
        "--subject", choices=sorted(SUBJECTS), action="append", help="which (default router, forwarder)"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="measure this long (default 1)")
    parser.add_argument("--rounds", type=int, default=1, help="again and again, the subjects taking turns (default 1)")
    parser.add_argument("--release", choices=roots.SUITES, default=roots.SUITES[0], help="whose Cyrus and Postfix")
    asked = parser.parse_args(argv)
    with stage(roots.build(asked.release, say=say)) as on:
        subjects = [on.add(name) for name in asked.subject or ["router", "forwarder"]]
        for subject in subjects:
            say(f"{subject.name}: {subject.to}, processes {subject.account.pids()}, {subject.server.state}")
        cells = itertools.product(asked.load or ["b"], asked.concurrency or [20], range(asked.rounds), subjects)
        for name, connections, _, subject in cells:
            extent = Extent(asked.seconds, messages=POSTED if subject.smtp else 0)
            cpu, report = measure_cell(on, subject, LOADS[name], connections, extent)
            print(f"{name} c{connections} {subject.name}: {shown(cpu, report)}", flush=True)
    return 0


def main(argv: Sequence[str]) -> int:
    if any(word.startswith(("--load", "--concurrency", "--subject", "--seconds")) for word in argv):
        return look(argv)
    return run(__file__, "Routing mail", LIMIT_S, measure, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
