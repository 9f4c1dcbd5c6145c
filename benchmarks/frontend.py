"""A real Cyrus frontend with its stock slave: when it has everything, from our node and from the stock master.

    python benchmarks/frontend.py [--rounds N]

From the start of the frontend's cyrmaster until its slave makes its kick socket, which it does after its first whole
synchronisation; cold is with an empty mailboxes.db, warm with one that agrees.  The slave is then asked for everything
itself.  Masters run on CPU 0, the frontend on CPU 1; what is compared is the master, the slave is the same program and
takes most of the time.  Some 3 minutes, databases filled; ended after 7.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rig.generator import load
from benchmarks.rig.masters import Pair, Peer, masters, say, workplace
from benchmarks.rig.results import COST, Figures, table
from benchmarks.rig.script import Bench, run
from tests.harness.cyrus import ADMIN, PASSWORDS, CyrusFrontend, make_sasldb
from tests.harness.side_by_side import CLIENT_CPU
from tests.harness.waiting import wait_until

LIMIT_S = 420
SYNC_LIMIT_S = 120
WHOLE, READ, MERGED = "from the start until synchronised", "reading from the master", "merging"
STEPS = {READ: ("scarfing mailbox list", "synchronizing mailbox"), MERGED: ("synchronizing mailbox", "complete")}
"""What the slave logs before and after each step."""
DAY_S = 86_400


class Frontend:
    """One frontend of one master, started with an empty or an equal mailboxes.db."""

    def __init__(self, bench: Bench, peer: Peer, state: Path, address: str) -> None:
        self._server = CyrusFrontend(
            "fe.lab", address, state / f"fe-{peer.name}", bench.root, backends=["be1.lab", "be2.lab"]
        )
        hosts = {"mup.lab": peer.address, "fe.lab": address, "be1.lab": address, "be2.lab": address}
        self._server.configure(hosts, make_sasldb(bench.root, state / f"sasl-{peer.name}", ["fe.lab"]))
        self._kick = self._server.state / "conf/socket/mupdate.target"

    def synchronise(self) -> dict[str, float]:
        """Start; seconds until it is synchronised, and of its slave's steps, which its own log tells."""
        self._kick.unlink(missing_ok=True)
        mark = self._server.mark()
        os.sched_setaffinity(0, {CLIENT_CPU})  # what is started now inherits it
        began = time.monotonic()
        try:
            self._server.launch()
        finally:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
        wait_until(self._kick.exists, "the frontend is synchronised", SYNC_LIMIT_S, 0.005)
        took = {WHOLE: time.monotonic() - began}
        for step, (begin, end) in STEPS.items():
            self._server.wait_log(end, mark)
            took[step] = (self._logged_at(end, mark) - self._logged_at(begin, mark)) % DAY_S
        return took

    def _logged_at(self, text: str, mark: int) -> float:
        """Seconds of the day at which a line with `text` was logged."""
        line = next(line for line in self._server.log_lines(mark) if text in line)
        hours, minutes, seconds = line.split()[0].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)

    def holds(self, records: int) -> None:
        """Let its slave list what it has; raises LoadFailed when that is something else."""
        load("list", self._server.address, user=ADMIN, password=PASSWORDS[ADMIN], expect=records, patience=60)

    def end(self) -> None:
        self._server.stop()


def rounds(bench: Bench, pair: Pair, records: int, count: int) -> Figures:
    figures = Figures({})
    for round_ in range(count):
        for peer in pair.turn(round_):
            with workplace("tmpfs") as (state, network):
                frontend = Frontend(bench, peer, state, network.address(10))
                for kind in ("cold", "warm"):
                    for step, seconds in frontend.synchronise().items():
                        figures.add(f"{kind}: {step}", peer.name, seconds)
                    say(
                        f"{peer.name}: {records:,} records, {kind}: {figures.last(f'{kind}: {WHOLE}', peer.name):.2f} s"
                    )
                    if kind == "cold":
                        frontend.holds(records)
                    frontend.end()
    return figures


def measure(bench: Bench) -> Sequence[str]:
    lines: list[str] = []
    for records, count in bench.size(((100_000, bench.rounds), (1_000_000, 1)), ((400, 1),)):
        with masters(bench.root, "tmpfs", records) as pair:
            figures = rounds(bench, pair, records, count)
        rows = [figures.row(label, "≥ 1×" if WHOLE in label else "") for label in figures.rows]
        more = "" if count == bench.rounds else f", {count} round"
        lines += [f"{records:,} records, on tmpfs{more}:", "", *table(rows, COST, "s"), ""]
    return lines


if __name__ == "__main__":
    sys.exit(run(__file__, "A real frontend, synchronised", LIMIT_S, measure))
