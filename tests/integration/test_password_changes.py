"""Is a changed password the only one from the very next login on, however the file was changed?

The node remembers logins that were good (`cyrusext.net.proven`); its log says of each whether it was asked anew.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.accounts import own_sasldb
from tests.harness.cyrus import PASSWORDS, PEER
from tests.harness.mupdate import Mupdate
from tests.harness.network import Network
from tests.harness.ours import Node
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration

OLD, NEW = PASSWORDS[PEER], "another1"
assert len(OLD) == len(NEW)
REALM = "mup.lab"


def write_sasldb(path: Path, password: str) -> None:
    own_sasldb(path, REALM, password)


def write_passwords(path: Path, password: str) -> None:
    path.write_text(f"{PEER}:{password}\n")
    path.chmod(0o600)


WRITERS = {"sasldb": write_sasldb, "file": write_passwords}


@pytest.fixture(params=WRITERS)
def kept(request: pytest.FixtureRequest, new_state: Callable[[], Path]) -> Iterator[tuple[Node, Path, str]]:
    """A node, the file with its passwords, and what kind of file that is."""
    state, network, kind = new_state(), Network(), request.param
    file = state / f"{kind}-passwords"
    WRITERS[kind](file, OLD)
    mupdate = {
        "sasldb": {"pwcheck": "sasldb", "password_file": "", "sasldb_path": str(file), "realm": REALM},
        "file": {"password_file": str(file)},
    }[kind]
    node = Node(network.address(10), state / "node", {}, {"mupdate": mupdate})
    node.configure()
    try:
        yield node.start(), file, kind
        node.close()
    finally:
        node.kill()
        network.close()


def log_in(node: Node, password: str) -> bool:
    with Mupdate(node.address, user="") as client:
        secret = base64.b64encode(f"\0{PEER}\0{password}".encode())
        return client.command(b'AUTHENTICATE "PLAIN"', secret)[-1].verb == "OK"


def until_remembered(node: Node, password: str) -> None:
    def remembered() -> bool:
        since = node.mark()
        assert log_in(node, password)
        node.wait_log(r"event=mupdate\.login ", since, 5)
        return node.log_contains(r"event=mupdate\.login .*remembered=true", since)

    wait_until(remembered, "the node remembers the login", 20, 0.2)


def test_a_changed_password_is_refused_at_the_very_next_login(kept: tuple[Node, Path, str]) -> None:
    node, file, kind = kept
    write = WRITERS[kind]
    until_remembered(node, OLD)
    write(file, NEW)  # in place
    assert not log_in(node, OLD)
    assert log_in(node, NEW)
    write(file, OLD)  # again, before the first change could be remembered
    assert not log_in(node, NEW)
    assert log_in(node, OLD)
    until_remembered(node, OLD)
    fresh = file.with_name("fresh")
    write(fresh, NEW)
    fresh.rename(file)
    assert not log_in(node, OLD)
    assert log_in(node, NEW)
    file.unlink()
    assert not log_in(node, NEW)
