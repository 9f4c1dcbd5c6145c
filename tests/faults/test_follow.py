"""What is left of two nodes' agreement after either is killed or hung, and after the wire between them breaks?

The oracle is kept by clients of the follower: what was answered OK is there on both nodes afterwards, and nothing is
there that nobody asked for.  How a follower went on, from the change log or with a full copy, is counted by itself.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cyrusext.model import MailboxRecord, State
from cyrusext.store import Store
from tests.harness.certificates import Authority
from tests.harness.following import Pair, follows, pair, status, wait_following
from tests.harness.mupdate import Entry, Mupdate
from tests.harness.ours import Node
from tests.harness.sandbox import CHECKOUT
from tests.harness.waiting import wait_until
from tests.harness.wirefault import TO_CLIENT, TO_SERVER

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="the nodes run in namespaces of their own, which needs root"),
]

SEED = int(os.environ.get("CYREXT_SEED", "7"))
ROUNDS = 60 if os.environ.get("CYREXT_LONG") else 5
WRITERS = 3
SHORT = {"mupdate": {"write_wait_s": 3.0}}


@pytest.fixture
def nodes(new_state: Callable[[], Path]) -> Iterator[Pair]:
    with pair(new_state()) as nodes:
        yield nodes


@pytest.fixture
def hasty(new_state: Callable[[], Path]) -> Iterator[Pair]:
    """Two nodes that hold a change for three seconds only."""
    with pair(new_state(), SHORT) as nodes:
        yield nodes


def activate(client: Mupdate, name: bytes, server: bytes = b"be1", acl: bytes = b"a\tl\t") -> str:
    return client.command(b"ACTIVATE", name, server + b"!default", acl, timeout_s=30)[-1].verb


def listed(node: Node) -> dict[bytes, Entry]:
    with Mupdate(node.address) as client:
        return {entry.name: entry for entry in client.list()}


def counted(node: Node) -> tuple[int, int]:
    follow = status(node)["follow"]
    return follow["full_copies"], follow["resumed"]


class Writer(threading.Thread):
    """Changes its own mailboxes through one node, reconnecting, until told to end; remembers what was answered."""

    def __init__(self, node: Node, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._node, self._number = node, number
        self._rng = random.Random(seed)
        self.ending = threading.Event()
        self.possible: dict[bytes, list[Entry | None]] = {}
        self.acknowledged = 0

    def run(self) -> None:
        while not self.ending.is_set():
            try:
                with Mupdate(self._node.address) as client:
                    while not self.ending.is_set():
                        self._change(client)
            except (OSError, AssertionError):
                self.ending.wait(0.05)

    def _change(self, client: Mupdate) -> None:
        name = b"user.w%d.f%d" % (self._number, self._rng.randrange(12))
        wanted: Entry | None = None
        command: tuple[bytes, ...] = (b"DELETE", name)
        if self._rng.random() < 0.75:
            wanted = Entry(name, b"be%d!default" % self._number, b"u%d\tlrs\t" % self._rng.randrange(10**9))
            command = (b"ACTIVATE", name, wanted.location, wanted.acl or b"")
        self.possible.setdefault(name, [None]).append(wanted)
        if client.command(*command, timeout_s=30)[-1].verb == "OK":
            self.possible[name] = [wanted]
            self.acknowledged += 1

    def finish(self) -> None:
        self.ending.set()
        self.join(40)
        assert not self.is_alive()


def check(nodes: Pair, writers: list[Writer]) -> None:
    """Both nodes say the same, and it is what was acknowledged or may have been done."""
    wait_following(nodes.follower, 60)
    at_follower = listed(nodes.follower)
    assert at_follower == listed(nodes.leader)
    names = {name for writer in writers for name in writer.possible}
    assert at_follower.keys() <= names
    for writer in writers:
        for name, possible in writer.possible.items():
            assert at_follower.get(name) in possible, (SEED, name, at_follower.get(name), possible)


def progress(writers: list[Writer], count: int) -> None:
    """Wait until so many more changes were acknowledged."""
    goal = sum(writer.acknowledged for writer in writers) + count
    wait_until(lambda: sum(writer.acknowledged for writer in writers) >= goal, f"{count} more changes", 60)


@pytest.fixture(scope="module")
def cyx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The look-up tool, which can compare the databases of a store with each other."""
    out = tmp_path_factory.mktemp("out")
    subprocess.run(["make", "-s", "-C", CHECKOUT / "csrc", f"OUT={out}", "all"], check=True)
    return out / "bin" / "cyx"


