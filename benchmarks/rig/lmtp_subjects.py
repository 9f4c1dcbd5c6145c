"""What takes mail by LMTP and gives it to the backends: our router, a relay of bytes, and what others have.

Rule: all of them have the same users and the same two backends (one process, the sink), run on the same CPU, each in
the configuration in which it costs least.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rig.accounting import Account
from benchmarks.rig.generator import load
from benchmarks.rig.lmtp_load import SOURCES, USERS, Sink
from benchmarks.rig.masters import say, workplace
from tests.harness import roots
from tests.harness.cyrus import LMTP_OPEN_PORT, LMTP_PORT, CyrusFrontend, make_sasldb
from tests.harness.dovecot import LMTP_PORT as DOVECOT_PORT
from tests.harness.dovecot import DovecotProxy
from tests.harness.network import Network
from tests.harness.ours import ROUTER_PORT, Node, Router
from tests.harness.postfix import Postfix
from tests.harness.roots import Root
from tests.harness.server import Server
from tests.harness.side_by_side import CLIENT_CPU, pin
from tests.harness.waiting import accepts

FORWARDER_PORT = 24
NODE, ROUTER, FORWARDER, DOVECOT, CYRUS, POSTFIX, FIRST, SECOND = 10, 11, 12, 13, 15, 16, 21, 22
"""The last part of each one's address."""


class Forwarder(Server):
    """benchmarks/mlmtp/forwarder.py"""

    def __init__(self, address: str, state: Path, target: str) -> None:
        super().__init__("forwarder", address, state, None)
        self._target = target

    def command(self) -> Sequence[str | Path]:
        program = SOURCES / "forwarder.py"
        return [sys.executable, program, f"{self.address}:{FORWARDER_PORT}", self._target]

    def ready(self) -> bool:
        return accepts(self.address, FORWARDER_PORT)

    def is_error(self, line: str) -> bool:
        return "Traceback" in line


@dataclass(frozen=True, slots=True)
class Subject:
    """One of them, running."""

    name: str
    label: str
    server: Server
    to: str
    account: Account
    smtp: bool = False


class Stage:
    """The sink, our node with all users, and whatever is put between them and the generator."""

    def __init__(self, state: Path, network: Network, root: Root, stack: ExitStack) -> None:
        self._state, self._network, self._root, self._stack = state, network, root, stack
        self.first, self.second = network.address(FIRST), network.address(SECOND)
        ports = (LMTP_OPEN_PORT, LMTP_PORT)
        places = [f"{address}:{port}" for address in (self.first, self.second) for port in ports]
        self.sink = stack.enter_context(Sink(state / "counters", places))
        backends = {"be1.lab": self.first, "be2.lab": self.second}
        self.node = Node(network.address(NODE), state / "node", backends, {"log": {"level": "info"}})
        self.node.configure()

    @property
    def backend(self) -> str:
        """The first of the two, for those that know only one."""
        return f"{self.first}:{LMTP_OPEN_PORT}"

    def start_node(self) -> None:
        if self.node.running:
            return
        self.node.start()
        pin(self.node, CLIENT_CPU)  # it has nothing to do, and what it does is not the router's
        load("fill", self.node.address, connections=4, depth=16, count=8 * USERS)

    def add(self, name: str) -> Subject:
        """Start the subject `name`."""
        say(f"starting {name}")
        label, make = SUBJECTS[name]
        server, port, smtp = make(self)
        server.start(timeout_s=60)
        if server._catcher is not None:
            os.sched_setaffinity(server._catcher.pid, {CLIENT_CPU})
        account = Account(name, [server])
        self._stack.callback(account.close)
        self._stack.callback(server.kill)
        return Subject(name, label, server, f"{server.address}:{port}", account, smtp)

    # -- how each is made ---------------------------------------------------------------------------------------------

    def router(self) -> tuple[Server, int, bool]:
        self.start_node()
        router = Router(self._network.address(ROUTER), self._state / "router", self.node)
        router.configure()
        return router, ROUTER_PORT, False

    def forwarder(self) -> tuple[Server, int, bool]:
        server = Forwarder(self._network.address(FORWARDER), self._state / "forwarder", self.backend)
        return server, FORWARDER_PORT, False

    def dovecot(self, suite: str) -> tuple[Server, int, bool]:
        root = roots.build(suite, "dovecot", say=say)
        number = DOVECOT + roots.SUITES.index(suite)
        places = {f"u{user:07d}@example.org": self._place(user) for user in range(USERS)}
        proxy = DovecotProxy(self._network.address(number), self._state / f"dovecot-{suite}", root, places)
        proxy.configure()
        return proxy, DOVECOT_PORT, False

    def cyrus(self) -> tuple[Server, int, bool]:
        self.start_node()
        address = self._network.address(CYRUS)
        frontend = CyrusFrontend("fe.lab", address, self._state / "cyrus", self._root, backends=["be1.lab", "be2.lab"])
        hosts = {"mup.lab": self.node.address, "fe.lab": address, "be1.lab": self.first, "be2.lab": self.second}
        frontend.configure(hosts, make_sasldb(self._root, self._state / "sasl", ["fe.lab", "mup.lab"]))
        return frontend, LMTP_PORT, False

    def postfix(self) -> tuple[Server, int, bool]:
        lines = []
        for user in range(USERS):
            host, _, port = self._place(user).rpartition(":")
            lines.append(f"u{user:07d}@example.org lmtp:inet:[{host}]:{port}\n")
        state = self._state / "postfix"
        settings = ["lmtp_connection_cache_on_demand = yes", f"transport_maps = texthash:{state}/transport"]
        server = Postfix(
            self._network.address(POSTFIX),
            state,
            self._root,
            transport=f"lmtp:inet:{self.backend}",
            extra=settings,
        )
        (state / "transport").write_text("".join(lines))
        server.configure()
        return server, 25, True

    def _place(self, user: int) -> str:
        """Where mail of user number `user` goes: what the generator of records (mupload) has put into the node, too."""
        return f"{(self.first, self.second)[user % 2]}:{LMTP_OPEN_PORT}"


Make = Callable[[Stage], tuple[Server, int, bool]]

SUBJECTS: dict[str, tuple[str, Make]] = {
    "router": ("lmtp-router, 1 worker", Stage.router),
    "forwarder": ("uvloop forwarder", Stage.forwarder),
    "dovecot-2.3": ("Dovecot 2.3 proxy", lambda stage: stage.dovecot("bookworm")),
    "dovecot-2.4": ("Dovecot 2.4 proxy", lambda stage: stage.dovecot("trixie")),
    "cyrus": ("Cyrus' lmtpd, frontend", Stage.cyrus),
    "postfix": ("Postfix, SMTP to LMTP", Stage.postfix),
}


@contextmanager
def stage(root: Root) -> Iterator[Stage]:
    """Everything on tmpfs; all that was started is ended."""
    with workplace("tmpfs") as (state, network), ExitStack() as stack:
        yield Stage(state, network, root, stack)
