"""Do real Cyrus backends log in at our node with every mechanism, and come through STARTTLS and with a certificate?

A backend's own choice is limited by ``force_sasl_client_mech``; what it did is read in the node's log.
"""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.harness import imap
from tests.harness.certificates import Authority
from tests.harness.cyrus import PASSWORDS, PEER, CyrusBackend, make_sasldb
from tests.harness.mupdate import Mupdate
from tests.harness.network import Network, OwnNetwork
from tests.harness.ours import Config, Node
from tests.harness.roots import Root
from tests.harness.topology import HOSTS, Group

pytestmark = pytest.mark.integration

STORE_PASSWORD = """
import sys
from cyrusext.net._sasl import ffi, lib
from cyrusext.net.sasl import SaslLogins
logins = SaslLogins(service="mupdate", hostname="mup.lab", realm="mup.lab", options={
    "pwcheck_method": "auxprop", "auxprop_plugin": "sasldb", "sasldb_path": sys.argv[1], "mech_list": "PLAIN"})
exchange = logins.exchange()
user, password = (word.encode() for word in sys.argv[2:])
sys.exit(lib.sasl_setpass(exchange._holder[0], user, password, len(password), ffi.NULL, 0, lib.SASL_SET_CREATE))
"""


class Backed(Group):
    """Our node with a sasldb of this machine's own libsasl2, and one real backend that logs in there."""

    def __init__(
        self, root: Root, state: Path, mupdate: dict[str, Any], backend: dict[str, str], network: Network | None = None
    ) -> None:
        super().__init__(root, state, network)
        sasldb = state / "node-sasldb2"
        subprocess.run([sys.executable, "-c", STORE_PASSWORD, sasldb, PEER, PASSWORDS[PEER]], check=True, timeout=60)
        section = {"pwcheck": "sasldb", "password_file": "", "sasldb_path": str(sasldb), "realm": "mup.lab", **mupdate}
        config: Config = {"mupdate": section}
        self.node = Node(self.hosts["mup.lab"], state / "node", {"be1.lab": self.hosts["be1.lab"]}, config)
        self.node.configure()
        self.be1 = CyrusBackend("be1.lab", self.hosts["be1.lab"], state / "be1", root, extra=backend)
        self.be1.configure(
            self.hosts, make_sasldb(root, state / "sasl", [name for name in HOSTS if name != "wire.lab"])
        )
        self.servers = [self.node, self.be1]

    def start(self) -> Backed:
        self.node.start()
        self._start_together([self.be1])
        return self

    def create(self) -> str:
        name = f"user.{self.user()}"
        with self.be1.imap() as admin:
            imap.create(admin, name)
        return name

    def known(self, name: str) -> bool:
        return name in self.node.cli("mailbox", "list").stdout

    def list_with(self, mechanism: str) -> str:
        """Run ``ctl_mboxlist -m -w`` with this mechanism alone; returns what it would do."""
        plain = (self.be1.state / "imapd.conf").read_text()
        (self.be1.state / "forced.conf").write_text(f"{plain}force_sasl_client_mech: {mechanism}\n")
        command = "/usr/lib/cyrus/bin/ctl_mboxlist"
        return self.be1.sandbox.run(command, "-C", self.be1.state / "forced.conf", "-m", "-w")


UNVERIFIED = r"verify error:num=(19:self-signed certificate|20:unable to get local issuer)"
"""Cyrus logs it and goes on: it checks no master's certificate."""

EVERY = ["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "DIGEST-MD5"]


@pytest.fixture(scope="module")
def backed(root: Root, new_state: Callable[[], Path]) -> Iterator[Backed]:
    with Backed(root, new_state(), {"mechanisms": EVERY}, {}) as group:
        yield group


def test_a_backend_chooses_scram_sha_512_by_itself(backed: Backed) -> None:
    since = backed.node.mark()
    name = backed.create()
    assert backed.known(name)
    backed.node.wait_log(r"event=mupdate\.login .*mechanism=SCRAM-SHA-512", since, 5)
    assert not backed.node.log_contains(r"mechanism=(?!SCRAM-SHA-512)", since)


@pytest.mark.parametrize("mechanism", EVERY)
def test_each_mechanism_is_taken_from_cyrus(backed: Backed, mechanism: str) -> None:
    backed.create()
    since = backed.node.mark()
    assert backed.list_with(mechanism).strip() == ""
    backed.node.wait_log(rf"event=mupdate\.login .*mechanism={mechanism}\b", since, 5)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def tls_of(authority: Authority) -> dict[str, Any]:
    server = authority.issue("mup", "/CN=mup.lab", "DNS:mup.lab")
    return {"tls_cert": str(server.cert), "tls_key": str(server.key)}


def test_a_backend_comes_through_starttls_with_its_certificate(
    root: Root, new_state: Callable[[], Path], authority: Authority
) -> None:
    """EXTERNAL alone: before TLS nothing is offered, which is what makes Cyrus begin TLS."""
    state = new_state()
    client = authority.issue("be1", f"/CN={PEER}")
    (state / "be1").mkdir()
    backend = {"tls_client_cert": f"{state}/be1/client.pem", "tls_client_key": f"{state}/be1/client.key"}
    for source, target in zip(client, backend.values(), strict=True):
        Path(target).write_bytes(source.read_bytes())
        Path(target).chmod(0o644)
    mupdate = {"mechanisms": ["EXTERNAL"], "tls_client_ca": str(authority.ca), **tls_of(authority)}
    with Backed(root, state, mupdate, backend) as group:
        group.be1.expect(UNVERIFIED)
        with Mupdate(group.node.address, user="") as stranger:
            assert stranger.banner[0] == b"* AUTH"
        name = group.create()
        assert group.known(name)
        login = rf"event=mupdate\.login .*user={PEER} mechanism=EXTERNAL tls=true"
        assert len([line for line in group.node.log_lines() if re.search(login, line)]) >= 2  # its start and its CREATE


def test_beyond_loopback_a_backend_s_password_goes_through_tls(
    root: Root, new_state: Callable[[], Path], authority: Authority
) -> None:
    """PLAIN alone: a client from another address than loopback is offered it under TLS and not before."""
    mupdate = {"mechanisms": ["PLAIN"], **tls_of(authority)}

    def run() -> None:
        with Backed(root, new_state(), mupdate, {}, OwnNetwork()) as group:
            group.be1.expect(UNVERIFIED)
            with Mupdate(group.node.address, user="") as stranger:
                assert stranger.banner[:2] == [b"* AUTH", b"* STARTTLS"]
                secret = base64.b64encode(f"\0{PEER}\0{PASSWORDS[PEER]}".encode())
                assert stranger.command(b'AUTHENTICATE "PLAIN"', secret)[-1].verb == "NO"
            name = group.create()
            assert group.known(name)
            login = rf"event=mupdate\.login peer={re.escape(group.be1.address)}:\d+ .*mechanism=PLAIN tls=true"
            assert len([line for line in group.node.log_lines() if re.search(login, line)]) >= 2

    with ThreadPoolExecutor(1) as thread:  # a network namespace is a thread's, and its children's
        thread.submit(run).result(100)
