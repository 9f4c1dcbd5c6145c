"""Memory of our node and of the stock master: at rest, while ten clients read everything, for silent connections.

    python benchmarks/memory.py

Anonymous memory is RssAnon of all processes of the server, looked at every 20 ms where a peak is shown; private dirty
is what smaps_rollup says, on disk, since pages of a file on tmpfs always count as dirty.  What the kernel keeps for
sockets is in neither.  The stock master selects, so it takes fewer connections.  Some 90 seconds, databases filled;
ended after 4 minutes.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rig.generator import Background, LoadFailed
from benchmarks.rig.masters import STOCK_CONNECTIONS, Peer, masters, say
from benchmarks.rig.results import COST, Figures, Row, table
from benchmarks.rig.script import Bench, run
from tests.harness.server import Server
from tests.harness.side_by_side import CLIENT_CPU, processes

LIMIT_S = 240
LISTS = 10
STOCK_SILENT = STOCK_CONNECTIONS - 100
MIB = 1 << 20


def _sum(server: Server, file: str, field: str) -> int:
    """Bytes of a field of /proc/PID/`file`, over all processes."""
    total = 0
    for pid in processes(server):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
            total += int(found[1]) << 10 if found else 0
    return total


def anonymous(server: Server) -> int:
    return _sum(server, "status", "RssAnon")


def dirty(server: Server) -> int:
    return _sum(server, "smaps_rollup", "Private_Dirty")


def peak_of_lists(peer: Peer, records: int) -> int:
    """The most anonymous memory while clients LIST at once."""
    highest = 0
    with Background("list", peer.address, connections=LISTS, expect=records, cpu=CLIENT_CPU, patience=120) as clients:
        while clients.running:
            highest = max(highest, anonymous(peer.server))
            time.sleep(0.02)
        clients.line()  # raises when a list was not whole
    return highest


def silent_bytes(peer: Peer, connections: int, *, login: bool) -> float:
    """Anonymous bytes for each of so many connections that say nothing (more)."""
    before = anonymous(peer.server)
    with Background("idle", peer.address, connections=connections, login=login, cpu=CLIENT_CPU) as clients:
        opened = clients.line().number("opened")
        grown = anonymous(peer.server) - before
        kept = clients.let_go().number("open")
    if opened != connections or kept != connections:
        raise LoadFailed(f"{peer.name} took {opened:.0f} and kept {kept:.0f} of {connections} connections")
    return grown / connections


def measure(bench: Bench) -> Sequence[str]:
    records = bench.size(1_000_000, 400)
    figures = Figures({})
    rest, busy, private = "at rest", f"peak, {LISTS} LISTs at once", "at rest, private dirty"
    with masters(bench.root, "disk", records) as pair:
        for peer in pair:
            figures.add(rest, peer.name, anonymous(peer.server) / MIB)
            figures.add(private, peer.name, dirty(peer.server) / MIB)
            figures.add(busy, peer.name, peak_of_lists(peer, records) / MIB)
            say(f"{peer.name}: {figures.median(rest, peer.name):.1f}, {figures.median(busy, peer.name):.1f} MiB")
    silent = silent_rows(bench)
    rows = [figures.row(rest, "≤ 64 MiB"), figures.row(private), figures.row(busy, "≤ 64 MiB")]
    return [
        f"{records:,} records, on disk:",
        "",
        *table(rows, COST, "MiB"),
        "",
        "Connections that say nothing, on fresh servers without records:",
        "",
        *table(silent, COST, "bytes each"),
    ]


def silent_rows(bench: Bench) -> list[Row]:
    """The largest number first, on a server that has no memory to use again."""
    few, many, stock_few = bench.size((1_000, 10_000, STOCK_SILENT), (20, 40, 20))
    rows = []
    for login in (False, True):
        said = "logged in" if login else "not logged in"
        with masters(bench.root, "tmpfs", 0) as pair:
            stock = [silent_bytes(pair.stock, stock_few, login=login)]
            node_few = [silent_bytes(pair.node, few, login=login)]
        with masters(bench.root, "tmpfs", 0) as pair:
            node_many = [silent_bytes(pair.node, many, login=login)]
        rows += [
            Row(f"{few:,} {said} (stock: {stock_few:,})", node_few, stock),
            Row(f"{many:,} {said}", node_many, "takes no more than 1,024 descriptors"),
        ]
        say(f"{said}: node {node_few[0]:,.0f} and {node_many[0]:,.0f}, stock {stock[0]:,.0f} bytes")
    return rows


if __name__ == "__main__":
    sys.exit(run(__file__, "Memory", LIMIT_S, measure, once=True))
