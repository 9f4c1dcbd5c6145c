"""SIGHUP: what a running node takes from its file, what it can not, and what a bad file does (nothing)."""

from __future__ import annotations

import base64
import os
import pwd
import signal
import socket
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cyrusext
from cyrusext.manage.control import ControlClient
from tests.harness.accounts import own_sasldb
from tests.harness.cyrus import PASSWORDS, PEER
from tests.harness.mupdate import Mupdate, UpdateStream, literal
from tests.harness.network import Network
from tests.harness.ours import Config, Node
from tests.harness.sasl_client import Scram
from tests.harness.waiting import accepts, wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="the node runs in a namespace of its own, which needs root"),
]

Make = Callable[[Config], Node]


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.close()


@pytest.fixture
def make(network: Network, new_state: Callable[[], Path]) -> Iterator[Make]:
    made: list[Node] = []

    def start(config: Config) -> Node:
        node = Node(network.address(10), new_state(), {}, {"log": {"level": "info"}, **config})
        made.append(node)
        (node.state / "passwords").write_text("murder:murderpw\nalice:alicepw\n")
        node.configure()
        return node.start()

    try:
        yield start
        for node in made:
            node.close()
    finally:
        for node in made:
            node.kill()


def reload(running: Node, /, **sections: dict[str, Any]) -> str:
    """Change the file and return what came of it."""
    for section, values in sections.items():
        running.config.setdefault(section, {}).update(values)
    running.configure()
    return sighup(running)


def sighup(running: Node) -> str:
    """Have the file read anew; return the line of the log that says what came of it."""
    mark = running.mark()
    os.kill(running.pid, signal.SIGHUP)
    running.wait_log(r"event=node\.reload(ed|_failed)", mark, 30)
    return next(line for line in running.log_lines(mark) if "event=node.reload" in line)


def status(node: Node) -> dict[str, Any]:
    """What the node says of itself; the command would not start with a bad file."""
    with ControlClient(Path(node.config["node"]["run_dir"])) as control:
        return control.status()


def test_what_can_change_changes_and_nobody_is_dropped(make: Make, network: Network) -> None:
    node = make({})
    first, second = f"{network.address(10)}:3905", f"{network.address(11)}:3905"
    kick = node.state / "mupdate.target"
    stream = UpdateStream(node.address)
    with Mupdate(node.address) as client, cyrusext.open(node.config["node"]["state_dir"]) as index:
        client.ok(b"ACTIVATE", b"user.a-b", b"be1!default", b"a\tl\t")
        client.ok(b"ACTIVATE", b"user.a.b", b"be1!default", b"a\tl\t")
        assert index.rules.postuser == ""
        told = reload(
            node,
            log={"level": "debug"},
            mupdate={
                "listen": [first, second],
                "admins": ["murder", "alice"],
                "max_connections": 3,
                "takeover": "allow",
                "order": [],
                "write_wait_s": 5.0,
            },
            names={"postuser": "folder"},
            lookup={"kick_sockets": [str(kick)], "no_max_age_s": 3.0},
            metrics={"listen": f"{network.address(10)}:9100"},
        )
        assert "event=node.reloaded log_level=debug needs_restart=0" in told

        client.ok(b"ACTIVATE", b"user.a-b", b"be2!default", b"a\tl\t")  # takeover, on a connection from before
        stream.barrier()
        assert stream.mirror[b"user.a-b"].server == "be2"
        with Mupdate(network.address(11), user="alice", password="alicepw") as other:
            assert len(other.list()) == 2
            with pytest.raises(ConnectionError):  # BYE instead of a banner
                Mupdate(network.address(10))
        with urllib.request.urlopen(f"http://{network.address(10)}:9100/readyz", timeout=10) as answer:
            assert answer.read() == b"ready\n"
        wait_until(lambda: kick_once(kick) == b"ok", "the kick socket answers")
        index.refresh()
        assert index.rules.postuser == "folder"

        told = reload(
            node,
            mupdate={"listen": [second]},
            metrics={"listen": ""},
            lookup={"kick_sockets": []},
            log={"level": "info"},
        )
        assert "event=node.reloaded" in told
        assert not accepts(network.address(10), 3905)
        assert accepts(network.address(11), 3905)
        assert not accepts(network.address(10), 9100)
        assert not kick.exists()
        client.ok(b"ACTIVATE", b"user.later", b"be1!default", b"a\tl\t")  # a session of an address that is gone
        stream.barrier()
        assert b"user.later" in stream.mirror
    stream.close()


