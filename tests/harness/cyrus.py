"""Real Cyrus servers: a murder's backend, its frontend, and the stock mupdate master.

Rule: every server has its own directory, its own address and the standard ports; a server knows the others by the names
in its /etc/hosts only, as in a real murder (the name in a location is used for IMAP and for LMTP).

Traps that shaped the configurations below:
- sections of cyrus.conf need their braces on lines of their own, or they are silently not run;
- a backend's lmtpd with ``-a`` offers no AUTH PLAIN, and the frontend's deliveries then get 451: port 2003 is for the
  frontend, 2004 (with ``-a``) for Postfix and the router;
- `mupdate_port` is never read, the port belongs into `mupdate_server`; `mupdate_retry_delay` below 2 divides by zero;
- `proxyservers` is what makes a node a backend, so a frontend must not have it;
- paths of sockets must stay below 108 bytes.
"""

from __future__ import annotations

import imaplib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from tests.harness.imap import Imap, Refused, create, login
from tests.harness.roots import Root
from tests.harness.sandbox import Sandbox
from tests.harness.server import Server
from tests.harness.waiting import accepts

ADMIN = "cyrus"
PEER = "murder"
PASSWORDS = {ADMIN: "cyruspw", PEER: "murderpw"}
MUPDATE_PORT = 3905
LMTP_PORT = 2003
LMTP_OPEN_PORT = 2004
"""Deliveries without authentication, for Postfix and the router."""

SERVICES = {
    "smtp": 25,
    "pop3": 110,
    "imap": 143,
    "imaps": 993,
    "lmtp": LMTP_PORT,
    "mupdate": MUPDATE_PORT,
    "sieve": 4190,
    "csync": 2005,
}


LOSES_MASTER = (
    r"mupdate_scarf: ",
    r"mupdate BYE response: ",
    r"mupdate[-_]connect failed: ",
    r"connect\(.*\) failed: Connection (refused|reset by peer)",
    r"couldn't connect to mupdate server",
    r"couldn't authenticate to backend server",
    r"retrying connection to mupdate server",
)
"""What Cyrus logs as errors when its master goes away; a test that does that expects them."""


REFUSED_CREATE = (
    r"MUPDATE: can't commit mailbox entry",
    r"mupdate connection error",
    r"assertion failed: imap/imapd.c: \d+: !open_mailboxes_exist\(\)",
    r"type:SERVICE name:imap .*exited, status 70",
)
"""What a backend logs when the master refused a CREATE; Cyrus 3.10's imapd then dies of an assertion of its own."""


