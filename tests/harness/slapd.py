"""A real slapd with the configuration that we ship, on an address of its own: one voter of a directory.

Rule: what runs is packaging/ldap/ itself (slapd.conf or, `form` "cn=config", voter.ldif) with other places in it and
without its TLS lines; the database is on the file system of `state`, written synchronously.

Traps: slapadd runs as the server's user, else slapd can not open what it
left; the database is as large as `maxsize` to `ls` and sparse, so its size is counted in blocks.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from tests.harness.network import Network
from tests.harness.roots import Root
from tests.harness.sandbox import CHECKOUT
from tests.harness.server import Server, stop_all
from tests.harness.waiting import accepts

PORT = 389
BASE = "ou=cyrusext,dc=example,dc=org"
WRITER = f"cn=generation-1,ou=writers,{BASE}"
OPERATOR = f"cn=operator,{BASE}"
SECRET = "lab"
"""Password of both."""
Form = Literal["slapd.conf", "cn=config"]

SHIPPED = CHECKOUT / "packaging" / "ldap"
TLS_LINES = re.compile(r"^(olc)?(TLS\w+|[Ss]ecurity):? .*\n", re.MULTILINE)


class Slapd(Server):
    """One slapd that votes.  `variables` are of its environment (a clock of its own)."""

    FATAL: ClassVar[tuple[str, ...]] = (r"slapd\[\d+\]: .*(assert|mdb_\w+ failed|MDB_\w+:)",)

    def __init__(self, name: str, address: str, state: Path, root: Root, *, form: Form = "slapd.conf") -> None:
        super().__init__(name, address, state, root)
        self.form = form
        self.variables: dict[str, str] = {}

    @property
    def uri(self) -> str:
        return f"ldap://{self.address}:{PORT}"

    @property
    def database(self) -> Path:
        return self.state / "db"

    def configure(self, extra: Iterable[str] = ()) -> None:
        """Write the configuration and an empty database with what `base.ldif` says, and `extra` entries."""
        self.database.mkdir(exist_ok=True)
        for name in ("cyrusext.schema", "cyrusext.ldif"):
            (self.state / name).write_text((SHIPPED / name).read_text())
        (self.state / "slapd.conf").write_text(self._placed("slapd.conf"))
        if self.form == "cn=config":
            (self.state / "voter.ldif").write_text(self._placed("voter.ldif"))
            (self.state / "slapd.d").mkdir(exist_ok=True)
        self.sandbox.run("sh", "-ec", "chown -R openldap:openldap .; chmod 700 db")
        if self.form == "cn=config":
            self._as_server("slapadd", "-n", "0", "-F", "slapd.d", "-l", "voter.ldif")
        self.load([self._base(), *extra])

    def load(self, ldif: Iterable[str], timeout_s: float = 60.0) -> None:
        """Add entries with slapadd; the server must not run."""
        file = self.state / "load.ldif"
        with file.open("w") as out:
            out.writelines(ldif)
        self._as_server("slapadd", "-q", *self._configuration, "-l", "load.ldif", timeout_s=timeout_s)
        file.unlink()

    def dump(self) -> str:
        """What slapcat prints, whether the server runs or not."""
        return self._as_server("slapcat", "-o", "ldif-wrap=no", *self._configuration)

    def wipe(self) -> None:
        """Lose the disk: the database is as `configure` left it."""
        for file in self.database.iterdir():
            file.unlink()
        self.load([self._base()])

    def database_bytes(self) -> int:
        return (self.database / "data.mdb").stat().st_blocks * 512

    def command(self) -> Sequence[str | Path]:
        urls = f"{self.uri}/"
        set_ = [f"{name}={value}" for name, value in self.variables.items()]
        return ["env", *set_, "slapd", "-d", "0", "-u", "openldap", "-g", "openldap", "-h", urls, *self._configuration]

    def ready(self) -> bool:
        return accepts(self.address, PORT)

    def is_error(self, line: str) -> bool:
        match = re.match(r"\S+ (\d+) ", line)
        return match is not None and int(match[1]) & 7 <= 3

    # -- inside ---------------------------------------------------------------------------------------------------

    @property
    def _configuration(self) -> list[str]:
        return ["-f", f"{self.state}/slapd.conf"] if self.form == "slapd.conf" else ["-F", f"{self.state}/slapd.d"]

    def _as_server(self, *command: str, timeout_s: float = 60.0) -> str:
        line = ["setpriv", "--reuid=openldap", "--regid=openldap", "--clear-groups", *command]
        return self.sandbox.run(*line, timeout_s=timeout_s)

    def _placed(self, name: str) -> str:
        """A file of packaging/ldap with the places of this server."""
        text = TLS_LINES.sub("", (SHIPPED / name).read_text())
        places = {"/etc/ldap/schema/cyrusext": f"{self.state}/cyrusext", "/var/lib/ldap": str(self.database)}
        for there, here in {**places, "/run/slapd": str(self.state)}.items():
            text = text.replace(there, here)
        return text

    def _base(self) -> str:
        digest = hashlib.sha1(SECRET.encode() + b"salt").digest() + b"salt"
        hashed = "{SSHA}" + base64.b64encode(digest).decode()
        text = (SHIPPED / "base.ldif").read_text()
        return re.sub(r"^userPassword: .*$", f"userPassword: {hashed}", text, flags=re.MULTILINE) + "\n"


@contextlib.contextmanager
def voters(
    root: Root, state: Path, network: Network, count: int = 3, *, first_host: int = 30, form: Form = "slapd.conf"
) -> Iterator[list[Slapd]]:
    """So many running slapds that know nothing of each other; each checked and ended with the context."""
    servers = [
        Slapd(f"slapd{number}", network.address(first_host + number), state / f"slapd{number}", root, form=form)
        for number in range(count)
    ]
    try:
        for server in servers:
            server.configure()
            server.start()
        yield servers
    finally:
        stop_all(servers)
