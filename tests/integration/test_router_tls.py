"""Does our router deliver to real Cyrus backends under TLS, logged in by certificate or password, and to none that it
can not verify?"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import imap
from tests.harness.certificates import Authority
from tests.harness.cyrus import LMTP_PORT, PASSWORDS, PEER, CyrusBackend, make_sasldb
from tests.harness.lmtp import Lmtp, Result, message
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.topology import Delivery

pytestmark = pytest.mark.integration

BACKENDS = ("be1.lab", "be2.lab")
SHORT = {"connect": 2, "greeting": 5, "envelope": 5, "data": 5, "final": 10, "idle": 60}


class Secured(Delivery):
    """Backends whose lmtpd takes logins under TLS only, and a router with these settings of [lmtp]."""

    def __init__(
        self, root: Root, state: Path, authority: Authority, lmtp: dict[str, Any], names: dict[str, str] | None = None
    ) -> None:
        """`names` are those of the certificates that are not the backend's own."""
        config: dict[str, Any] = {"lmtp": {"timeouts": SHORT, **lmtp}}
        super().__init__(root, state, config=config, postfix=False)
        for backend in self.backends:
            name = (names or {}).get(backend.name, backend.name)
            made = authority.issue(backend.name, f"/CN={name}", f"DNS:{name}")
            for file in (made.cert, made.key, authority.ca):
                (backend.state / file.name).write_bytes(file.read_bytes())
                (backend.state / file.name).chmod(0o644)
            backend.extra |= {
                "tls_server_cert": str(backend.state / made.cert.name),
                "tls_server_key": str(backend.state / made.key.name),
                "tls_client_ca_file": str(backend.state / authority.ca.name),
                "sasl_mech_list": "PLAIN EXTERNAL",
                "lmtp_allowplaintext": "no",
                "allowstarttls": "yes",  # Cyrus 3.10 offers it only so
            }
            backend.configure(self.hosts, make_sasldb(root, state / "sasl", BACKENDS))
        for own in (self.node, self.router):
            for server in BACKENDS:
                own.config["backends"][server] = {"host": self.hosts[server], "lmtp": LMTP_PORT}
            own.configure()
        password = self.router.state / "backend-password"
        password.write_text(f"{PASSWORDS[PEER]}\n")
        password.chmod(0o600)

    def new_user(self, backend: CyrusBackend) -> str:
        user = self.user()
        with backend.imap() as admin:
            imap.create(admin, f"user.{user}")
        return user

    def deliver(self, users: list[str], text: bytes) -> Result:
        with Lmtp(self.router.address, ROUTER_PORT) as client:
            return client.deliver("a@example.net", [f"{user}@example.org" for user in users], text)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def test_mail_goes_under_tls_with_our_certificate(
    root: Root, new_state: Callable[[], Path], authority: Authority
) -> None:
    ours = authority.issue("router", f"/CN={PEER}")
    lmtp = {
        "backend_tls": "verify",
        "backend_tls_ca": str(authority.ca),
        "backend_tls_cert": str(ours.cert),
        "backend_tls_key": str(ours.key),
    }
    with Secured(root, new_state(), authority, lmtp) as group:
        users = [group.new_user(group.be1), group.new_user(group.be2)]
        large = message("large", b"".join(b"%06d " % number + b"x" * 70 + b"\r\n" for number in range(40_000)))
        for text in (message("one"), large):
            assert [reply.code for reply in group.deliver(users, text).final] == [250, 250]
        for backend, user in zip((group.be1, group.be2), users, strict=True):
            with backend.imap(user) as connection:
                assert [stored.endswith(text) for stored, text in zip(
                    imap.messages(connection), (message("one"), large), strict=True
                )] == [True, True]  # fmt: skip
            backend.wait_log(r"login: .* murder EXTERNAL\S* User logged in", timeout_s=5)


@pytest.fixture(scope="module")
def with_password(root: Root, new_state: Callable[[], Path], authority: Authority) -> Iterator[Secured]:
    state = new_state()
    secret = state / "router" / "backend-password"
    lmtp = {
        "backend_tls": "verify",
        "backend_tls_ca": str(authority.ca),
        "backend_user": PEER,
        "backend_password_file": str(secret),
    }
    with Secured(root, state, authority, lmtp) as group:
        yield group


def test_mail_goes_under_tls_with_a_password(with_password: Secured) -> None:
    group = with_password
    users = [group.new_user(group.be1), group.new_user(group.be2)]
    assert [reply.code for reply in group.deliver(users, message("plain")).final] == [250, 250]
    group.be1.wait_log(r"login: .* murder PLAIN\+TLS User logged in", timeout_s=5)


def test_a_backend_with_another_name_gets_nothing(
    root: Root, new_state: Callable[[], Path], authority: Authority
) -> None:
    ours = authority.issue("router", f"/CN={PEER}")
    lmtp = {
        "backend_tls": "verify",
        "backend_tls_ca": str(authority.ca),
        "backend_tls_cert": str(ours.cert),
        "backend_tls_key": str(ours.key),
    }
    with Secured(root, new_state(), authority, lmtp, {"be2.lab": "be3.lab"}) as group:
        group.be2.expect(r"STARTTLS|TLS|SSL|starttls")
        users = [group.new_user(group.be1), group.new_user(group.be2)]
        assert [reply.code for reply in group.deliver(users, message("one")).final] == [250, 451]
        group.router.wait_log(r"event=lmtp\.backend_unavailable .*Hostname mismatch")
        with group.be2.imap(users[1]) as connection:
            assert imap.messages(connection) == []


def test_mail_from_a_client_under_tls_to_backends_under_tls(
    root: Root, new_state: Callable[[], Path], authority: Authority
) -> None:
    """Where it may be: certificates of nobody's authority will do."""
    state = new_state()
    made = authority.issue("front", "/CN=router.lab", "DNS:router.lab")
    lmtp = {
        "backend_tls": "may",
        "backend_user": PEER,
        "backend_password_file": str(state / "router" / "backend-password"),
        "tls_cert": str(made.cert),
        "tls_key": str(made.key),
    }
    with Secured(root, state, authority, lmtp) as group:
        user = group.new_user(group.be1)
        with Lmtp(group.router.address, ROUTER_PORT) as client:
            assert "STARTTLS" in client.capabilities.text
            client.starttls(ssl.create_default_context(cafile=str(authority.ca)), "router.lab")
            assert client.deliver("a@example.net", [f"{user}@example.org"], message("both")).final[0].code == 250
        group.be1.wait_log(r"login: .* murder PLAIN\+TLS User logged in", timeout_s=5)
