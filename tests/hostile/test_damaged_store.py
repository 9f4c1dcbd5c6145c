"""A node that is started on a damaged store: it serves what can be read, says no to nobody, and tells the operator."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.damage import damage, flip_behind, key_of, tear_page
from tests.harness.mupdate import Mupdate
from tests.harness.ours import Node
from tests.harness.sandbox import CHECKOUT
from tests.harness.topology import lone_node
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the node runs in a namespace of its own, which needs root")

COUNT = 300
CYX = CHECKOUT / "build/bin/cyx"


@pytest.fixture
def node(new_state: Callable[[], Path]) -> Iterator[Node]:
    """A node that is stopped, with the mailboxes of two backends in its store."""
    with lone_node(new_state()) as node:
        with Mupdate(node.address) as client:
            for n in range(COUNT):
                client.ok(b"ACTIVATE", b"user.u%03d" % n, b"be%d!default" % (n % 2), b"u\tlrs\t")
        node.stop()
        yield node


def state_dir(node: Node) -> Path:
    return Path(node.config["node"]["state_dir"])


def data(node: Node) -> Path:
    return state_dir(node) / "store/data.mdb"


def start_damaged(node: Node) -> int:
    node.expect(r"event=store\.(damaged|rebuilt)")
    mark = node.mark()
    node.start()
    node.wait_log(r"event=store\.damaged .*kept=", mark)
    node.wait_log(r"event=store\.rebuilt .*lost=", mark)
    node.wait_log(r"event=refill\.active", mark)
    return mark


def test_it_serves_what_can_be_read_and_says_no_to_nobody(node: Node) -> None:
    key = key_of(b"user.u042")
    damage(data(node), key_of(b"user.u200"), tear_page)
    damage(data(node), key, flip_behind(key))
    told = subprocess.run([CYX, "verify", state_dir(node)], capture_output=True, text=True, timeout=60, check=False)
    assert (told.returncode, told.stderr) == (1, "")
    assert "mailboxes: page" in told.stdout
    start_damaged(node)
    with Mupdate(node.address) as client:
        known = {entry.name for entry in client.list()}
        assert known == {b"user.u%03d" % n for n in range(COUNT)} - {b"user.u042"}
        client.ok(b"ACTIVATE", b"user.u042", b"be0!default", b"u\tlrs\t")
    assert node.cli("lookup", "user.u043").stdout.count("be1") == 1
    assert node.cli("lookup", "user.nobody", check=False).returncode == 75
    status = json.loads(node.cli("status", "--format", "json").stdout)
    assert status["refill"]["missing"] == ["be0", "be1"]
    kept = list(state_dir(node).glob("store.damaged-*"))
    assert [path.name for path in kept] == [status["refill"]["rebuilt_from"]]
    sound = subprocess.run([CYX, "verify", state_dir(node)], capture_output=True, text=True, timeout=60, check=False)
    assert (sound.returncode, sound.stdout, sound.stderr) == (0, "", "")


def test_it_is_over_when_the_refill_ends(node: Node) -> None:
    damage(data(node), key_of(b"user.u200"), tear_page)
    start_damaged(node)
    mark = node.mark()
    node.restart()
    assert not node.log_contains(r"event=store\.damaged", mark)
    assert node.cli("refill", "end", check=False).returncode == 1
    node.cli("refill", "end", "--force")
    wait_until(lambda: node.cli("lookup", "user.nobody", check=False).returncode == 1, "a no", 30)
    assert json.loads(node.cli("status", "--format", "json").stdout)["refill"]["rebuilt_from"] == ""


def test_no_backup_is_made_of_a_damaged_store(node: Node, tmp_path: Path) -> None:
    key = key_of(b"user.u042")
    damage(data(node), key, flip_behind(key))
    refused = node.cli("backup", "create", str(tmp_path / "monday"), check=False)
    assert (refused.returncode, "fails its checksum" in refused.stderr) == (75, True), refused.stderr
    assert list(tmp_path.glob("monday*")) == []


def test_a_copy_of_a_damaged_store_is_not_put_back(node: Node, tmp_path: Path) -> None:
    node.start()
    node.cli("backup", "create", str(tmp_path / "monday"))
    node.stop()
    damage(tmp_path / "monday/store/data.mdb", key_of(b"user.u200"), tear_page)
    before = data(node).read_bytes()
    refused = node.cli("backup", "restore", str(tmp_path / "monday"), check=False)
    assert (refused.returncode, "damaged" in refused.stderr) == (75, True), refused.stderr
    assert data(node).read_bytes() == before
