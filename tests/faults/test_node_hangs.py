"""A node that hangs: who waits for it is released, and what was told NO and holds after all is not trusted.

Long (CYREXT_LONG): with the times of the unit that is shipped, and with a store that never answers again.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cyrusext.lookup import Lookup, Verdict
from cyrusext.names import NameRules
from tests.harness.lmdb_lock import HeldLock
from tests.harness.mupdate import Mupdate, literal
from tests.harness.network import Network
from tests.harness.ours import Config, Node
from tests.harness.supervisor import Supervisor
from tests.harness.waiting import wait_until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="the node runs in a namespace of its own, which needs root"),
]

LONG = bool(os.environ.get("CYREXT_LONG"))
UNIT = Path(__file__).resolve().parents[2] / "packaging" / "systemd" / "cyrusext-node.service"


def of_unit(key: str) -> float:
    match = re.search(rf"^{key}=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert match is not None, key
    return float(match[1])


@contextmanager
def lone(state: Path, config: Config) -> Iterator[Node]:
    network = Network()
    node = Node(network.address(10), state, {}, {"log": {"level": "info"}, **config})
    node.configure()
    try:
        yield node
        node.close()
    finally:
        node.kill()
        network.close()


def test_who_waits_for_a_hung_node_is_released_and_succeeds_again(new_state: Callable[[], Path]) -> None:
    """A Cyrus client waits for ever after its login; the watchdog ends the node, which ends the wait."""
    watchdog_s, restart_s = (of_unit("WatchdogSec"), of_unit("RestartSec")) if LONG else (2.0, 0.1)
    change = (b"ACTIVATE", b"user.alice", b"be1!default", b"a\tl\t")
    with lone(new_state(), {}) as node:
        supervisor = Supervisor(node, watchdog_s=watchdog_s, restart_s=restart_s)
        with supervisor:
            supervisor.wait_up()
            with Mupdate(node.address) as client:
                supervisor.freeze()
                began = time.monotonic()
                with pytest.raises(ConnectionError):
                    client.command(*change, timeout_s=120)
                released = time.monotonic() - began
            supervisor.wait_up(after=1)
            with Mupdate(node.address) as client:
                client.ok(*change)
            served = time.monotonic() - began
        print(f"WatchdogSec {watchdog_s:g}: released after {released:.1f} s, served again after {served:.1f} s")
        assert supervisor.aborts == 1


def test_a_change_that_holds_after_its_no_is_suspect_until_it_is_repeated(new_state: Callable[[], Path]) -> None:
    with lone(new_state(), {"mupdate": {"write_wait_s": 1.0}}) as node:
        node.start()
        node.expect("event=writer.too_slow")
        state_dir = Path(node.config["node"]["state_dir"])
        change = (b"ACTIVATE", b"user.alice", b"be1!default", b"a\tl\t")
        with Mupdate(node.address) as client, Mupdate(node.address) as reader, HeldLock(state_dir) as lock:
            client.send(b"W ACTIVATE " + b" ".join(map(literal, change[1:])) + b"\r\n")
            assert reader.find(b"user.alice") is None  # nobody else waits
            assert reader.list() == []
            answer = client.receive(60)
            assert (answer.verb, answer.text) == ("NO", "the change is not durable yet, its outcome is unknown")
            assert reader.find(b"user.alice") is None
            lock.release()
            wait_until(lambda: reader.find(b"user.alice") is not None, "it takes effect after all", 30)
            wait_until(lambda: "user.alice" in node.cli("mailbox", "list", "--suspect").stdout, "it is suspect", 30)
            lookup = Lookup(state_dir, NameRules())
            assert lookup.mailbox(b"user.alice", bounces=True).verdict is Verdict.TEMPORARY
            client.ok(*change)  # the backend does it again
            assert node.cli("mailbox", "list", "--suspect").stdout == ""
            assert lookup.mailbox(b"user.alice").verdict is Verdict.FOUND
            lookup.close()


if LONG:

    def test_a_store_that_never_answers_again_ends_the_node(new_state: Callable[[], Path]) -> None:
        with lone(new_state(), {}) as node, Supervisor(node) as supervisor:
            supervisor.wait_up()
            node.expect("event=writer.too_slow", "event=watchdog.hung")
            with Mupdate(node.address) as client, HeldLock(Path(node.config["node"]["state_dir"])):
                change = (b"ACTIVATE", b"user.alice", b"be1!default", b"a\tl\t")
                assert client.command(*change, timeout_s=30)[-1].verb == "NO"
                with pytest.raises(ConnectionError):
                    client.receive(120)
            supervisor.wait_up(after=1)
            with Mupdate(node.address) as client:
                client.ok(*change)
            node.wait_log("event=watchdog.hung")
