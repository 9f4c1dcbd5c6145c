"""`cyrusext node` as a process: its rights, its sockets, its heartbeat, its logins."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import cyrusext
from cyrusext.directory.batch import Wanted
from cyrusext.manage.control import ControlClient
from tests.harness.mupdate import Mupdate, UpdateStream
from tests.harness.network import Network
from tests.harness.ours import Config, Node
from tests.harness.sandbox import CHECKOUT
from tests.harness.waiting import accepts, wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="the node runs in a namespace of its own, which needs root"),
]

Make = Callable[[Config], Node]

SASLDB = """
import sys
import tempfile
from cyrusext.net._sasl import ffi, lib
from cyrusext.net.sasl import SaslLogins
logins = SaslLogins(service="mupdate", hostname="node1", realm="node1", options={"sasldb_path": sys.argv[1]})
password = b"murderpw"
done = lib.sasl_setpass(
    logins.exchange()._holder[0], b"murder", password, len(password), ffi.NULL, 0, lib.SASL_SET_CREATE
)
assert done == lib.SASL_OK, done
"""


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.close()


@pytest.fixture
def make(network: Network, new_state: Callable[[], Path]) -> Iterator[Make]:
    made: list[Node] = []

    def start(config: Config) -> Node:
        node = Node(network.address(10), new_state(), {}, config)
        made.append(node)
        node.configure()
        return node.start()

    try:
        yield start
        for node in made:
            node.close()
    finally:
        for node in made:
            node.kill()


def run_dir(node: Node) -> Path:
    return Path(node.config["node"]["run_dir"])


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user can reach, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="cyrusext-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_it_gives_up_root_and_still_serves(open_place: Path, make: Make) -> None:
    place = open_place
    passwords = place / "passwords"
    passwords.write_text("murder:murderpw\n")
    passwords.chmod(0o600)
    nobody = pwd.getpwnam("nobody")
    os.chown(passwords, nobody.pw_uid, -1)
    node = make(
        {
            "node": {"user": "nobody", "state_dir": str(place / "new" / "lib"), "run_dir": str(place / "run")},
            "mupdate": {"password_file": str(passwords)},
        }
    )
    status = Path(f"/proc/{node.pid}/status").read_text()
    assert f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}\t{nobody.pw_uid}\t{nobody.pw_uid}\n" in status
    assert f"Gid:\t{nobody.pw_gid}\t" in status
    with Mupdate(node.address) as client:
        client.ok(b"ACTIVATE", b"user.alice", b"be1!default", b"alice\tlrs\t")
    assert node.cli("status").stdout
    assert (place / "run" / "control").stat().st_uid == nobody.pw_uid


def test_sasldb_logins(make: Make, new_state: Callable[[], Path]) -> None:
    path = new_state() / "sasldb2"
    subprocess.run([sys.executable, "-c", SASLDB, str(path)], check=True, cwd=CHECKOUT, timeout=60)
    node = make({"mupdate": {"pwcheck": "sasldb", "sasldb_path": str(path), "password_file": ""}})
    with Mupdate(node.address) as client:
        client.ok(b"NOOP")
    with pytest.raises(AssertionError, match="undefined error"):
        Mupdate(node.address, password="wrong")


def test_metrics_and_health(make: Make, network: Network) -> None:
    node = make({"metrics": {"listen": f"{network.address(10)}:9100"}})
    with Mupdate(node.address) as client:
        client.ok(b"ACTIVATE", b"user.alice", b"be1!default", b"alice\tlrs\t")

        def get(path: str) -> str:
            with urllib.request.urlopen(f"http://{node.address}:9100{path}", timeout=10) as answer:
                return str(answer.read().decode())

        metrics = get("/metrics")
        assert 'cyrusext_records{server="be1"} 1.0' in metrics
        assert 'cyrusext_mupdate_connections{state="ready"} 1.0' in metrics
        assert "cyrusext_commits_total 1.0" in metrics
        assert (get("/healthz"), get("/readyz")) == ("alive\n", "ready\n")


def test_it_listens_on_a_unix_socket_too_and_removes_it(make: Make, new_state: Callable[[], Path]) -> None:
    path = new_state() / "mupdate"
    node = make({})
    node.stop()
    node.config["mupdate"]["listen"] = [*node.config["mupdate"]["listen"], f"unix:{path}"]
    node.configure()
    since = node.mark()
    node.start()
    node.wait_log("event=node.ready", since)  # it is listened on behind the other
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        heard = b""
        while b"* OK MUPDATE" not in heard:
            heard += client.recv(4096)
    node.stop()
    assert not path.exists()
    assert not (run_dir(node) / "control").exists()


def test_an_operator_s_batch_reaches_the_subscribers(make: Make) -> None:
    node = make({})
    stream = UpdateStream(node.address)
    with ControlClient(run_dir(node)) as control:
        applied = control.apply([Wanted(b"user.u%d" % n, 2, "be1", "default", b"u\tl\t") for n in range(5000)])
        assert applied.created == 5000
        stream.barrier()
        assert len(stream.mirror) == 5000
        control.apply([Wanted(b"user.u1", 3), Wanted(b"user.u2", 2, "be2", "default", b"u\tl\t")], force=True)
        stream.barrier()
        assert len(stream.mirror) == 4999
        assert stream.mirror[b"user.u2"].server == "be2"
        status = control.status()
        assert (status["entries"], status["subscribers"], status["servers"]) == (4999, 1, {"be1": 4998, "be2": 1})
    stream.close()


def ask(node: Node, request: dict[str, Any]) -> Any:
    """One request on the control socket, by hand."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(run_dir(node) / "control"))
        frame = msgspec.msgpack.encode(request)
        client.sendall(struct.pack(">I", len(frame)) + frame)
        reply = b""
        while len(reply) < 4 or len(reply) < 4 + struct.unpack_from(">I", reply)[0]:
            data = client.recv(65536)
            assert data, "it has closed"
            reply += data
        return msgspec.msgpack.decode(reply[4:])


