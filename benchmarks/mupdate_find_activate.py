"""FIND and durable ACTIVATE: our node beside the stock mupdate master, in one run, with the same client and pinning.

    python benchmarks/mupdate_find_activate.py [--names N] [--rounds N]

Rule: both servers run in every round, on the same CPU, with their data on the same file system, and the table is
printed only when both answered every command.  The client is ours and the same for both; what it costs is part of the
time, so the ratios are a lower bound.  CPU is that of the server's processes, by their own clocks.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import os
import platform
import re
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.harness import roots
from tests.harness.cyrus import MUPDATE_PORT, PASSWORDS, PEER, CyrusMupdate, make_sasldb
from tests.harness.network import Network
from tests.harness.ours import Node
from tests.harness.server import Server
from tests.harness.side_by_side import CLIENT_CPU, SERVER_CPU, cpu_seconds, pin, workplace

ACL = b"user%d\tlrswipkxtecdan\tanyone\tp\t"


class Figure(NamedTuple):
    """What one phase of one server took: commands a second, and the server's CPU microseconds for each."""

    rate: float
    cpu_us: float


class Peer(NamedTuple):
    """One of the two servers and its address."""

    name: str
    server: Server
    address: str


class Phase(NamedTuple):
    """One row of the table: how many connections, how many commands in flight on each, and which commands."""

    width: int
    depth: int
    cpu: int
    """Where the client runs."""
    make: Callable[[int], bytes]
    numbers: range


def name_of(number: int) -> bytes:
    return b"user.user%d.Archive.2026" % number


def literal(word: bytes) -> bytes:
    return b"{%d+}\r\n%s" % (len(word), word)


def find(number: int) -> bytes:
    return b"F FIND %s\r\n" % literal(name_of(number))


def activate(number: int) -> bytes:
    return b"A ACTIVATE %s %s %s\r\n" % (literal(name_of(number)), literal(b"be1!default"), literal(ACL % number))


def connect(address: str) -> socket.socket:
    """A connection that is logged in."""
    connection = socket.create_connection((address, MUPDATE_PORT), timeout=30)
    secret = base64.b64encode(f"\0{PEER}\0{PASSWORDS[PEER]}".encode())
    for command, end in ((b"", b"* OK "), (b'L AUTHENTICATE "PLAIN" %s\r\n' % literal(secret), b"L OK ")):
        connection.sendall(command)
        heard = b""
        while not any(line.startswith(end) for line in heard.splitlines()):
            part = connection.recv(4096)
            if not part:
                raise ConnectionError(f"{address} closed the connection: {heard!r}")
            heard += part
    return connection


def converse(connections: list[socket.socket], depth: int, commands: Iterator[bytes]) -> int:
    """Keep `depth` commands in flight on each connection until `commands` ends; returns how many were answered OK."""
    selector = selectors.DefaultSelector()
    answered = 0
    flying = dict.fromkeys(connections, 0)
    for connection in connections:
        selector.register(connection, selectors.EVENT_READ, bytearray(b"\n"))
        flying[connection] = send(connection, commands, depth)
    while any(flying.values()):
        ready = selector.select(30)
        if not ready:
            raise TimeoutError("the server has not answered for 30 s")
        for key, _ in ready:
            answering, buffer = key.fileobj, key.data
            assert isinstance(answering, socket.socket)
            part = answering.recv(1 << 18)
            if not part:
                raise ConnectionError("the server closed the connection")
            buffer += part
            end = buffer.rfind(b"\r\n") + 1
            whole = bytes(buffer[:end])
            del buffer[:end]
            good = whole.count(b"\nF OK ") + whole.count(b"\nA OK ")
            if re.search(rb"\n[FA] (NO|BAD|BYE) ", whole):
                raise AssertionError(f"not every answer is OK: {whole!r}")
            answered += good
            flying[answering] += send(answering, commands, good) - good
    selector.close()
    return answered


def send(connection: socket.socket, commands: Iterator[bytes], count: int) -> int:
    """Send up to `count` of `commands` in one piece; returns how many there were."""
    batch = list(itertools.islice(commands, count))
    if batch:
        connection.sendall(b"".join(batch))
    return len(batch)


