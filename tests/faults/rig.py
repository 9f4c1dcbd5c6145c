"""A murder with our router beside it, its node under a supervisor, and what a test asks of it after a fault.

Rule: what is asked is what a user sees: mail byte for byte by IMAP, the router's reply to a recipient, the lists of the
backends, the node and the frontend beside each other.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.harness import failpoints, imap
from tests.harness.cyrus import LOSES_MASTER, REFUSED_CREATE, CyrusBackend
from tests.harness.failpoints import FailingNode
from tests.harness.lmtp import Lmtp
from tests.harness.ours import ROUTER_PORT, Config, Router
from tests.harness.roots import Root
from tests.harness.supervisor import Supervisor
from tests.harness.topology import ROUTER_HOST, Murder
from tests.harness.waiting import wait_until
from tests.harness.wirefault import WireFault

CLIENT_TIMEOUT_S = 3
"""Cyrus' client_timeout here (its default is 10)."""
WATCHDOG_S = 2.0
"""WatchdogSec of the node here (the unit's is longer)."""
MARGIN_S = 45.0
"""What a loaded machine may add to any of them."""

BROKEN_OFF = (
    *REFUSED_CREATE,
    *LOSES_MASTER,
    r"cannot connect to mupdate server",
    r"MUPDATE: can't",
    r"MUPDATE DEACTIVATE failed",
    r"MUPDATE ACTIVATE failed",
    r"[Cc]ould not",
    r"can't (reserve|activate|delete|commit|deactivate) mailbox",
    r"mupdate.*(failed|error)",
    r"error communicating with",
    r"Failed to",
    r"sync_",
    r"IOERROR: user replication failed",
    r"kick_mupdate: can.t",
    r"signaled to death by signal 9 ",  # cyrmaster lives a moment longer than a child that is killed with it
)
"""What Cyrus logs of an operation that its master did not see to the end."""


class Place(NamedTuple):
    """What is known of a mailbox: at which server, and who may do what."""

    server: str
    acl: tuple[tuple[str, str], ...]


class Rig(Murder):
    """The murder, its wire, a router; the node is of the debug build and supervised while the rig runs."""

    node: FailingNode
    wire: WireFault

    def __init__(self, root: Root, state: Path, config: Config | None = None) -> None:
        failpoints.build()
        super().__init__(
            root,
            state,
            "ours",
            config=config,
            extra={"client_timeout": str(CLIENT_TIMEOUT_S)},
            wire=True,
            node_type=FailingNode,
        )
        self.router = Router(self.network.address(ROUTER_HOST), state / "router", self.node)
        self.router.configure()
        self.router.expect(r"event=\S+")  # it complains of what is done to the others
        self.servers.append(self.router)
        for server in (self.be1, self.be2, self.fe):
            server.expect(*BROKEN_OFF)
        self.supervisor = Supervisor(self.node, watchdog_s=WATCHDOG_S)
        self.supervisor.watching = False
        self.pool = ThreadPoolExecutor(4)

    def start(self) -> Rig:
        self.supervisor.start()
        self.supervisor.wait_up()
        self._start_together(self.servers[1:])
        return self

    def close(self) -> None:
        try:
            self.supervisor.stop()
        finally:
            self.pool.shutdown()
            super().close()

    @property
    def backends(self) -> tuple[CyrusBackend, CyrusBackend]:
        return self.be1, self.be2

    # -- what a user sees -----------------------------------------------------------------------------------------

    def mail(self, user: str) -> Counter[bytes]:
        """Return every message of a user on both backends, as IMAP shows it, with the number of its copies."""
        copies: Counter[bytes] = Counter()
        for backend in self.backends:
            with backend.imap(user) as connection:
                for mailbox in sorted(imap.listed(connection)):
                    copies.update(imap.messages(connection, mailbox))
        return copies

    def router_says(self, user: str) -> int:
        """Return the code of the router's reply to a recipient."""
        with Lmtp(self.router.address, ROUTER_PORT) as client:
            client.command("MAIL FROM:<>")
            return client.command(f"RCPT TO:<{user}@example.org>").code

    def local(self, backend: CyrusBackend, user: str) -> dict[str, Place]:
        """Return what a backend has of a user, DELETED mailboxes included: internal name -> place."""
        dump = json.loads(backend.tool("ctl_mboxlist", "-d"))
        return {
            name: Place(backend.name, tuple(sorted(entry.get("acl", {}).items())))
            for name, entry in dump.items()
            if is_of(user, name) and "d" not in entry.get("mbtype", "")
        }

    def known(self, user: str) -> dict[str, Place | None]:
        """Return what the node knows of a user; None for a reservation."""
        with self.mupdate() as client:
            entries = [entry for entry in client.list() if is_of(user, entry.name.decode())]
        return {
            entry.name.decode(): None if entry.acl is None else Place(entry.server, parse_acl(entry.acl))
            for entry in entries
        }

    # -- what an operator does ------------------------------------------------------------------------------------

    def push(self, first: CyrusBackend) -> None:
        """``ctl_mboxlist -m`` on both backends, begun with `first`.

        The other is begun at once: a target may have to wait for its source.
        """
        order = (first, *(backend for backend in self.backends if backend is not first))
        pushes = [self.pool.submit(backend.tool, "ctl_mboxlist", "-m") for backend in order]
        for push in pushes:
            push.result(60 + MARGIN_S)

    def all_agree(self, user: str, timeout_s: float = MARGIN_S) -> None:
        """Each mailbox of the user is on one backend, and node and frontend know it there with its ACL.

        A copy that a push removes goes to DELETED of its backend, of which Cyrus tells nobody before its next push.
        """
        at_be1, at_be2 = (self.local(backend, user) for backend in self.backends)
        assert not at_be1.keys() & at_be2.keys(), f"on both backends: {at_be1.keys() & at_be2.keys()}"
        there = {**at_be1, **at_be2}
        known = self.known(user)
        untold = {name for name in there.keys() - known.keys() if name.startswith("DELETED.")}
        there = {name: place for name, place in there.items() if name not in untold}
        assert known == there, f"the node knows {known}, the backends have {there}"
        wait_until(lambda: self.at_frontend(user) == there, f"the frontend knows {there}", timeout_s, 0.2)

    def fe_is_in_step(self) -> None:
        """Wait until the frontend's whole list is the node's."""

        def same() -> bool:
            with self.mupdate() as client:
                entries = {entry.name.decode(): (entry.server, entry.acl is not None) for entry in client.list()}
            known = self.fe.mailboxes()
            return entries.keys() == known.keys() and all(
                known[name].location.partition("!")[0] == server for name, (server, _) in entries.items()
            )

        wait_until(same, "the frontend's list is the node's", MARGIN_S, 0.2)

    def at_frontend(self, user: str) -> dict[str, Place]:
        """Return what the frontend's own list says of a user."""
        return {
            name: Place(entry.location.partition("!")[0], tuple(sorted(entry.acl.items())))
            for name, entry in self.fe.mailboxes().items()
            if is_of(user, name)
        }

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """The node's watchdog counts, as it always does in life; tests on a loaded machine want it when it is due."""
        self.supervisor.watching = True
        try:
            yield
        finally:
            self.supervisor.watching = False


def is_of(user: str, name: str) -> bool:
    words = name.split(".")
    return f"user.{user}" in (name, ".".join(words[:2]), ".".join(words[1:3]))


def parse_acl(raw: bytes) -> tuple[tuple[str, str], ...]:
    words = raw.decode().split("\t")
    return tuple(sorted(zip(words[0:-1:2], words[1::2], strict=False)))
