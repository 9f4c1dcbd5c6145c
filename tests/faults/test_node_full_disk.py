"""A full disk: writes get NO with the reason, reads go on, and it recovers by itself when there is space again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.mupdate import Mupdate, UpdateStream
from tests.harness.network import Network
from tests.harness.ours import Node
from tests.harness.waiting import wait_until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted, which needs root"),
]


class SmallNode(Node):
    """A node whose state_dir is a tmpfs of 8 MiB that only it sees."""

    def command(self) -> list[str | Path]:
        mount = 'mount -t tmpfs -o size=8m,mode=755 tmpfs "$1" && shift && exec "$@"'
        return ["sh", "-c", mount, "sh", self.config["node"]["state_dir"], *super().command()]

    @property
    def seen_state(self) -> Path:
        """Its state_dir as it sees it."""
        return Path(f"/proc/{self.pid}/root{self.config['node']['state_dir']}")

    def fill(self) -> Path:
        """Leave no block free; return the file that took them."""
        filler = self.seen_state / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                return filler
        raise AssertionError("it can not be filled")


@pytest.fixture
def node(new_state: Callable[[], Path]) -> Iterator[SmallNode]:
    network = Network()
    node = SmallNode(network.address(10), new_state(), {}, {"log": {"level": "info"}})
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
    acl = b"x\tl\t" * 500
    with Mupdate(node.address) as client:
        client.ok(b"ACTIVATE", b"user.before", b"be1!default", b"before\tl\t")
        stream = UpdateStream(node.address)
        filler = node.fill()

        refused: list[str] = []
        granted = [b"user.before"]
        for number in range(200):  # pages that are free inside the store's file still serve
            name = b"user.full%d" % number
            answer = client.command(b"ACTIVATE", name, b"be1!default", acl)[-1]
            if answer.verb == "OK":
                granted.append(name)
            else:
                refused.append(answer.text)
        assert refused
        assert set(refused) == {"no space left for the change"}
        status = node.cli("status").stdout
        assert "last_error" in status

        names = {entry.name for entry in client.list()}
        assert names == set(granted)
        entry = client.find(b"user.before")
        assert entry is not None
        assert entry.acl == b"before\tl\t"
        stream.barrier()
        assert set(stream.mirror) == set(granted)
        newcomer = UpdateStream(node.address)
        assert set(newcomer.mirror) == set(granted)
        newcomer.close()

        filler.unlink()
        client.ok(b"ACTIVATE", b"user.after", b"be1!default", acl)
        wait_until(lambda: node.log_contains("event=store.commit_recovered"), "the recovery is logged")
        stream.barrier()
        assert set(stream.mirror) == {*granted, b"user.after"}
        stream.close()
