"""Do real clients log in at our router: Postfix' lmtp client, and against libsasl2's own database of passwords?"""

from __future__ import annotations

import asyncio
import base64
import smtplib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.certificates import Authority
from tests.harness.cyrus import CyrusBackend
from tests.harness.lmtp import message
from tests.harness.lmtp_peer import LmtpClient, play, wait_until
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.router_daemon import daemon
from tests.harness.sandbox import CHECKOUT
from tests.harness.topology import Delivery
from tests.harness.waiting import wait_until as wait_for

pytestmark = pytest.mark.integration

MX = "mx", "a secret: of Postfix"
SASLDB = """
import sys
from cyrusext.net._sasl import ffi, lib
from cyrusext.net.sasl import SaslLogins
logins = SaslLogins(service="lmtp", hostname="node1", realm="lab", options={"sasldb_path": sys.argv[1]})
for user, password in (("mx", b"one"), ("other", b"two")):
    connection = logins.exchange()._holder[0]
    done = lib.sasl_setpass(connection, user.encode(), password, 3, ffi.NULL, 0, lib.SASL_SET_CREATE)
    assert done == lib.SASL_OK, done
"""


@pytest.fixture(params=["clear", "tls"])
def group(
    root: Root, new_state: Callable[[], Path], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Delivery]:
    """Postfix logs in, on this machine in the clear, or under TLS."""
    state = new_state()
    user, password = MX
    passwords = state / "logins"
    passwords.write_text(f"{user}:{password}\n")
    passwords.chmod(0o600)
    lmtp = {"pwcheck": "file", "password_file": str(passwords), "auth_users": [user], "received": True}
    main_cf = [
        "lmtp_sasl_auth_enable = yes",
        "lmtp_sasl_security_options = noanonymous",
    ]
    if request.param == "tls":
        made = Authority(tmp_path).issue("router", "/CN=router.lab", "DNS:router.lab")
        lmtp |= {"tls_cert": str(made.cert), "tls_key": str(made.key)}
        main_cf.append("lmtp_tls_security_level = encrypt")
    delivery = Delivery(root, state, config={"lmtp": lmtp})
    main_cf.append(
        f"lmtp_sasl_password_maps = inline:{{ {{ [{delivery.router.address}]:{ROUTER_PORT} = {user}:{password} }} }}"
    )
    delivery.postfix.extra = tuple(main_cf)
    delivery.postfix.configure()
    with delivery:
        yield delivery


def new_user(group: Delivery, backend: CyrusBackend) -> str:
    user = group.user()
    with backend.imap() as admin:
        imap.create(admin, f"user.{user}")
    return user


def test_postfix_logs_in(group: Delivery, request: pytest.FixtureRequest) -> None:
    secure = request.node.callspec.params["group"] == "tls"
    users = [new_user(group, group.be1), new_user(group, group.be2)]
    text = message("login")
    with smtplib.SMTP(group.postfix.address, 25, timeout=30) as client:
        assert client.sendmail("a@example.net", [f"{user}@example.org" for user in users], text) == {}
    group.postfix.wait_empty(60.0)
    for backend, user in zip((group.be1, group.be2), users, strict=True):
        with backend.imap(user) as connection:
            stored = imap.messages(connection)
        assert len(stored) == 1
        assert stored[0].endswith(text.partition(b"\r\n\r\n")[2])
        assert (b" with LMTPSA id " if secure else b" with LMTPA id ") in b" ".join(stored[0].split())
    group.router.wait_log(f"event=lmtp.login .* user=mx mechanism=PLAIN tls={str(secure).lower()}")


def test_postfix_with_a_wrong_password_keeps_the_mail(
    root: Root, new_state: Callable[[], Path], tmp_path: Path
) -> None:
    state = new_state()
    passwords = state / "logins"
    passwords.write_text("mx:right\n")
    passwords.chmod(0o600)
    delivery = Delivery(root, state, config={"lmtp": {"pwcheck": "file", "password_file": str(passwords)}})
    place = f"[{delivery.router.address}]:{ROUTER_PORT}"
    delivery.postfix.extra = (
        "lmtp_sasl_auth_enable = yes",
        f"lmtp_sasl_password_maps = inline:{{ {{ {place} = mx:wrong }} }}",
        "lmtp_sasl_security_options = noanonymous",
    )
    delivery.postfix.configure()
    with delivery as group:
        user = new_user(group, group.be1)
        with smtplib.SMTP(group.postfix.address, 25, timeout=30) as client:
            client.sendmail("a@example.net", [f"{user}@example.org"], message("kept"))
        group.postfix.wait_log(
            r"status=deferred \(SASL authentication failed; .* 535 5\.7\.8 .*\[[0-9a-f]+-[0-9a-f]+\]"
        )
        assert "Mail queue is empty" not in group.postfix.queue()
        passwords.write_text("mx:wrong\n")
        wait_for(lambda: delivered(group, user), "the password is right now", 30, 0.5)


def delivered(group: Delivery, user: str) -> bool:
    group.postfix.flush()
    with group.be1.imap(user) as connection:
        return bool(imap.messages(connection))


def plain(user: str, password: str) -> bytes:
    return base64.b64encode(f"\0{user}\0{password}".encode())


def test_sasldb_and_a_reload(tmp_path: Path) -> None:
    """libsasl2 is opened by each worker, so SIGHUP can take another database, or a file, or none."""
    path, passwords = tmp_path / "sasldb2", tmp_path / "logins"
    subprocess.run([sys.executable, "-c", SASLDB, str(path)], check=True, cwd=CHECKOUT, timeout=60)
    passwords.write_text("mx:three\n")
    passwords.chmod(0o600)
    sasldb = f'pwcheck = "sasldb"\nsasldb_path = "{path}"\nrealm = "lab"\nauth_users = ["mx"]\n'

    async def test() -> None:
        async with daemon(tmp_path, sasldb) as router:

            async def say(*logins: bytes) -> list[bytes]:
                client: LmtpClient = await router.client()
                return [(await client.ask(b"AUTH PLAIN " + login))[:3] for login in logins]

            assert await say(plain("mx", "one")) == [b"235"]
            assert await say(plain("mx", "two"), plain("other", "two"), plain("mx", "one")) == [b"535", b"535", b"235"]
            kept = await router.client()
            router.configure(f'pwcheck = "file"\npassword_file = "{passwords}"\n')
            router.reload()
            await wait_until(lambda: router.events("lmtp.reloaded") == 1, "the configuration is taken", 30)
            assert await say(plain("mx", "one"), plain("mx", "three")) == [b"535", b"235"]
            assert (await kept.ask(b"AUTH PLAIN " + plain("mx", "one"))).startswith(b"235"), "a session of before"
            router.configure('pwcheck = "file"\npassword_file = "/nonexistent"\n')
            router.reload()
            await wait_until(lambda: router.events("lmtp.reload_failed") == 1, "it is not taken", 30)
            router.configure("")
            router.reload()
            await wait_until(lambda: router.events("lmtp.reloaded") == 2, "there is no AUTH any more", 30)
            assert await say(plain("mx", "three")) == [b"502"]
            async with asyncio.timeout(10):
                while (await router.status())["logins"] != {"good": 4, "refused": 3}:
                    pass  # figures are up to a second old

    play(test)
