"""A real Dovecot, 2.3 or 2.4: as an LMTP proxy whose backends stand in a file, and as a store that takes mail by LMTP.

Rule: the proxy runs as it costs least for proxying: one lmtp process for all clients (by default each has its own), the
answers about users kept in memory.  Trap: a user name that is rewritten makes it send ORCPT, which Cyrus refuses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tests.harness.roots import Root, package_version
from tests.harness.server import Server
from tests.harness.waiting import accepts

LMTP_PORT = 24

COMMON = """\
protocols = lmtp
listen = {address}
base_dir = {state}/run
state_dir = {state}/run
log_path = {state}/log
ssl = no
service lmtp {{
  inet_listener lmtp {{
    {listen} = {address}
    port = {port}
  }}
}}
"""
PROXY = """\
lmtp_proxy = yes
auth_cache_size = 10M
auth_cache_ttl = 1 hour
service lmtp {
  client_limit = 1000
  process_limit = 1
  process_min_avail = 1
}
"""

PASSDB = {
    "2.3": "passdb {{\n  driver = passwd-file\n  args = {users}\n}}\n",
    "2.4": "passdb passwd-file {{\n  passwd_file_path = {users}\n}}\n",
}
HEAD = {"2.3": "", "2.4": "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"}
LISTEN = {"2.3": "address", "2.4": "listen"}

STORE = """\
mail_save_crlf = yes
login_trusted_networks = 127.0.0.0/8
"""
STORE_USERS = {
    "2.3": """\
mail_location = maildir:~/mail
userdb {{
  driver = passwd-file
  args = {users}
}}
passdb {{
  driver = passwd-file
  args = {users}
}}
""",
    "2.4": """\
mail_driver = maildir
mail_path = ~/mail
userdb passwd-file {{
  passwd_file_path = {users}
}}
passdb passwd-file {{
  passwd_file_path = {users}
}}
""",
}
"""Nobody logs in, but without a passdb its auth does not start."""
OWNER = 883
"""Who has the mail: Dovecot's own user in each root."""


class Dovecot(Server):
    """What both have in common."""

    NOISE: ClassVar[dict[str, str]] = {
        r"stats-writer \(pid=\d+,uid=\d+\): Timeout waiting for handshake": "it ended before its statistics had begun",
    }

    def __init__(self, name: str, address: str, state: Path, root: Root) -> None:
        super().__init__(name, address, state, root)
        self.version = package_version(root, "dovecot-core").partition(":")[2]

    def write(self, special: str) -> None:
        """Write the configuration: what both have in common, and what is `special`."""
        branch = self.version[:3]
        common = COMMON.format(address=self.address, state=self.state, port=LMTP_PORT, listen=LISTEN[branch])
        (self.state / "dovecot.conf").write_text(HEAD[branch] + common + special)

    def command(self) -> Sequence[str | Path]:
        return ["dovecot", "-F", "-c", self.state / "dovecot.conf"]

    def ready(self) -> bool:
        return accepts(self.address, LMTP_PORT)

    def is_error(self, line: str) -> bool:
        return re.search(r"\b(Error|Fatal|Panic): ", line) is not None


class DovecotStore(Dovecot):
    """One Dovecot that keeps mail in maildirs; the networks of this machine may tell it who sends (XCLIENT)."""

    def configure(self) -> None:
        (self.state / "users").touch()
        self.write(STORE + STORE_USERS[self.version[:3]].format(users=self.state / "users"))

    def create(self, address: str) -> None:
        """Make a user, whose name is the whole address.  Dovecot looks for new ones once a second."""
        home = self.state / "mail" / address
        home.mkdir(parents=True)
        for place in (home, home.parent):
            os.chown(place, OWNER, OWNER)
        with (self.state / "users").open("a") as users:
            users.write(f"{address}::{OWNER}:{OWNER}::{home}::\n")

    def inbox(self, address: str) -> list[bytes]:
        """Every message of a user, oldest first."""
        folders = [self.state / "mail" / address / "mail" / name for name in ("new", "cur")]
        files = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
        return [file.read_bytes() for file in sorted(files, key=lambda file: file.name)]


class DovecotProxy(Dovecot):
    """One Dovecot; `backends` says where each user's mail goes, ``address:port``."""

    def __init__(self, address: str, state: Path, root: Root, backends: Mapping[str, str]) -> None:
        super().__init__("dovecot", address, state, root)
        self._backends = dict(backends)

    def configure(self) -> None:
        users = self.state / "users"
        lines = []
        for user, place in self._backends.items():
            host, _, port = place.rpartition(":")
            lines.append(f"{user}:::::::proxy=y nopassword=y host={host} port={port}\n")
        users.write_text("".join(lines))
        self.write(PROXY + PASSDB[self.version[:3]].format(users=users))