def test_no_acknowledged_change_is_lost_whatever_breaks(hasty: Pair, cyx: Path) -> None:
    rng = random.Random(SEED)
    writers = [Writer(hasty.follower, number, SEED * 100 + number) for number in range(WRITERS)]
    writers.append(Writer(hasty.leader, WRITERS, SEED * 100 + WRITERS))
    for writer in writers:
        writer.start()
    try:
        for _ in range(ROUNDS):
            progress(writers, 30)
            match rng.choice(["kill leader", "hang leader", "kill follower", "cut", "reset", "cut inside"]):
                case "kill leader":
                    hasty.leader.kill()
                    hasty.leader.start()
                case "hang leader":
                    hasty.leader.hang()
                    time.sleep(rng.random())  # not a wait for anything: how long it hangs
                    hasty.leader.resume()
                case "kill follower":
                    hasty.follower.kill()
                    hasty.follower.start()
                case "cut":
                    hasty.wire.cut()
                case "reset":
                    hasty.wire.reset()
                case "cut inside":
                    hasty.wire.close_after(rng.randrange(100, 20_000), rng.choice([TO_SERVER, TO_CLIENT]))
                    hasty.wire.reset()
                    progress(writers[-1:], 20)
                    hasty.wire.heal()
                    hasty.wire.reset()
    finally:
        for writer in writers:
            writer.finish()
    check(hasty, writers)
    for node in (hasty.leader, hasty.follower):
        verified = subprocess.run([cyx, "verify", node.state / "lib"], capture_output=True, text=True, check=False)
        assert (verified.returncode, verified.stdout) == (0, ""), verified.stderr
    assert status(hasty.leader)["follower_copies"] <= 1  # nothing of this needs a full copy but the first


def test_a_follower_that_was_away_goes_on_from_the_change_log(nodes: Pair) -> None:
    with Mupdate(nodes.leader.address) as client:
        for number in range(50):
            assert activate(client, b"user.u%d" % number) == "OK"
    wait_until(lambda: len(listed(nodes.follower)) == 50, "all are copied")
    assert counted(nodes.follower) == (1, 0)
    nodes.follower.kill()
    with Mupdate(nodes.leader.address) as client:
        client.ok(b"DELETE", b"user.u7")
        assert activate(client, b"user.new") == "OK"
    nodes.follower.start()
    wait_following(nodes.follower)
    assert counted(nodes.follower) == (0, 1)
    assert listed(nodes.follower) == listed(nodes.leader)
    assert b"user.u7" not in listed(nodes.follower)


def test_a_follower_that_was_away_for_longer_than_the_log_gets_a_full_copy_and_its_deletions(nodes: Pair) -> None:
    with Mupdate(nodes.leader.address) as client:
        for name in (b"user.kept", b"user.gone"):
            assert activate(client, name) == "OK"
    wait_until(lambda: len(listed(nodes.follower)) == 2, "both are copied")
    nodes.follower.kill()
    nodes.leader.stop()
    filler = MailboxRecord(b"user.filler", State.ACTIVE, "be1", "default", b"", changed_by="test")
    with Store.open(nodes.leader.state / "lib", run_dir=nodes.leader.state / "run") as store:
        with store.begin() as transaction:
            gone = transaction.get(b"user.gone")
            assert gone is not None
            transaction.put(gone._replace(state=State.DELETED, acl=b"", changed_at=1))
            for _ in range(100_001):
                transaction.put(filler)
        store.purge_tombstones(2, 10)
    nodes.leader.start()
    nodes.follower.start()
    wait_following(nodes.follower)
    assert counted(nodes.follower) == (1, 0)
    assert listed(nodes.follower).keys() == {b"user.kept", b"user.filler"}
    nodes.follower.wait_log("event=follow.begins .*mode=behind")