class CyrusServer(Server):
    """One cyrmaster with its own imapd.conf and cyrus.conf; `extra` is more of imapd.conf and wins."""

    NOISE: ClassVar[dict[str, str]] = {
        r"ldapdb_canonuser_plug_init\(\) failed": "libsasl2 loads a plug-in that nobody configured",
        r"auxpropfunc error": "the same",
        r"_sasl_plugin_load failed on sasl_(auxprop|canonuser)_plug_init": "the same",
        r"DBERROR: (reading|opening) .*: No such file|skiplist: .*No such file": "a database that this start creates",
        r"no user deny|DIGEST-MD5 common mech free": "said at every end of a session",
        r"signaled to death by signal 15 ": "cyrmaster passes its own SIGTERM on",
        r"Could not delete local mailbox during move of": "said at every successful XFER: there was nothing to delete",
        r"unable to tell master \d+: Broken pipe": "said by a child that is killed after cyrmaster",
        r"successful mupdate connection": "logged as an error by Cyrus",
        r"unable to open Berkeley db .*sasldb2: No such file": "asked before the file is there",
    }
    FATAL: ClassVar[tuple[str, ...]] = (
        r"signaled to death by signal (?!15\b)",
        r"too many failures for service",
        r"core dumped",
    )

    def __init__(
        self, name: str, address: str, state: Path, root: Root, *, extra: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(name, address, state, root)
        self.extra = dict(extra or {})

    # -- configuration --------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, str]:
        """What this kind of server adds to imapd.conf."""
        raise NotImplementedError

    def services(self) -> dict[str, tuple[str, str]]:
        """service -> (command, what it listens on)."""
        raise NotImplementedError

    def starts(self) -> dict[str, str]:
        return {"recover": "ctl_cyrusdb -r"}

    def configure(self, hosts: dict[str, str], sasldb: Path) -> None:
        """Write everything the server reads; `hosts` maps names to addresses."""
        for folder in ("db", "proc", "lock", "log", "msg", "socket", "user", "backup"):
            (self.state / "conf" / folder).mkdir(parents=True, exist_ok=True)
        for folder in ("part", "part2", "sock", "sieve"):
            (self.state / folder).mkdir(exist_ok=True)
        (self.state / "hosts").write_text("".join(f"{a} {n}\n" for n, a in {"localhost": "127.0.0.1", **hosts}.items()))
        (self.state / "services").write_text("".join(f"{name}\t{port}/tcp\n" for name, port in SERVICES.items()))
        (self.state / "sasldb2").write_bytes(sasldb.read_bytes())
        settings = {
            "configdirectory": f"{self.state}/conf",
            "defaultpartition": "default",
            "partition-default": f"{self.state}/part",
            "partition-second": f"{self.state}/part2",
            "sievedir": f"{self.state}/sieve",
            "servername": self.name,
            "syslog_prefix": self.name.partition(".")[0],
            "lmtpsocket": f"{self.state}/sock/lmtp",
            "idlesocket": f"{self.state}/sock/idle",
            "notifysocket": f"{self.state}/sock/notify",
            "admins": ADMIN,
            "unixhierarchysep": "no",
            "altnamespace": "no",
            "virtdomains": "off",
            "allowplaintext": "yes",
            "sasl_pwcheck_method": "auxprop",
            "sasl_auxprop_plugin": "sasldb",
            "sasl_sasldb_path": f"{self.state}/sasldb2",
            "sasl_mech_list": "PLAIN",
            "client_bind": "yes",
            **self.settings(),
            **self.extra,
        }
        (self.state / "imapd.conf").write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
        self._write_cyrus_conf()
        self._give_to_cyrus()

    def _write_cyrus_conf(self) -> None:
        config = f"-C {self.state}/imapd.conf"
        lines = ["START {"]
        for name, command in self.starts().items():
            program, _, arguments = command.partition(" ")
            lines.append(f'  {name} cmd="{program} {config} {arguments}"')
        lines += ["}", "SERVICES {"]
        for name, (command, listen) in self.services().items():
            program, _, arguments = command.partition(" ")
            one = " maxchild=1" if program == "mupdate" else ""
            prefork = 1 if program in ("mupdate", "imapd") else 0
            lines.append(f'  {name} cmd="{program} {config} {arguments}" listen="{listen}" prefork={prefork}{one}')
        (self.state / "cyrus.conf").write_text("\n".join([*lines, "}", "EVENTS {", "}", ""]))

    def _give_to_cyrus(self) -> None:
        inside = [self.state / name for name in ("conf", "part", "part2", "sock", "sieve", "sasldb2")]
        self.sandbox.run("chown", "-R", "cyrus:mail", *inside)

    # -- life -----------------------------------------------------------------------------------------------------

    def command(self) -> Sequence[str | Path]:
        here = self.state
        return ["cyrmaster", "-C", here / "imapd.conf", "-M", here / "cyrus.conf", "-p", here / "master.pid", "-D"]

    def is_error(self, line: str) -> bool:
        match = re.match(r"\S+ (\d+) ", line)
        return match is not None and int(match[1]) & 7 <= 3

    def tool(self, program: str, *arguments: str, check: bool = True) -> str:
        """Run one of Cyrus' own commands on this server's data (it becomes user cyrus by itself)."""
        return self.sandbox.run(
            f"/usr/lib/cyrus/bin/{program}", "-C", self.state / "imapd.conf", *arguments, check=check
        )


class Known(NamedTuple):
    """What a frontend has stored of a mailbox: ``server!partition``, and the ACL as user -> rights."""

    location: str
    acl: dict[str, str]


class CyrusMupdate(CyrusServer):
    """The stock mupdate master: the peer that ours is compared with."""

    def settings(self) -> dict[str, str]:
        return {"mupdate_admins": f"{ADMIN} {PEER}"}

    def services(self) -> dict[str, tuple[str, str]]:
        return {"mupdate": ("mupdate -m", f"{self.address}:{MUPDATE_PORT}")}

    def ready(self) -> bool:
        return accepts(self.address, MUPDATE_PORT)


class CyrusMember(CyrusServer):
    """What backends and frontends share: they know a mupdate master and serve mail."""

    def __init__(
        self,
        name: str,
        address: str,
        state: Path,
        root: Root,
        *,
        mupdate: str = "mup.lab",
        extra: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, address, state, root, extra=extra)
        self.mupdate = mupdate

    def settings(self) -> dict[str, str]:
        return {
            "mupdate_server": f"{self.mupdate}:{MUPDATE_PORT}",
            "mupdate_username": PEER,
            "mupdate_authname": PEER,
            "mupdate_password": PASSWORDS[PEER],
            "mupdate_realm": "mup.lab",
            "mupdate_retry_delay": "2",
            "proxy_authname": PEER,
            "proxy_password": PASSWORDS[PEER],
        }

    def ready(self) -> bool:
        return accepts(self.address, 143)

    def imap(self, user: str = ADMIN) -> Imap:
        """Log in as anybody: the administrator vouches, so that users need no passwords."""
        return login(self.address, user, ADMIN, PASSWORDS[ADMIN])


class CyrusBackend(CyrusMember):
    """Holds mailboxes and tells the master.  Port 2003 wants authentication, 2004 takes mail from anyone here."""

    def settings(self) -> dict[str, str]:
        return {
            **super().settings(),
            "admins": f"{ADMIN} {PEER}",  # XFER speaks the replication protocol, which only admins may
            "proxyservers": PEER,
            "lmtp_admins": PEER,
            "allowusermoves": "yes",
        }

    def starts(self) -> dict[str, str]:
        return {**super().starts(), "push": "ctl_mboxlist -m"}

    def services(self) -> dict[str, tuple[str, str]]:
        return {
            "imap": ("imapd", f"{self.address}:143"),
            "pop3": ("pop3d", f"{self.address}:110"),
            "lmtp": ("lmtpd", f"{self.address}:{LMTP_PORT}"),
            "lmtpopen": ("lmtpd -a", f"{self.address}:{LMTP_OPEN_PORT}"),
        }

    def try_create(self, mailbox: str) -> bool:
        """CREATE by IMAP; says whether it was acknowledged.  Expects what a refusal leaves in the log."""
        self.expect(*REFUSED_CREATE)
        try:
            with self.imap() as admin:
                create(admin, mailbox)
        except (Refused, imaplib.IMAP4.abort):
            return False
        return True


class CyrusFrontend(CyrusMember):
    """imapd, pop3d and lmtpd as proxies, and the stock `mupdate` slave that follows the master."""

    def __init__(
        self,
        name: str,
        address: str,
        state: Path,
        root: Root,
        *,
        backends: Sequence[str],
        mupdate: str = "mup.lab",
        extra: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, address, state, root, mupdate=mupdate, extra=extra)
        self.backends = tuple(backends)

    def settings(self) -> dict[str, str]:
        return {**super().settings(), "serverlist": " ".join(self.backends)}

    def services(self) -> dict[str, tuple[str, str]]:
        return {
            "mupdate": ("mupdate", f"{self.address}:{MUPDATE_PORT}"),
            "imap": ("imapd", f"{self.address}:143"),
            "pop3": ("pop3d", f"{self.address}:110"),
            "lmtp": ("lmtpd -a", f"{self.address}:{LMTP_PORT}"),
        }

    def mailboxes(self) -> dict[str, Known]:
        """Return the frontend's own mailboxes.db, which its slave keeps: internal name -> what is known."""
        dump = json.loads(self.tool("ctl_mboxlist", "-d"))
        return {name: Known(f"{m.get('server', '')}!{m['partition']}", m.get("acl", {})) for name, m in dump.items()}

    def ready(self) -> bool:
        """Serving, and the slave's first sync is done: it makes its kick socket only then."""
        return super().ready() and (self.state / "conf/socket/mupdate.target").exists()


def make_sasldb(root: Root, state: Path, realms: Sequence[str]) -> Path:
    """Write one sasldb with the administrator and the peer in every realm; each server gets a copy."""
    state.mkdir(parents=True, exist_ok=True)
    commands = [
        f"printf %s {password} | saslpasswd2 -p -c -f {state}/sasldb2 -u {realm} {user}"
        for realm in realms
        for user, password in PASSWORDS.items()
    ]
    Sandbox(state, root).run("sh", "-ec", "\n".join(commands))
    return state / "sasldb2"
