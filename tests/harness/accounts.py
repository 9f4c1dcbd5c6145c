"""Passwords for our node: a sasldb written by this machine's own libsasl2, and a real saslauthd.

Rule: a sasldb of a private root may have another format than this machine's library reads, so each side writes its own.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.harness.cyrus import PASSWORDS, PEER
from tests.harness.roots import Root
from tests.harness.sandbox import CHECKOUT
from tests.harness.server import Server

STORE = """
import sys
from cyrusext.net._sasl import ffi, lib
from cyrusext.net.sasl import SaslLogins
path, realm, user, password = sys.argv[1:]
logins = SaslLogins(service="mupdate", hostname=realm, realm=realm, options={
    "pwcheck_method": "auxprop", "auxprop_plugin": "sasldb", "sasldb_path": path, "mech_list": "PLAIN"})
raw = password.encode()
connection = logins.exchange()._holder[0]
sys.exit(lib.sasl_setpass(connection, user.encode(), raw, len(raw), ffi.NULL, 0, lib.SASL_SET_CREATE))
"""


def own_sasldb(path: Path, realm: str, password: str = PASSWORDS[PEER]) -> Path:
    """Write the peers' login into the sasldb of our node (in a process of its own: libsasl2's options are set once)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", STORE, str(path), realm, PEER, password]
    subprocess.run(command, check=True, timeout=60, cwd=CHECKOUT)
    return path


class Saslauthd(Server):
    """A real saslauthd of a root, which checks the users of `sasldb`; clients use `socket`."""

    def __init__(self, state: Path, root: Root, sasldb: Path) -> None:
        super().__init__("saslauthd", "", state, root)
        (state / "sasldb2").write_bytes(sasldb.read_bytes())
        (state / "mux").mkdir(exist_ok=True)
        self.socket = state / "mux" / "mux"

    def command(self) -> Sequence[str | Path]:
        prepare = f"rm -f {self.state}/mux/* && cp {self.state}/sasldb2 /etc/sasldb2"
        return ["sh", "-c", f"{prepare} && exec saslauthd -a sasldb -n 1 -d -m {self.state}/mux"]

    def ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def is_error(self, line: str) -> bool:
        return False
