"""A node that writes, a node that follows it, and real Cyrus servers on both.

Rule: the two nodes are as an operator configures them; what stands between them is a proxy that passes everything until
a test breaks it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.harness.cyrus import MUPDATE_PORT, PASSWORDS, PEER, CyrusBackend, CyrusFrontend
from tests.harness.network import Network
from tests.harness.ours import Config, Node
from tests.harness.roots import Root
from tests.harness.server import stop_all
from tests.harness.topology import Murder
from tests.harness.waiting import wait_until
from tests.harness.wirefault import WireFault

FOLLOWER, WIRE = 30, 31
"""Addresses of the follower and of the way to its leader."""


def new_follower(address: str, state: Path, leader: str, config: Config | None = None) -> Node:
    """Return a configured node that follows the one at `leader`, ``host:port``."""
    password = state / "follow-password"
    password.write_text(f"{PASSWORDS[PEER]}\n")
    password.chmod(0o600)
    settings: Config = {section: dict(values) for section, values in (config or {}).items()}
    settings.setdefault("node", {}).update(follow=leader, follow_user=PEER, follow_password_file=str(password))
    follower = Node(address, state, {}, settings, name="node2")
    follower.configure()
    return follower


def status(node: Node) -> dict[str, Any]:
    """Return what `cyrusext status` shows, as values."""
    shown: dict[str, Any] = json.loads(node.cli("status", "--format", "json").stdout)
    return shown


def follows(node: Node) -> bool:
    """Say whether the node has caught up with its leader."""
    shown = status(node)
    return bool(shown["follow"]["state"] == "following" and shown["fresh"])


def wait_following(node: Node, timeout_s: float = 30.0) -> None:
    wait_until(lambda: follows(node), f"{node.name} follows", timeout_s, 0.1)


class Pair:
    """Two nodes without any Cyrus: `leader`, `follower`, and the `wire` between them."""

    def __init__(self, state: Path, config: Config | None = None) -> None:
        self.network = Network()
        self.leader = Node(self.network.address(10), _made(state / "leader"), {}, config, name="node1")
        self.leader.configure()
        self.wire = WireFault((self.network.address(WIRE), MUPDATE_PORT), (self.leader.address, MUPDATE_PORT))
        through = f"{self.network.address(WIRE)}:{MUPDATE_PORT}"
        self.follower = new_follower(self.network.address(FOLLOWER), _made(state / "follower"), through, config)

    def start(self) -> None:
        self.leader.start()
        self.follower.start()
        wait_following(self.follower)


@contextmanager
def pair(state: Path, config: Config | None = None) -> Iterator[Pair]:
    """Two nodes, running; a follower that loses its leader says so, which is no fault."""
    nodes = Pair(state, config)
    nodes.follower.expect(r"event=mupdate.unanswered", r"event=follow.lost")
    try:
        nodes.start()
        yield nodes
        nodes.follower.close()
        nodes.leader.close()
    finally:
        nodes.follower.kill()
        nodes.leader.kill()
        nodes.wire.close()
        nodes.network.close()


class FollowedMurder(Murder):
    """A murder whose second backend and frontend know only the follower; `between` is its way to the leader."""

    def __init__(self, root: Root, state: Path) -> None:
        super().__init__(root, state, "ours")
        hosts = self.hosts = {**self.hosts, "mup2.lab": self.network.address(FOLLOWER)}
        wire = (self.network.address(WIRE), MUPDATE_PORT)
        self.between = WireFault(wire, (hosts["mup.lab"], MUPDATE_PORT))
        debug: Config = {"log": {"level": "debug"}}
        self.follower = new_follower(hosts["mup2.lab"], _made(state / "node2"), f"{wire[0]}:{MUPDATE_PORT}", debug)
        immediate = {"delete_mode": "immediate"}
        self.be2 = CyrusBackend("be2.lab", hosts["be2.lab"], state / "be2", root, mupdate="mup2.lab", extra=immediate)
        names = ["be1.lab", "be2.lab"]
        self.fe = CyrusFrontend("fe.lab", hosts["fe.lab"], state / "fe", root, backends=names, mupdate="mup2.lab")
        for server in (self.be1, self.be2, self.fe):
            server.configure(hosts, self.sasldb)
        self.servers = [self.node, self.follower, self.be1, self.be2, self.fe]

    def start(self) -> FollowedMurder:
        self.node.start()
        self.follower.start()
        wait_following(self.follower)
        self._start_together(self.servers[2:])
        return self

    def close(self) -> None:
        try:
            stop_all(self.servers[2:], [self.follower], [self.node])
        finally:
            self.between.close()
            self.network.close()


def _made(place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    return place
