"""What a login costs with each SASL mechanism: our node beside the stock mupdate master, in one run.

    python benchmarks/sasl_cost.py [--logins N] [--rounds N]

Rule: each login is a connection of its own, as every change of a Cyrus backend is: banner, AUTHENTICATE, LOGOUT, end.
Both servers have a sasldb for the same libsasl2 and run on the same CPU, the client on the other; a row is printed only
when both granted every login.  CPU is that of the server's processes, by their own clocks.  Our node asks libsasl2 for
each login but a PLAIN one that was good before (docs/decisions/proven-logins.md); the row `ANEW` is what that saves.
"""

from __future__ import annotations

import argparse
import base64
import os
import platform
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cyrusext.net.stamp import AT_REST_NS
from tests.harness import roots
from tests.harness.accounts import own_sasldb
from tests.harness.cyrus import MUPDATE_PORT, PASSWORDS, PEER, CyrusMupdate, make_sasldb
from tests.harness.network import Network
from tests.harness.ours import Config, Node
from tests.harness.sasl_client import DigestMd5, Scram
from tests.harness.server import Server
from tests.harness.side_by_side import CLIENT_CPU, SERVER_CPU, cpu_seconds, pin, workplace

REALM = "mup.lab"
MECHANISMS = ("PLAIN", "DIGEST-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512")
ANEW = "PLAIN, passwords changed just now"
ROWS = ("PLAIN", ANEW, *MECHANISMS[1:])
CHEAP = frozenset({"PLAIN", ANEW, "DIGEST-MD5"})
"""These get ten times as many logins, so that the process clock can tell what they cost."""


class Figure(NamedTuple):
    """The mean of one round, in milliseconds: the server's CPU time and the time that the client saw."""

    cpu_ms: float
    wall_ms: float


class Conversation:
    """One connection, line by line."""

    def __init__(self, address: str) -> None:
        self._socket = socket.create_connection((address, MUPDATE_PORT), timeout=30)
        self._buffer = b""
        while not self.line().startswith(b"* OK "):
            pass

    def line(self) -> bytes:
        while b"\n" not in self._buffer:
            data = self._socket.recv(4096)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def send(self, line: bytes) -> None:
        self._socket.sendall(line + b"\r\n")

    def answer(self, item: bytes) -> None:
        self.send(base64.b64encode(item))

    def challenge(self) -> bytes:
        return base64.b64decode(self.line(), validate=True)

    def end(self) -> None:
        granted = self.line()
        if not granted.startswith(b"A OK"):
            raise AssertionError(f"not logged in: {granted!r}")
        self.send(b"Q LOGOUT")
        self.line()
        self._socket.close()


def log_in(address: str, mechanism: str) -> None:
    """Log in once; raises AssertionError or ConnectionError where that is refused."""
    talk, password = Conversation(address), PASSWORDS[PEER]
    first = b'A AUTHENTICATE "%s"' % mechanism.encode()
    if mechanism == "PLAIN":
        item = base64.b64encode(f"\0{PEER}\0{password}".encode())
        talk.send(b"%s {%d+}\r\n%s" % (first, len(item), item))
    elif mechanism == "DIGEST-MD5":
        talk.send(first)
        digest = DigestMd5(PEER, password, REALM)
        talk.answer(digest.final(talk.challenge()))
        digest.verify(talk.challenge())
        talk.answer(b"")
    else:
        scram = Scram(mechanism, PEER, password)
        item = base64.b64encode(scram.first())
        talk.send(b"%s {%d+}\r\n%s" % (first, len(item), item))
        talk.answer(scram.final(talk.challenge()))
        scram.verify(talk.challenge())
        talk.answer(b"")
    talk.end()


def measure(server: Server, row: str, logins: int, sasldb: Path) -> Figure:
    if row == "PLAIN":
        while (age_ns := time.time_ns() - sasldb.stat().st_ctime_ns) <= AT_REST_NS:
            time.sleep((AT_REST_NS - age_ns) / 1e9 + 0.01)
    mechanism = row.partition(",")[0]
    log_in(server.address, mechanism)  # threads and plug-ins of the first time
    pin(server, SERVER_CPU)
    cpu, began = cpu_seconds(server), time.monotonic()
    for number in range(logins):
        if row == ANEW and number % 100 == 0:
            os.utime(sasldb)
        log_in(server.address, mechanism)
    took = time.monotonic() - began
    return Figure((cpu_seconds(server) - cpu) / logins * 1e3, took / logins * 1e3)


def start_both(state: Path, network: Network, sasldb: Path) -> dict[str, Server]:
    root = roots.build("bookworm", say=lambda text: print(text, file=sys.stderr))
    ours, theirs = network.address(10), network.address(11)
    offered = " ".join(MECHANISMS)
    stock = CyrusMupdate(REALM, theirs, state / "stock", root, extra={"sasl_mech_list": offered})
    stock.configure({REALM: theirs}, make_sasldb(root, state / "sasl", [REALM]))
    own_sasldb(sasldb, REALM)
    section = {"pwcheck": "sasldb", "password_file": "", "sasldb_path": str(sasldb), "realm": REALM}
    config: Config = {"mupdate": {**section, "mechanisms": list(MECHANISMS)}, "log": {"level": "info"}}
    node = Node(ours, state / "node", {}, config)
    node.configure()
    return {"node": node.start(), "stock": stock.start()}


def table(results: dict[str, dict[str, list[Figure]]]) -> str:
    lines = [
        "| | stock / node, CPU | node, CPU ms | stock, CPU ms | node, ms to the OK and the end | stock |",
        "|---|---|---|---|---|---|",
    ]
    for row, both in results.items():
        cpu = {name: statistics.median(figure.cpu_ms for figure in figures) for name, figures in both.items()}
        wall = {name: statistics.median(figure.wall_ms for figure in figures) for name, figures in both.items()}
        lines.append(
            f"| {row} | {cpu['stock'] / cpu['node']:.2f}× | {cpu['node']:.2f} | {cpu['stock']:.2f}"
            f" | {wall['node']:.2f} | {wall['stock']:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logins", type=int, default=200, help="logins of a round; ten times as many of cheap ones")
    parser.add_argument("--rounds", type=int, default=3, help="the median of this many is shown")
    arguments = parser.parse_args()
    results: dict[str, dict[str, list[Figure]]] = {}
    with workplace() as (state, network):
        sasldb = state / "node-sasldb2"
        servers = start_both(state, network, sasldb)
        os.sched_setaffinity(0, {CLIENT_CPU})
        for round_ in range(arguments.rounds):
            for row in ROWS:
                logins = arguments.logins * (10 if row in CHEAP else 1)
                for name in list(servers)[:: 1 if round_ % 2 else -1]:
                    figure = measure(servers[name], row, logins, sasldb)
                    results.setdefault(row, {}).setdefault(name, []).append(figure)
                    print(f"round {round_ + 1}: {name}: {row}: {figure.cpu_ms:.2f} ms", file=sys.stderr)
    if any({"node", "stock"} != both.keys() for both in results.values()) or not results:
        print("a peer did not run: no table", file=sys.stderr)
        return 1
    print(f"median of {arguments.rounds} rounds; {platform.platform()}\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