def test_a_claim_opens_and_closes_a_backend_s_window(make: Make) -> None:
    node = make({})
    with Mupdate(node.address) as client:
        client.ok(b"ACTIVATE", b"user.alice", b"be1!default", b"a\tl\t")
        take = (b"ACTIVATE", b"user.alice", b"be2!default", b"a\tl\t")
        assert client.command(*take)[-1].verb == "NO"
        assert ask(node, {"op": "claim", "server": "be2", "seconds": 60}) == {"ok": True, "taken_over": 0}
        assert client.command(*take)[-1].verb == "OK"
        assert ask(node, {"op": "claim", "server": "be2", "seconds": 0}) == {"ok": True, "taken_over": 1}
        assert ask(node, {"op": "claim", "server": "be1", "seconds": 0}) == {"ok": True, "taken_over": 0}
        assert client.command(b"ACTIVATE", b"user.alice", b"be1!default", b"a\tl\t")[-1].verb == "NO"
    assert ask(node, {"op": "nonsense"})["error"]["code"] == "protocol-remote"
    assert ask(node, {"op": "apply", "changes": [[b"a"]]})["error"]["code"] == "protocol-remote"


def test_takeover_allow_lets_every_backend(make: Make) -> None:
    node = make({"mupdate": {"takeover": "allow"}})
    with Mupdate(node.address) as client:
        client.ok(b"ACTIVATE", b"user.alice", b"be1!default", b"a\tl\t")
        client.ok(b"ACTIVATE", b"user.alice", b"be2!default", b"a\tl\t")


def test_a_hung_node_is_not_fresh(make: Make) -> None:
    node = make({})
    with cyrusext.open(node.config["node"]["state_dir"]) as index:
        wait_until(lambda: index.fresh, "the heartbeat is there")
        node.hang()
        wait_until(lambda: not index.fresh, "the heartbeat is too old", 5)
        node.resume()
        wait_until(lambda: index.fresh, "it beats again", 5)
        node.stop()
        assert not index.fresh


def test_sighup_takes_the_log_level(make: Make) -> None:
    node = make({"log": {"level": "info"}})
    Mupdate(node.address).close()
    assert not node.log_contains("event=mupdate.login ")
    node.config["log"]["level"] = "debug"
    node.configure()
    os.kill(node.pid, signal.SIGHUP)
    node.wait_log("event=node.reloaded log_level=debug")
    Mupdate(node.address).close()
    node.wait_log("event=mupdate.login ")
    assert accepts(node.address, 3905)
