"""Murders without frontends: two servers that are alike, ``mupdate_config: unified`` or ``replicated``.

Rule: unified servers each hold mailboxes, proxy for the other, and have a stock slave; replicated ones share a spool
and have no slave, since that of Cyrus 2.5 and later takes a location without server for a server without partition.
The master is elsewhere, because Cyrus' own refuses to run on a unified server.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

from tests.harness.cyrus import LMTP_OPEN_PORT, LMTP_PORT, MUPDATE_PORT, CyrusBackend, Known
from tests.harness.ours import Config
from tests.harness.roots import Root
from tests.harness.topology import Master, MasterKind
from tests.harness.waiting import wait_until

Mode = Literal["unified", "replicated"]


class CyrusPeer(CyrusBackend):
    """Backend and frontend at once; `spool` is the directory of its default partition, where that is not its own."""

    NOISE: ClassVar[dict[str, str]] = {
        **CyrusBackend.NOISE,
        r"local mailbox .* (wrong|not) in mailbox list": "said of every mailbox of its own when a unified slave begins",
        r"mailbox list synchronization NOT complete": "the same",
        r"kick_mupdate: can't connect to target: No such file": "a replicated server has no slave to kick",
    }

    def __init__(
        self,
        name: str,
        address: str,
        state: Path,
        root: Root,
        *,
        mode: Mode,
        servers: Sequence[str],
        spool: Path | None = None,
    ) -> None:
        extra = {"mupdate_config": mode} | ({"partition-default": str(spool)} if spool else {})
        super().__init__(name, address, state, root, extra=extra)
        self.servers = tuple(servers)
        self.sandbox.shared += [spool] if spool else []
        self._has_slave = mode == "unified"

    def settings(self) -> dict[str, str]:
        return {**super().settings(), "serverlist": " ".join(self.servers)}

    def services(self) -> dict[str, tuple[str, str]]:
        slave = {"mupdate": ("mupdate", f"{self.address}:{MUPDATE_PORT}")} if self._has_slave else {}
        return {
            **slave,
            "imap": ("imapd", f"{self.address}:143"),
            "lmtp": ("lmtpd", f"{self.address}:{LMTP_PORT}"),
            "lmtpopen": ("lmtpd -a", f"{self.address}:{LMTP_OPEN_PORT}"),
        }

    def ready(self) -> bool:
        """Serving, and a slave's first sync is done: it makes its kick socket only then."""
        synchronised = not self._has_slave or (self.state / "conf/socket/mupdate.target").exists()
        return super().ready() and synchronised

    def entries(self) -> dict[str, dict[str, object]]:
        """Return this server's own mailboxes.db: internal name -> fields; tombstones of deleted ones are left out."""
        dump: dict[str, dict[str, object]] = json.loads(self.tool("ctl_mboxlist", "-d"))
        return {name: entry for name, entry in dump.items() if "d" not in str(entry.get("mbtype", ""))}

    def mailboxes(self) -> dict[str, Known]:
        """Return what is known: a local mailbox has a location without server."""
        known = {}
        for name, entry in self.entries().items():
            server, partition, acl = entry.get("server"), entry.get("partition", ""), entry.get("acl", {})
            assert isinstance(acl, dict)
            known[name] = Known(f"{server}!{partition}" if server else str(partition), acl)
        return known

    def sees(self, condition: Callable[[dict[str, Known]], object], what: str, timeout_s: float = 30) -> None:
        """Wait until this server's own mailboxes.db satisfies `condition`."""
        wait_until(lambda: condition(self.mailboxes()), f"{self.name} sees {what}", timeout_s, 0.1)


class Peers(Master):
    """A mupdate master and two servers that are alike."""

    def __init__(
        self, root: Root, state: Path, kind: MasterKind = "ours", *, mode: Mode, config: Config | None = None
    ) -> None:
        settings: Config = {section: dict(values) for section, values in (config or {}).items()}
        settings.setdefault("mupdate", {}).setdefault("mode", mode)
        stock = {"mupdate_config": mode} if mode == "replicated" else None
        super().__init__(root, state, kind, extra=stock, config=settings)
        names = ("be1.lab", "be2.lab")
        spool = state / "be1/part" if mode == "replicated" else None
        self.be1, self.be2 = (
            CyrusPeer(name, self.hosts[name], state / name[:3], root, mode=mode, servers=names, spool=spool)
            for name in names
        )
        for server in (self.be1, self.be2):
            server.configure(self.hosts, self.sasldb)
            self.servers.append(server)

    def start(self) -> Self:
        self.master.start()
        self._start_together(self.servers[1:])
        return self
