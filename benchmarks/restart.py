"""Ready after a restart: from the start of the process to the first answered FIND, our node and the stock master.

    python benchmarks/restart.py [--rounds N]

A client connects, logs in and asks, again and again, every 2 ms.  The time includes what starts the process (a shell in
a mount namespace; the stock master's has more mounts, some 30 ms).  The databases are in the page cache.  Some 90
seconds, databases filled; ended after 4 minutes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rig.generator import Background
from benchmarks.rig.masters import Pair, Peer, Place, masters, say
from benchmarks.rig.results import COST, Figures, table
from benchmarks.rig.script import Bench, run
from tests.harness.side_by_side import CLIENT_CPU, SERVER_CPU

LIMIT_S = 240
ENDS = ("stopped", "killed")
PLACES: tuple[Place, Place] = ("tmpfs", "disk")


def ready_s(peer: Peer, end: str) -> float:
    """End the server, start it on its CPU; seconds until it answers."""
    if end == "killed":
        peer.server.kill()
    else:
        peer.server.stop()
    with Background("await", peer.address, cpu=CLIENT_CPU, patience=60) as client:
        os.sched_setaffinity(0, {SERVER_CPU})  # what is started now inherits it
        began = time.monotonic()
        try:
            peer.server.launch()
            return client.line().number("at_s") - began
        finally:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))


def rounds(bench: Bench, pair: Pair, place: Place, figures: Figures) -> None:
    for round_ in range(bench.rounds):
        for end in ENDS:
            for peer in pair.turn(round_):
                took = ready_s(peer, end)
                figures.add(f"{end} before, on {place}", peer.name, took)
                say(f"{peer.name}: ready {took:.2f} s after it was {end}")


def measure(bench: Bench) -> Sequence[str]:
    records = bench.size(1_000_000, 400)
    figures = Figures({})
    for place in PLACES:
        with masters(bench.root, place, records) as pair:
            rounds(bench, pair, place, figures)
    rows = [figures.row(f"{end} before, on {place}", "≤ 1 s") for place in PLACES for end in ENDS]
    return [f"{records:,} records:", "", *table(rows, COST, "s to the first answer")]


if __name__ == "__main__":
    sys.exit(run(__file__, "Ready after a restart", LIMIT_S, measure))
