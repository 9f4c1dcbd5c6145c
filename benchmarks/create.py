"""CREATE at a real Cyrus backend, end to end, with our node and with the stock master behind it.

    python benchmarks/create.py [--rounds N]

One IMAP connection to the backend; each CREATE makes the mailbox there and then goes to the master on a connection of
its own: banner, login, RESERVE, ACTIVATE, LOGOUT.  The backend chooses the login: SCRAM-SHA-512 where it is offered, as
it is by a stock master out of the box, PLAIN where nothing else is.  Master on CPU 0, backend and client on CPU 1, with
the Cyrus of both Debian releases.  Some 60 seconds; ended after 4 minutes.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rig.generator import load
from benchmarks.rig.masters import Name, Place, make_node, make_stock, say, workplace
from benchmarks.rig.results import COST, Figures, Row, table
from benchmarks.rig.script import Bench, run
from tests.harness import imap, roots
from tests.harness.accounts import own_sasldb
from tests.harness.cyrus import CyrusBackend, make_sasldb
from tests.harness.network import Network
from tests.harness.ours import Config
from tests.harness.server import Server
from tests.harness.side_by_side import CLIENT_CPU, SERVER_CPU, pin

LIMIT_S = 240
REALM = "mup.lab"
OFFERED = {
    "PLAIN": ["PLAIN"],
    "SCRAM": ["PLAIN", "DIGEST-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"],
}
ALONE = "the master's part of it, PLAIN"
ALONE_COUNT = 100
PLACES: tuple[Place, Place] = ("tmpfs", "disk")


class Side(NamedTuple):
    """A master, and the backend that belongs to it."""

    name: Name
    login: str
    master: Server
    backend: CyrusBackend


def start_side(bench: Bench, name: Name, login: str, state: Path, network: Network) -> Side:
    address, backend_address = network.address(10), network.address(11)
    mechanisms = OFFERED[login]
    master: Server
    if name == "node":
        sasldb = own_sasldb(state / "node-sasldb2", REALM)
        section = {"pwcheck": "sasldb", "password_file": "", "sasldb_path": str(sasldb), "realm": REALM}
        config: Config = {"mupdate": {**section, "mechanisms": mechanisms}}
        master = make_node(state, address, config)
    else:
        master = make_stock(bench.root, state, address, {"sasl_mech_list": " ".join(mechanisms)})
    backend = CyrusBackend("be1.lab", backend_address, state / "be1", bench.root)
    hosts = {REALM: address, "be1.lab": backend_address}
    backend.configure(hosts, make_sasldb(bench.root, state / "be1-sasl", ["be1.lab"]))
    master.start()
    pin(master, SERVER_CPU)
    os.sched_setaffinity(0, {CLIENT_CPU})  # the backend inherits it
    backend.start()
    return Side(name, login, master, backend)


def create_ms(side: Side, first: int, count: int) -> float:
    """The median of `count` CREATEs, in milliseconds."""
    took = []
    with side.backend.imap() as admin:
        for number in range(first, first + count):
            began = time.monotonic()
            imap.create(admin, f"user.c{number:05d}")
            took.append(time.monotonic() - began)
    return statistics.median(took) * 1e3


def master_ms(side: Side, first: int) -> float:
    """The median of what a CREATE asks of the master, in milliseconds, asked by the generator."""
    report = load("change", side.master.address, first=first, count=ALONE_COUNT, cpu=CLIENT_CPU)
    return report.latency().p50_us / 1e3


def at(bench: Bench, place: Place, figures: Figures) -> None:
    count = bench.size(25, 3)
    with ExitStack() as stack:
        sides = []
        for name in ("stock", "node"):
            for login in OFFERED:
                state, network = stack.enter_context(workplace(place))
                sides.append(start_side(bench, name, login, state, network))
        for round_ in range(bench.rounds):
            for side in sides[:: -1 if round_ % 2 else 1]:
                took = create_ms(side, round_ * count, count)
                figures.add(f"{place}, {side.login}", side.name, took)
                if side.login == "PLAIN":
                    figures.add(f"{place}, {ALONE}", side.name, master_ms(side, round_ * ALONE_COUNT))
                say(f"{side.name}, {side.login}, {place}: {took:.1f} ms")


def of_release(bench: Bench) -> list[str]:
    figures = Figures({})
    rows = []
    for place in PLACES:
        at(bench, place, figures)
        plain, scram = (figures.row(f"{place}, {login}") for login in OFFERED)
        best = Row(f"{place}, node: PLAIN, stock: SCRAM", plain.node, scram.stock, "≥ 2× (half the time)")
        rows += [best, plain, scram, figures.row(f"{place}, {ALONE}")]
    version = roots.package_version(bench.root, "cyrus-common")
    return [f"Backend and stock master are Cyrus {version} ({bench.root.suite}):", "", *table(rows, COST, "ms"), ""]


def measure(bench: Bench) -> Sequence[str]:
    lines = of_release(bench)
    for suite in bench.size([suite for suite in roots.SUITES if suite != bench.root.suite], []):
        lines += of_release(replace(bench, root=roots.build(suite)))
    return [*lines, "A stock master out of the box offers SCRAM, which costs both ends a PBKDF2 for each change."]


if __name__ == "__main__":
    sys.exit(run(__file__, "CREATE at a real backend, end to end", LIMIT_S, measure))