def test_a_leader_that_lost_its_store_empties_nobody(nodes: Pair) -> None:
    with Mupdate(nodes.leader.address) as client:
        for number in range(5):
            assert activate(client, b"user.u%d" % number) == "OK"
    wait_until(lambda: len(listed(nodes.follower)) == 5, "all are copied")
    nodes.leader.kill()
    shutil.rmtree(nodes.leader.state / "lib" / "store")
    nodes.leader.start()
    wait_until(lambda: status(nodes.follower)["follow"]["held_deletions"] == 5, "the deletions are held", 30, 0.1)
    shown = nodes.follower.cli("replica", "deletes", "show", "--format", "tsv", check=False)
    assert (shown.returncode, len(shown.stdout.splitlines())) == (1, 5)
    nodes.follower.wait_log("level=error event=follow.lost")
    listed_here = nodes.follower.cli("mailbox", "list", "--format", "tsv").stdout.splitlines()
    assert len(listed_here) == 5
    with Mupdate(nodes.leader.address) as client:  # a backend that starts fills the leader again, but for one mailbox
        for number in range(4):
            assert activate(client, b"user.u%d" % number) == "OK"
    would = nodes.follower.cli("replica", "deletes", "accept", "--dry-run").stdout
    assert re.fullmatch(r"would delete [15] records\n", would)  # as many as at its last look
    nodes.follower.cli("replica", "deletes", "accept")
    wait_following(nodes.follower)
    assert listed(nodes.follower).keys() == {b"user.u%d" % number for number in range(4)}
    assert nodes.follower.cli("replica", "deletes", "show").stdout == ""
    history = nodes.follower.cli("mailbox", "history", "user.u4", "--format", "tsv", check=False)
    assert history.returncode in (0, 1)


def test_without_its_leader_a_follower_says_no_in_time_and_never_an_old_answer(hasty: Pair) -> None:
    with Mupdate(hasty.leader.address) as client:
        assert activate(client, b"user.alice") == "OK"
    for away, back, command in (
        (hasty.leader.hang, hasty.leader.resume, (b"FIND", b"user.alice")),
        (hasty.leader.kill, hasty.leader.start, (b"LIST",)),
    ):
        wait_following(hasty.follower)
        away()
        with Mupdate(hasty.follower.address) as client:
            assert activate(client, b"user.bob") == "NO"
        with Mupdate(hasty.follower.address) as client, pytest.raises(ConnectionError):
            client.command(*command, timeout_s=30)
        wait_until(lambda: not status(hasty.follower)["fresh"], "it is not fresh", 10)
        unknown = hasty.follower.cli("lookup", "user.nobody", check=False)
        assert unknown.returncode == 75
        known = hasty.follower.cli("lookup", "user.alice", "--format", "tsv", check=False)
        assert "be1" in known.stdout
        back()
    wait_following(hasty.follower)
    wait_until(lambda: hasty.follower.cli("lookup", "user.nobody", check=False).returncode == 1, "no is no again", 20)


def test_a_change_whose_answer_was_lost_is_answered_by_the_feed(nodes: Pair) -> None:
    """The leader grants it, and the connection ends before the answer is through: the copy then shows what became."""
    with Mupdate(nodes.follower.address) as client:
        assert activate(client, b"user.alice") == "OK"
        nodes.wire.on_match(b"X-RECORDS", lambda: None, TO_CLIENT, lose=True)
        assert activate(client, b"user.alice", acl=b"b\tl\t") == "OK"
        entry = client.find(b"user.alice")
        assert entry is not None and entry.acl == b"b\tl\t"
    assert status(nodes.follower)["follow"]["writes_forwarded"] == 2


