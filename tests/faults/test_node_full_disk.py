"""A full disk: writes are held while they may, then get NO with the reason; reads go on; it recovers by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cyrusext.manage.control import ControlClient
from tests.faults.full_disk import ACL, WRITE_WAIT_S, SmallNode, fill_up
from tests.harness import imap
from tests.harness.lmtp import message
from tests.harness.mupdate import Mupdate, UpdateStream, literal
from tests.harness.network import Network
from tests.harness.ours import Config
from tests.harness.roots import Root
from tests.harness.topology import Murder
from tests.harness.waiting import NeverHappened, wait_until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted, which needs root"),
]


@pytest.fixture
def node(new_state: Callable[[], Path]) -> Iterator[SmallNode]:
    network = Network()
    config: Config = {"log": {"level": "info"}, "mupdate": {"write_wait_s": WRITE_WAIT_S}}
    node = SmallNode(network.address(10), new_state(), {}, config)
    node.expect("event=store.commit_failed")
    node.configure()
    try:
        node.start()
        yield node
        node.close()
    finally:
        node.kill()
        network.close()


def test_no_space_is_a_no_with_the_reason_and_ends_by_itself(node: SmallNode) -> None:
    with Mupdate(node.address) as client:
        client.ok(b"ACTIVATE", b"user.before", b"be1!default", b"before\tl\t")
        stream = UpdateStream(node.address)
        filler, granted = fill_up(node, client)
        granted.add(b"user.before")
        with ControlClient(Path(node.config["node"]["run_dir"])) as control:
            assert control.status()["last_error"]

        assert {entry.name for entry in client.list()} == granted
        entry = client.find(b"user.before")
        assert entry is not None
        assert entry.acl == b"before\tl\t"
        stream.barrier()
        assert set(stream.mirror) == granted
        newcomer = UpdateStream(node.address)
        assert set(newcomer.mirror) == granted
        newcomer.close()

        filler.unlink()
        client.ok(b"ACTIVATE", b"user.after", b"be1!default", ACL)
        wait_until(lambda: node.log_contains("event=store.commit_recovered"), "the recovery is logged")
        stream.barrier()
        assert set(stream.mirror) == {*granted, b"user.after"}
        stream.close()


def test_a_write_is_held_until_there_is_space_and_nobody_waits_with_it(node: SmallNode) -> None:
    with Mupdate(node.address) as client, Mupdate(node.address) as reader:
        client.ok(b"ACTIVATE", b"user.before", b"be1!default", b"before\tl\t")
        filler, _ = fill_up(node, client)
        changes = {b"user.held": b"be1!default", b"user.before": b"be1!second"}
        for name, location in changes.items():
            client.send(b"H ACTIVATE " + literal(name) + b" " + literal(location) + b" " + literal(ACL) + b"\r\n")
        with ControlClient(Path(node.config["node"]["run_dir"])) as control:
            wait_until(lambda: control.status()["write_queue"] == 2, "both are held", every_s=0.005)
        assert reader.find(b"user.held") is None
        assert {entry.location for entry in reader.list() if entry.name == b"user.before"} == {b"be1!default"}
        with pytest.raises(NeverHappened):
            client.receive(0.01)
        filler.unlink()
        assert [client.receive(20).verb for _ in changes] == ["OK", "OK"]
        found = reader.find(b"user.before")
        assert found is not None
        assert found.location == b"be1!second"


class SmallMurder(Murder):
    """A murder whose node has little room."""

    def __init__(self, root: Root, state: Path) -> None:
        super().__init__(root, state)
        backends = {"be1.lab": self.hosts["be1.lab"], "be2.lab": self.hosts["be2.lab"]}
        self.node = self.small = SmallNode(self.hosts["mup.lab"], state / "small", backends, {"log": {"level": "info"}})
        self.node.configure()
        self.servers[0] = self.node


def test_a_move_survives_a_disk_that_is_full_for_a_moment(root: Root, new_state: Callable[[], Path]) -> None:
    """XFER says OK whatever its master says, and its last ACTIVATE, refused, could cost the only copy."""
    with SmallMurder(root, new_state()) as murder, ThreadPoolExecutor(1) as thread:
        murder.node.expect("event=store.commit_failed")
        user = murder.user()
        with murder.be1.imap() as admin:
            imap.create(admin, f"user.{user}")
        with murder.be1.imap(user) as connection:
            imap.ok(connection.append("INBOX", "", "", message("the only copy")))
        with murder.mupdate() as client:
            filler, _ = fill_up(murder.small, client)

        def move() -> None:
            with murder.be1.imap() as admin:
                imap.xfer(admin, f"user.{user}", "be2.lab")

        moving = thread.submit(move)
        with ControlClient(Path(murder.node.config["node"]["run_dir"])) as control:
            wait_until(lambda: moving.done() or control.status()["write_queue"], "a change of it is held", 30, 0.005)
        filler.unlink()
        moving.result(60)
        for backend in (murder.be1, murder.be2):
            backend.tool("ctl_mboxlist", "-m")
        with murder.mupdate() as client:
            found = client.find(f"user.{user}".encode())
        assert found is not None
        assert found.server == "be2.lab"
        with murder.be2.imap(user) as connection:
            assert len(imap.messages(connection)) == 1
