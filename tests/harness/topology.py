"""Groups of servers that belong together, named as they are drawn: one frontend, two backends, one master.

Rule: a group has a network and a directory of its own and is started and stopped as a whole; tests that share one use
fresh users, so that their order does not matter.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from tests.harness.cyrus import MUPDATE_PORT, CyrusBackend, CyrusFrontend, CyrusMupdate, Known, make_sasldb
from tests.harness.lmtp import Lmtp
from tests.harness.mupdate import Mupdate, UpdateStream
from tests.harness.network import Network
from tests.harness.ours import ROUTER_PORT, Config, Node, Router
from tests.harness.postfix import Postfix
from tests.harness.roots import Root
from tests.harness.server import Server, stop_all
from tests.harness.waiting import wait_until
from tests.harness.wirefault import WireFault

MasterKind = Literal["ours", "stock"]

HOSTS = {"mup.lab": 10, "be1.lab": 11, "be2.lab": 12, "fe.lab": 13, "wire.lab": 20, "node.lab": 30}
ROUTER_HOST, POSTFIX_HOST = 14, 15
MORE_BACKENDS = {"be3.lab": 16, "be4.lab": 17}


class Group:
    """Servers on one network; use it as a context manager."""

    def __init__(self, root: Root, state: Path, network: Network | None = None) -> None:
        self.root = root
        self.state = state
        self.network = network or Network()
        self.hosts = {name: self.network.address(number) for name, number in HOSTS.items()}
        self.servers: list[Server] = []
        self._names = itertools.count(1)

    def start(self) -> Self:
        raise NotImplementedError

    def close(self) -> None:
        """Stop everything; the first server, which the others talk to, after the others."""
        try:
            stop_all(self.servers[1:], self.servers[:1])
        finally:
            self.network.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            with contextlib.suppress(AssertionError):
                self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def user(self, stem: str = "u") -> str:
        """Return a user name that no other test of this group has."""
        return f"{stem}{next(self._names)}"

    def _start_together(self, servers: Sequence[Server]) -> None:
        for server in servers:
            server.launch()
        for server in servers:
            wait_until(lambda server=server: not server.running or server.ready(), f"{server.name} answers", 30)  # type: ignore[misc]
            if not server.running:
                raise AssertionError(f"{server.name} did not start\n{server.tail()}")


class Master(Group):
    """A mupdate master alone: `kind` says whether it is ours or the stock one."""

    node: Node
    stock: CyrusMupdate

    def __init__(
        self,
        root: Root,
        state: Path,
        kind: MasterKind,
        *,
        extra: Mapping[str, str] | None = None,
        config: Config | None = None,
        node_type: type[Node] = Node,
    ) -> None:
        super().__init__(root, state)
        self.kind = kind
        self.sasldb = make_sasldb(
            root, state / "sasl", [name for name in HOSTS if name not in ("wire.lab", "node.lab")]
        )
        if kind == "ours":
            backends = {name: self.hosts[name] for name in ("be1.lab", "be2.lab")}
            self.node = node_type(self.hosts["mup.lab"], state / "node", backends, config)
            self.node.configure()
        else:
            self.stock = CyrusMupdate("mup.lab", self.hosts["mup.lab"], state / "mup", root, extra=extra)
            self.stock.configure(self.hosts, self.sasldb)
        self.servers = [self.master]

    @property
    def master(self) -> Node | CyrusMupdate:
        return self.node if self.kind == "ours" else self.stock

    def start(self) -> Self:
        self.master.start()
        return self

    def forget_everything(self) -> None:
        """Empty the store of the master, which must be stopped: the lost disk."""
        if self.kind == "ours":
            shutil.rmtree(self.node.state / "lib" / "store")
        else:
            (self.stock.state / "conf/mailboxes.db").unlink()

    def mupdate(self) -> Mupdate:
        """A logged-in connection to the master."""
        return Mupdate(self.hosts["mup.lab"])

    def updates(self) -> UpdateStream:
        """A subscription to the master, its first list read."""
        return UpdateStream(self.hosts["mup.lab"])


class Murder(Master):
    """A mupdate master, two backends, a frontend with its stock slave.

    `wire` puts a fault proxy between the backends (not the frontend) and the master.
    """

    wire: WireFault | None = None

    def __init__(
        self,
        root: Root,
        state: Path,
        kind: MasterKind = "ours",
        *,
        extra: Mapping[str, str] | None = None,
        config: Config | None = None,
        wire: bool = False,
        node_type: type[Node] = Node,
    ) -> None:
        super().__init__(root, state, kind, extra=extra, config=config, node_type=node_type)
        hosts = self.hosts
        through = "wire.lab" if wire else "mup.lab"
        self.be1 = CyrusBackend("be1.lab", hosts["be1.lab"], state / "be1", root, mupdate=through, extra=extra)
        immediate = {**(extra or {}), "delete_mode": "immediate"}
        self.be2 = CyrusBackend("be2.lab", hosts["be2.lab"], state / "be2", root, mupdate=through, extra=immediate)
        names = ["be1.lab", "be2.lab"]
        self.fe = CyrusFrontend("fe.lab", hosts["fe.lab"], state / "fe", root, backends=names, extra=extra)
        for server in (self.be1, self.be2, self.fe):
            server.configure(hosts, self.sasldb)
            self.servers.append(server)
        if wire:
            self.wire = WireFault((hosts["wire.lab"], MUPDATE_PORT), (hosts["mup.lab"], MUPDATE_PORT))

    def start(self) -> Self:
        self.master.start()
        self._start_together(self.servers[1:])
        return self

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self.wire is not None:
                self.wire.close()

    def frontend_sees(self, condition: Callable[[dict[str, Known]], object], what: str, timeout_s: float = 15) -> None:
        """Wait until the frontend's own mailboxes.db satisfies `condition` (internal name -> what is known)."""
        wait_until(lambda: condition(self.fe.mailboxes()), f"the frontend sees {what}", timeout_s, 0.1)


