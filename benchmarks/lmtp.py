"""Routing mail: our router, a relay of bytes that parses nothing, and the proxies that there are.

python benchmarks/lmtp.py [--rounds N]
python benchmarks/lmtp.py --load b --concurrency 20 --subject router        # a look at one thing; writes nothing
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rig.generator import Report
from benchmarks.rig.lmtp_load import LOADS, Extent, Load
from benchmarks.rig.lmtp_subjects import SUBJECTS, Stage, Subject, stage
from benchmarks.rig.masters import say
from tests.harness import roots

POSTED = 300
"""How many messages go to what queues them."""


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


if __name__ == "__main__":
    sys.exit(look(sys.argv[1:]))
