"""The two masters side by side: the stock one from a private root and our node, same place, same CPU, same records.

Rule: both are started by every script that compares them, and both hold the same records, made by the same generator.
A filled database is kept in build/bench, because a million records take minutes; its name says what made it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.rig.generator import SOURCES, load
from tests.harness.cyrus import CyrusMupdate, make_sasldb
from tests.harness.network import Network
from tests.harness.ours import Config, Node
from tests.harness.roots import USERS, Root
from tests.harness.sandbox import CHECKOUT
from tests.harness.server import Server
from tests.harness.side_by_side import SERVER_CPU, pin

Place = Literal["tmpfs", "disk"]
Name = Literal["node", "stock"]
NAMES: tuple[Name, Name] = ("node", "stock")

PLACES: dict[Place, Path] = {"tmpfs": Path("/dev/shm"), "disk": Path("/var/tmp")}
CACHE = CHECKOUT / "build" / "bench"
CONNECTIONS = 12_000
"""What our node is let to accept; the stock master selects, so that 1,000 are near its end."""
STOCK_CONNECTIONS = 1_000


class Peer(NamedTuple):
    """One of the two servers."""

    name: Name
    server: Server
    address: str


class Pair(NamedTuple):
    """Both of them, running."""

    node: Peer
    stock: Peer

    def turn(self, round_: int) -> tuple[Peer, Peer]:
        """In which order they are measured: the other way round in every second round."""
        return (self.node, self.stock) if round_ % 2 else (self.stock, self.node)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@contextmanager
def workplace(place: Place) -> Iterator[tuple[Path, Network]]:
    """A directory there and addresses for servers; those that were made inside and still run at the end are killed."""
    with ExitStack() as stack:
        _remove_left_behind(PLACES[place])
        state = Path(tempfile.mkdtemp(prefix=f"cyx-bench-{os.getpid()}-", dir=PLACES[place]))
        stack.callback(shutil.rmtree, state, ignore_errors=True)
        network = Network()
        stack.callback(network.close)
        stack.callback(_end_all_in, state)
        yield state, network


def _remove_left_behind(place: Path) -> None:
    """Remove what a run left that was killed: a million records on tmpfs are hundreds of megabytes of memory."""
    for old in place.glob("cyx-bench-*-*"):
        pid = old.name.split("-")[2]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(old, ignore_errors=True)


def _end_all_in(state: Path) -> None:
    for server in [server for server in Server.live if server.state.is_relative_to(state)]:
        server.kill()
        server.close()


def make_stock(root: Root, state: Path, address: str, extra: Mapping[str, str] | None = None) -> CyrusMupdate:
    """The stock master, configured and not started."""
    limits = {"mupdate_connections_max": str(STOCK_CONNECTIONS), **(extra or {})}
    stock = CyrusMupdate("mup.lab", address, state / "stock", root, extra=limits)
    stock.configure({"mup.lab": address}, make_sasldb(root, state / "sasl", ["mup.lab"]))
    return stock


def make_node(state: Path, address: str, config: Config | None = None) -> Node:
    """Our node, configured and not started."""
    settings: Config = {"mupdate": {"max_connections": CONNECTIONS}, "log": {"level": "info"}}
    for section, values in (config or {}).items():
        settings.setdefault(section, {}).update(values)
    node = Node(address, state / "node", {}, settings)
    node.configure()
    return node


@contextmanager
def masters(root: Root, place: Place, records: int, *, pinned: bool = True) -> Iterator[Pair]:
    """Both masters with the records 0 to `records`, running, on one CPU."""
    with workplace(place) as (state, network):
        node = make_node(state, network.address(10))
        stock = make_stock(root, state, network.address(11))
        pair = Pair(Peer("node", node, node.address), Peer("stock", stock, stock.address))
        for peer in pair:
            put_records(peer, records)
            peer.server.start(timeout_s=120)
            if pinned:
                pin(peer.server, SERVER_CPU)
        yield pair


# -- filled databases -------------------------------------------------------------------------------------------------


def put_records(peer: Peer, records: int) -> None:
    """Give a server that is stopped its records: from the cache, or by the generator and then into the cache."""
    if records == 0:
        return
    kept = _cached(peer, records)
    if not kept.exists():
        _fill(peer, records)
        CACHE.mkdir(parents=True, exist_ok=True)
        half = kept.with_name(f".{kept.name}.{os.getpid()}")
        _copy(_database(peer), half)
        half.rename(kept)
    _copy(kept, _database(peer))
    if peer.name == "stock":
        os.chown(_database(peer), USERS["cyrus"][0], USERS["cyrus"][1])


def _fill(peer: Peer, records: int) -> None:
    say(f"filling {peer.name} with {records:,} records")
    peer.server.start()
    report = load("fill", peer.address, connections=16, depth=16, count=records, timeout_s=600)
    say(f"{peer.name}: {report.number('per_s'):,.0f} records/s")
    peer.server.stop()


def _database(peer: Peer) -> Path:
    return peer.server.state / ("lib/store" if peer.name == "node" else "conf/mailboxes.db")


def _cached(peer: Peer, records: int) -> Path:
    """Where the filled database is kept; whatever decides its form is in the name."""
    form = hashlib.sha256((SOURCES / "records.c").read_bytes())
    if peer.name == "node":
        for source in sorted((CHECKOUT / "csrc" / "libcyrusext").glob("*.[ch]")):
            form.update(source.read_bytes())
    else:
        assert peer.server.sandbox.root is not None
        form.update(peer.server.sandbox.root.lower.encode())
    return CACHE / f"{peer.name}-{records}-{form.hexdigest()[:12]}"


def _copy(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    subprocess.run(["cp", "-a", "--sparse=always", source, target], check=True, timeout=300)