class Delivery(Group):
    """Two backends (or, with `four`, four), our node, our router, and Postfix in front: the way of a message."""

    def __init__(
        self,
        root: Root,
        state: Path,
        *,
        extra: Mapping[str, str] | None = None,
        config: Config | None = None,
        domains: Sequence[str] = ("example.org",),
        postfix: bool = True,
        four: bool = False,
        main_cf: Sequence[str] = (),
    ) -> None:
        super().__init__(root, state)
        names = ["be1.lab", "be2.lab"]
        if four:
            self.hosts |= {name: self.network.address(number) for name, number in MORE_BACKENDS.items()}
            names += MORE_BACKENDS
        hosts, sasldb = self.hosts, make_sasldb(root, state / "sasl", names)
        self.node = Node(hosts["mup.lab"], state / "node", {name: hosts[name] for name in names}, config)
        self.all_backends = [
            CyrusBackend(name, hosts[name], state / name.partition(".")[0], root, extra=extra) for name in names
        ]
        self.be1, self.be2 = self.all_backends[:2]
        self.router = Router(self.network.address(ROUTER_HOST), state / "router", self.node, config)
        transport = f"lmtp:inet:[{self.router.address}]:{ROUTER_PORT}"
        self.postfix = Postfix(
            self.network.address(POSTFIX_HOST),
            state / "postfix",
            root,
            transport=transport,
            domains=domains,
            extra=main_cf,
        )
        self.servers = [self.node, *self.all_backends, self.router, *([self.postfix] if postfix else [])]
        for server in self.all_backends:
            server.configure(hosts, sasldb)
        for own in (self.node, self.router):
            own.configure()
        if postfix:
            self.postfix.configure()

    def start(self) -> Self:
        self.node.start()
        self._start_together(self.servers[1:])
        return self

    @property
    def backends(self) -> tuple[CyrusBackend, CyrusBackend]:
        return self.be1, self.be2

    def node_is_stale(self, timeout_s: float = 6.0) -> None:
        """Wait until the router no longer takes a miss for a "no": the node's heartbeat is too old."""

        def refused_for_now() -> bool:
            with Lmtp(self.router.address, ROUTER_PORT) as client:
                client.command("MAIL FROM:<>")
                return client.command("RCPT TO:<nobody-at-all@example.org>").code == 451

        wait_until(refused_for_now, "the index is too old for a no", timeout_s, 0.1)


@contextlib.contextmanager
def lone_node(state: Path) -> Iterator[Node]:
    """A node that nobody else is connected to, running."""
    network = Network()
    node = Node(network.address(10), state, {}, {"log": {"level": "info"}})
    node.configure()
    try:
        node.start()
        yield node
        node.close()
    finally:
        node.kill()
        network.close()