def test_a_follower_is_silent_until_it_has_a_copy(nodes: Pair, new_state: Callable[[], Path]) -> None:
    nodes.follower.stop()
    shutil.rmtree(nodes.follower.state / "lib" / "store")
    nodes.leader.kill()
    nodes.follower.start()
    with pytest.raises(ConnectionError):
        Mupdate(nodes.follower.address)
    nodes.leader.start()
    wait_following(nodes.follower)
    with Mupdate(nodes.follower.address) as client:
        assert client.list() == []


def test_followers_are_not_followed(nodes: Pair) -> None:
    """Two nodes that follow each other, and a chain, are refused in words."""
    nodes.leader.expect(r"event=follow\.lost", r"event=follower\.refused", r"event=mupdate\.unanswered")
    nodes.follower.expect(r"event=follower\.refused")
    nodes.leader.stop()
    password = nodes.follower.config["node"]["follow_password_file"]
    nodes.leader.config["node"].update(follow=f"{nodes.follower.address}:3905", follow_password_file=password)
    nodes.leader.configure()
    something = MailboxRecord(b"user.a", State.ACTIVE, "be1", "default", changed_by="test")
    place = nodes.leader.state
    with Store.open(place / "lib", run_dir=place / "run") as store, store.begin() as transaction:
        transaction.put(something)
    nodes.leader.start()
    wait_until(lambda: "itself; follow that one" in status(nodes.leader)["follow"]["problem"], "it is told", 30, 0.1)
    assert not follows(nodes.leader)


def test_another_cluster_is_not_followed(nodes: Pair) -> None:
    nodes.leader.expect(r"event=follower\.refused")
    nodes.follower.stop()
    nodes.follower.config["node"]["cluster_id"] = "east"
    nodes.follower.configure()
    nodes.follower.start()
    wait_until(lambda: "cluster" in status(nodes.follower)["follow"]["problem"], "it is told", 30, 0.1)
    assert "this is cluster '', not 'east'" in status(nodes.follower)["follow"]["problem"]


def test_a_follower_logs_in_under_tls_and_to_nobody_else(nodes: Pair, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    nodes.follower.stop()
    nodes.leader.stop()
    certificate = authority.issue("leader", "/CN=leader", f"IP:{nodes.wire.address[0]}")
    nodes.leader.config["mupdate"].update(tls_cert=str(certificate.cert), tls_key=str(certificate.key))
    nodes.leader.configure()
    nodes.leader.start()
    nodes.follower.config["node"]["follow_tls_ca"] = str(stranger.ca)
    nodes.follower.configure()
    nodes.follower.start()
    wait_until(lambda: "TLS" in status(nodes.follower)["follow"]["problem"], "the stranger is refused", 30, 0.1)
    nodes.follower.stop()
    nodes.follower.config["node"]["follow_tls_ca"] = str(authority.ca)
    nodes.follower.configure()
    nodes.follower.start()
    wait_following(nodes.follower)
    assert b"murder" not in nodes.wire.transcript(nodes.wire.connections)
    with Mupdate(nodes.follower.address) as client:
        assert activate(client, b"user.alice") == "OK"


def test_a_follower_may_become_the_node_that_writes(nodes: Pair) -> None:
    with Mupdate(nodes.follower.address) as client:
        assert activate(client, b"user.alice") == "OK"
    nodes.leader.stop()
    nodes.follower.stop()
    for key in ("follow", "follow_password_file"):
        del nodes.follower.config["node"][key]
    nodes.follower.configure()
    nodes.follower.start()
    with Mupdate(nodes.follower.address) as client:
        assert client.find(b"user.alice") is not None
        assert activate(client, b"user.bob") == "OK"
    shown = status(nodes.follower)
    assert (shown["role"], shown["followers"]) == ("master", {})
