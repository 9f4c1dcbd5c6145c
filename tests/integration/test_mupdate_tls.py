"""Do real Cyrus backends log in at our node with every mechanism, and come through STARTTLS and with a certificate?

A backend's own choice is limited by ``force_sasl_client_mech``; what it did is read in the node's log.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cyrusext.net.tls import identity_of
from tests.harness import imap
from tests.harness.accounts import Saslauthd, own_sasldb
from tests.harness.certificates import Authority
from tests.harness.cyrus import PASSWORDS, PEER, CyrusBackend, make_sasldb
from tests.harness.mupdate import Mupdate
from tests.harness.network import Network, OwnNetwork
from tests.harness.ours import Config, Node
from tests.harness.roots import Root
from tests.harness.topology import HOSTS, Group
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration


class Backed(Group):
    """Our node with a sasldb of this machine's own libsasl2, and one real backend that logs in there."""

    def __init__(
        self, root: Root, state: Path, mupdate: dict[str, Any], backend: dict[str, str], network: Network | None = None
    ) -> None:
        super().__init__(root, state, network)
        sasldb = own_sasldb(state / "node-sasldb2", "mup.lab")
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


def login_takes(node: Node, user: str, password: str) -> bool:
    with Mupdate(node.address, user="") as client:
        secret = base64.b64encode(f"\0{user}\0{password}".encode())
        return client.command(b'AUTHENTICATE "PLAIN"', secret)[-1].verb == "OK"


def test_saslauthd_is_asked_and_its_absence_is_a_refusal(root: Root, new_state: Callable[[], Path]) -> None:
    state, network = new_state(), Network()
    try:
        saslauthd = Saslauthd(state / "saslauthd", root, make_sasldb(root, state / "sasl", ["mup.lab"]))
        mupdate = {
            "pwcheck": "saslauthd",
            "password_file": "",
            "realm": "mup.lab",
            "saslauthd_path": str(saslauthd.socket),
        }
        node = Node(network.address(10), state / "node", {}, {"mupdate": mupdate})
        node.configure()
        with contextlib.closing(saslauthd), contextlib.closing(node):
            saslauthd.start()
            node.start()
            assert login_takes(node, PEER, PASSWORDS[PEER])
            assert not login_takes(node, PEER, "wrong")
            saslauthd.kill()
            assert not login_takes(node, PEER, PASSWORDS[PEER])
            saslauthd.start()
            assert login_takes(node, PEER, PASSWORDS[PEER])
    finally:
        network.close()


def test_sighup_takes_a_renewed_certificate(new_state: Callable[[], Path], authority: Authority) -> None:
    state, network = new_state(), Network()
    try:
        files = tls_of(authority)
        node = Node(network.address(10), state / "node", {}, {"mupdate": files})
        node.configure()
        with contextlib.closing(node.start()):
            assert common_name(node, authority) == "mup.lab"
            renewed = authority.issue("renewed", "/CN=renewed.lab", "DNS:mup.lab")
            for old, new in zip(files.values(), renewed, strict=True):
                Path(old).write_bytes(new.read_bytes())
            os.kill(node.pid, signal.SIGHUP)
            wait_until(lambda: common_name(node, authority) == "renewed.lab", "the new certificate", 10)
            node.expect("event=node.reload_failed")
            Path(files["tls_key"]).write_text("broken")
            os.kill(node.pid, signal.SIGHUP)
            node.wait_log("event=node.reload_failed")
            assert common_name(node, authority) == "renewed.lab"
    finally:
        network.close()


def common_name(node: Node, authority: Authority) -> str:
    """Whom the node's certificate names."""
    client = Mupdate(node.address, user="")
    client.send(b"S STARTTLS\r\n")
    assert client.receive().verb == "OK"
    context = ssl.create_default_context(cafile=str(authority.ca))
    with context.wrap_socket(client._socket, server_hostname="mup.lab") as secure:
        certificate = secure.getpeercert()
    return identity_of(certificate)