def kick_once(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        if client.connect_ex(str(path)):
            return b""
        heard = client.recv(10)
        assert client.recv(10) == b""
        return heard


def test_an_order_is_for_the_lists_from_now_on(make: Make) -> None:
    node = make({})
    with Mupdate(node.address) as client:
        for name in (b"user.a.b", b"user.a-b"):
            client.ok(b"ACTIVATE", name, b"be1!default", b"a\tl\t")
        assert [entry.name for entry in client.list()] == [b"user.a.b", b"user.a-b"]
        text = node.config_file.read_text()
        node.config_file.write_text(
            text.replace("[mupdate]", '[mupdate]\norder = [{net = "127.0.0.0/8", order = "strcmp"}]')
        )
        mark = node.mark()
        os.kill(node.pid, signal.SIGHUP)
        node.wait_log("event=node.reloaded", mark)
        assert [entry.name for entry in client.list()] == [b"user.a-b", b"user.a.b"]


def test_what_needs_a_restart_is_said_and_shown_until_then(make: Make) -> None:
    node = make({})
    told = reload(node, node={"name": "other"}, log={"level": "debug"})
    assert "event=node.reloaded log_level=debug needs_restart=1" in told
    node.wait_log(r'event=node.needs_restart key="\[node\] name"')
    assert (status(node)["node"], status(node)["needs_restart"]) == ("node1", ["[node] name"])
    node.restart()
    assert (status(node)["node"], status(node)["needs_restart"]) == ("other", [])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a wrong type": ({"max_connections": "many"}, "max_connections: expected int"),
    "an unknown key": ({"admin": ["x"]}, "admin: unknown key, did you mean admins"),
    "nobody could log in": ({"admins": []}, "admins: expected at least one user"),
    "no such certificate": ({"tls_cert": "/nonexistent/cert.pem"}, "tls_cert: /nonexistent/cert.pem can not be read"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_changes_nothing_and_is_named(make: Make, fault: str) -> None:
    section, reason = BAD[fault]
    node = make({})
    node.expect("event=node.reload_failed")
    told = reload(node, mupdate=section, log={"level": "debug"})
    assert "event=node.reload_failed" in told
    assert str(node.config_file) in told
    assert reason in told
    assert reason in status(node)["reload_error"]
    Mupdate(node.address).close()
    assert not node.log_contains("level=debug")


def test_an_address_that_can_not_be_had_changes_nothing(make: Make, network: Network) -> None:
    node = make({})
    node.expect("event=node.reload_failed")
    first, second, taken = (f"{network.address(number)}:3905" for number in (10, 11, 12))
    with socket.socket() as occupant:
        occupant.bind((network.address(12), 3905))
        occupant.listen()
        told = reload(node, mupdate={"listen": [first, second, taken], "admins": ["alice"]})
    assert f"can not listen on {taken}: Address already in use" in told
    assert not accepts(network.address(11), 3905)
    with Mupdate(node.address) as client:  # still an admin
        client.ok(b"NOOP")
    assert "event=node.reloaded" in reload(node)
    assert accepts(network.address(11), 3905)


def test_a_port_that_needs_root_is_not_had_once_root_is_given_up(make: Make, network: Network) -> None:
    with tempfile.TemporaryDirectory(prefix="cyrusext-") as name:
        place = Path(name)
        place.chmod(0o755)
        passwords = place / "passwords"
        passwords.write_text("murder:murderpw\n")
        passwords.chmod(0o600)
        config = place / "cyrusext.toml"
        os.chown(passwords, pwd.getpwnam("nobody").pw_uid, -1)
        node = make(
            {
                "node": {"user": "nobody", "state_dir": str(place / "lib"), "run_dir": str(place / "run")},
                "mupdate": {"password_file": str(passwords), "listen": [f"{network.address(10)}:3905"]},
            }
        )
        node.expect("event=node.reload_failed")
        node.stop()
        node.config_file = config  # pytest's directories are closed to nobody
        node.configure()
        node.start()
        told = reload(node, mupdate={"listen": [f"{network.address(10)}:3905", f"{network.address(10)}:905"]})
        assert "Permission denied: a port below 1024 is bound by root only, at the start" in told
        assert accepts(node.address, 3905)
        node.restart()
        assert accepts(node.address, 905)
        node.stop()


def test_who_is_no_longer_an_admin_is_shown_out(make: Make) -> None:
    node = make({"mupdate": {"admins": ["murder", "alice"]}})
    alice = Mupdate(node.address, user="alice", password="alicepw")
    with Mupdate(node.address) as client:
        alice.ok(b"ACTIVATE", b"user.a", b"be1!default", b"a\tl\t")
        reload(node, mupdate={"admins": ["murder"]})
        bye = alice.receive()
        assert (bye.verb, bye.text) == ("BYE", "no longer an administrator")
        client.ok(b"NOOP")
        with pytest.raises(AssertionError, match="undefined error"):
            Mupdate(node.address, user="alice", password="alicepw")
    alice.close()
    node.wait_log("event=mupdate.dismissed")


def offered(address: str) -> bytes:
    """The mechanisms in the banner."""
    with Mupdate(address, user="") as client:
        return next(line for line in client.banner if line.startswith(b"* AUTH"))


def scram_login(address: str) -> None:
    """Log in with SCRAM-SHA-256, by hand."""
    scram = Scram("SCRAM-SHA-256", PEER, PASSWORDS[PEER])
    with Mupdate(address, user="") as client:
        client.send(b'A AUTHENTICATE "SCRAM-SHA-256" ' + literal(base64.b64encode(scram.first())) + b"\r\n")
        client.send(base64.b64encode(scram.final(base64.b64decode(client.receive().tag))) + b"\r\n")
        scram.verify(base64.b64decode(client.receive().tag))
        client.send(b"\r\n")
        assert client.receive().verb == "OK"


def test_mechanisms_change_with_libsasl2_running(make: Make, new_state: Callable[[], Path]) -> None:
    """libsasl2's own options are set once for the process; what is offered is not among them."""
    sasldb = own_sasldb(new_state() / "sasldb2", "node1")
    node = make({"mupdate": {"pwcheck": "sasldb", "sasldb_path": str(sasldb), "password_file": ""}})
    assert offered(node.address) == b'* AUTH "PLAIN"'
    Mupdate(node.address).close()
    told = reload(node, mupdate={"mechanisms": ["SCRAM-SHA-256"]})
    assert "event=node.reloaded" in told
    assert offered(node.address) == b'* AUTH "SCRAM-SHA-256"'
    with pytest.raises(AssertionError, match="undefined error"):
        Mupdate(node.address)
    scram_login(node.address)
    reload(node, mupdate={"mechanisms": ["PLAIN", "SCRAM-SHA-256"]})
    Mupdate(node.address).close()
