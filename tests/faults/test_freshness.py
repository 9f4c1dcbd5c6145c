"""Who may say "no such mailbox" when (DESIGN rule 1): asked of real nodes through every face of the library.

A hit is given whatever becomes of the node; a miss is a "no" only beside a living node that has everything.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cyrusext
from cyrusext.lookup import Lookup, Verdict
from cyrusext.names import NameRules
from tests.harness.following import pair, wait_following
from tests.harness.ours import Node
from tests.harness.topology import lone_node
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.faults

CYX = Path(__file__).resolve().parents[2] / "build" / "bin" / "cyx"
LIMIT_S = 2.0
"""no_max_age_s, as it comes."""


class Faces:
    """One index, asked by C through `cyx`, by Python, and as the doors do; opened once, as long-running programs do."""

    def __init__(self, node: Node) -> None:
        self.state_dir = node.config["node"]["state_dir"]
        self.index = cyrusext.open(self.state_dir)
        self.doors = Lookup(Path(self.state_dir), NameRules())

    def close(self) -> None:
        self.index.close()
        self.doors.close()

    def cyx(self) -> bool:
        done = subprocess.run([CYX, "get", self.state_dir, "user.nobody"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        return "not known to be up to date" not in done.stderr

    def may_say_no(self) -> bool | None:
        """What all of them say; None while they differ, for they do not ask at one moment."""
        answer = self.doors.recipient(b"nobody@example.org").verdict
        assert answer in (Verdict.ABSENT, Verdict.TEMPORARY)
        said = {self.index.fresh, self.cyx(), answer is Verdict.ABSENT}
        return said.pop() if len(said) == 1 else None

    def wait(self, no: bool, why: str, timeout_s: float = 10.0) -> None:
        wait_until(lambda: self.may_say_no() is no, f"a no {'can' if no else 'can not'} be said: {why}", timeout_s, 0.1)
        assert self.index.lookup("user.nobody") is None
        self.hit()

    def hit(self) -> None:
        place = self.index.lookup("user.alice")
        assert place is not None and place.server == "be1.lab"
        assert self.doors.recipient(b"alice@example.org").verdict is Verdict.FOUND


def fill(node: Node) -> None:
    node.cli("mailbox", "set", "user.alice", "be1.lab!default")


@contextmanager
def faces(node: Node) -> Iterator[Faces]:
    found = Faces(node)
    try:
        yield found
    finally:
        found.close()


def test_a_node_that_hangs_or_dies(new_state: Callable[[], Path]) -> None:
    with lone_node(new_state()) as node:
        fill(node)
        with faces(node) as all_faces:
            all_faces.wait(True, "the node lives")
            node.hang()
            all_faces.wait(False, "the node hangs", LIMIT_S + 3)
            node.resume()
            all_faces.wait(True, "it goes on")
            node.kill()
            all_faces.wait(False, "the node is dead", LIMIT_S + 3)
            node.start()
            all_faces.wait(True, "it was started again")
            node.stop()
            all_faces.wait(False, "the node was stopped", LIMIT_S + 3)
        with faces(node) as opened_later:
            opened_later.wait(False, "nobody has it")
        node.start()


def test_a_table_that_is_not_there_or_is_another_ones(new_state: Callable[[], Path]) -> None:
    """Whether the hot table answers or the store, the rule is the same."""
    with lone_node(new_state()) as node:
        fill(node)
        hot = Path(node.config["node"]["run_dir"]) / "hot"
        wait_until(hot.exists, "the table is built", 10)
        for damage in (hot.unlink, lambda: hot.write_bytes(b"rubbish"), lambda: hot.write_bytes(b"")):
            damage()
            with faces(node) as all_faces:
                all_faces.wait(True, "the store answers")
                assert all_faces.index.hot_generation == 0
                node.hang()
                all_faces.wait(False, "the node hangs", LIMIT_S + 3)
                node.resume()


def test_a_feed_that_is_behind(new_state: Callable[[], Path]) -> None:
    """A follower that lives but does not hear of its leader: dead, hung, or behind a cut."""
    with pair(new_state()) as nodes:
        fill(nodes.leader)
        with faces(nodes.follower) as all_faces:
            wait_until(lambda: all_faces.index.lookup("user.alice"), "it has come", 10)
            all_faces.wait(True, "it follows")
            nodes.wire.hold()
            all_faces.wait(False, "nothing comes through", 15)
            nodes.wire.release()
            all_faces.wait(True, "everything comes through", 30)
            nodes.leader.hang()
            all_faces.wait(False, "the leader hangs", 15)
            nodes.leader.resume()
            all_faces.wait(True, "the leader goes on", 30)
            nodes.leader.kill()
            all_faces.wait(False, "the leader is dead", 15)
            nodes.leader.start()
            wait_following(nodes.follower)
            all_faces.wait(True, "the leader is back", 30)


def test_a_list_that_is_being_filled_again(new_state: Callable[[], Path]) -> None:
    with lone_node(new_state()) as node:
        fill(node)
        with faces(node) as all_faces:
            all_faces.wait(True, "the node lives")
            node.cli("refill", "begin")
            all_faces.wait(False, "a refill is under way")
            node.cli("refill", "end", "--force")
            all_faces.wait(True, "it is over")