def measure(peer: Peer, phase: Phase) -> Figure:
    connections = [connect(peer.address) for _ in range(phase.width)]
    try:
        cpu, began = cpu_seconds(peer.server), time.monotonic()
        answered = converse(connections, phase.depth, (phase.make(number) for number in phase.numbers))
        took = time.monotonic() - began
        spent = cpu_seconds(peer.server) - cpu
    finally:
        for connection in connections:
            connection.close()
    if answered != len(phase.numbers):
        raise AssertionError(f"{peer.name} answered {answered} of {len(phase.numbers)}")
    return Figure(answered / took, spent / answered * 1e6)


def phases(names: int, round_: int) -> dict[str, Phase]:
    """The rows; writes get new names in every round."""
    first = names + round_ * 6_000
    return {
        "FIND, one at a time, one CPU": Phase(1, 1, SERVER_CPU, find, range(min(names, 10_000))),
        "FIND, 64 in flight": Phase(4, 16, CLIENT_CPU, find, range(names)),
        "ACTIVATE, one at a time": Phase(1, 1, CLIENT_CPU, activate, range(first, first + 1_000)),
        "ACTIVATE, 64 connections": Phase(64, 1, CLIENT_CPU, activate, range(first + 1_000, first + 6_000)),
    }


def table(results: dict[str, dict[str, list[Figure]]]) -> str:
    lines = [
        "| | node / stock | node, per s | stock, per s | node, CPU µs | stock, CPU µs |",
        "|---|---|---|---|---|---|",
    ]
    for phase, both in results.items():
        rate = {name: statistics.median(figure.rate for figure in figures) for name, figures in both.items()}
        cpu = {name: statistics.median(figure.cpu_us for figure in figures) for name, figures in both.items()}
        lines.append(
            f"| {phase} | {rate['node'] / rate['stock']:.2f}× | {rate['node']:,.0f} | {rate['stock']:,.0f}"
            f" | {cpu['node']:.0f} | {cpu['stock']:.0f} |"
        )
    return "\n".join(lines)


def start_both(state: Path, network: Network) -> list[Peer]:
    root = roots.build("bookworm", say=lambda text: print(text, file=sys.stderr))
    ours, theirs = network.address(10), network.address(11)
    stock = CyrusMupdate("mup.lab", theirs, state / "stock", root)
    stock.configure({"mup.lab": theirs}, make_sasldb(root, state / "sasl", ["mup.lab"]))
    node = Node(ours, state / "node", {}, {"log": {"level": "info"}})
    node.configure()
    return [Peer("node", node.start(), ours), Peer("stock", stock.start(), theirs)]


def run(names: int, rounds: int, peers: list[Peer]) -> dict[str, dict[str, list[Figure]]]:
    results: dict[str, dict[str, list[Figure]]] = {}
    for peer in peers:
        connections = [connect(peer.address) for _ in range(4)]
        converse(connections, 16, (activate(number) for number in range(names)))
        for connection in connections:
            connection.close()
        pin(peer.server, SERVER_CPU)
    for round_ in range(rounds):
        for name, phase in phases(names, round_).items():
            for peer in peers if round_ % 2 else peers[::-1]:
                os.sched_setaffinity(0, {phase.cpu})
                figure = measure(peer, phase)
                results.setdefault(name, {}).setdefault(peer.name, []).append(figure)
                print(f"round {round_ + 1}: {peer.name}: {name}: {figure.rate:,.0f}/s", file=sys.stderr)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=20_000, help="mailboxes that are there before")
    parser.add_argument("--rounds", type=int, default=3, help="the median of this many is shown")
    arguments = parser.parse_args()
    with workplace() as (state, network):
        results = run(arguments.names, arguments.rounds, start_both(state, network))
    if any({"node", "stock"} != both.keys() for both in results.values()) or not results:
        print("a peer did not run: no table", file=sys.stderr)
        return 1
    print(f"{arguments.names:,} mailboxes, median of {arguments.rounds} rounds; {platform.platform()}\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
