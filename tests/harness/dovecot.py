"""A real Dovecot as an LMTP proxy, 2.3 or 2.4: each user's backend stands in a file.

Rule: it runs as it costs least for proxying: one lmtp process for all clients (by default each has its own), the
answers about users kept in memory.  Trap: a user name that is rewritten makes it send ORCPT, which Cyrus refuses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

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
lmtp_proxy = yes
auth_cache_size = 10M
auth_cache_ttl = 1 hour
service lmtp {{
  client_limit = 1000
  process_limit = 1
  process_min_avail = 1
  inet_listener lmtp {{
    {listen} = {address}
    port = {port}
  }}
}}
"""

PASSDB = {
    "2.3": "passdb {{\n  driver = passwd-file\n  args = {users}\n}}\n",
    "2.4": "passdb passwd-file {{\n  passwd_file_path = {users}\n}}\n",
}
HEAD = {"2.3": "", "2.4": "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"}
LISTEN = {"2.3": "address", "2.4": "listen"}


class DovecotProxy(Server):
    """One Dovecot; `backends` says where each user's mail goes, ``address:port``."""

    def __init__(self, address: str, state: Path, root: Root, backends: Mapping[str, str]) -> None:
        super().__init__("dovecot", address, state, root)
        self._backends = dict(backends)
        self.version = package_version(root, "dovecot-core").partition(":")[2]

    def configure(self) -> None:
        users = self.state / "users"
        lines = []
        for user, place in self._backends.items():
            host, _, port = place.rpartition(":")
            lines.append(f"{user}:::::::proxy=y nopassword=y host={host} port={port}\n")
        users.write_text("".join(lines))
        branch = self.version[:3]
        text = HEAD[branch] + COMMON.format(
            address=self.address, state=self.state, port=LMTP_PORT, listen=LISTEN[branch]
        )
        (self.state / "dovecot.conf").write_text(text + PASSDB[branch].format(users=users))

    def command(self) -> Sequence[str | Path]:
        return ["dovecot", "-F", "-c", self.state / "dovecot.conf"]

    def ready(self) -> bool:
        return accepts(self.address, LMTP_PORT)

    def is_error(self, line: str) -> bool:
        return re.search(r"\b(Error|Fatal|Panic): ", line) is not None
