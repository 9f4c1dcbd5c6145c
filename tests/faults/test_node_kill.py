"""kill -9 of the node while clients write: what was acknowledged is there afterwards, what was not is whole or absent.

The oracle is kept by the clients: the last acknowledged state of each of their mailboxes, and the one change whose
answer did not come.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness.mupdate import PORT, Entry, Mupdate, UpdateStream
from tests.harness.ours import Node
from tests.harness.topology import lone_node
from tests.harness.waiting import wait_until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="the node runs in a namespace of its own, which needs root"),
]

SEED = 4
ROUNDS = 4
WRITERS = 6


@pytest.fixture
def node(new_state: Callable[[], Path]) -> Iterator[Node]:
    with lone_node(new_state()) as node:
        yield node


class Claim(NamedTuple):
    """What a mailbox may be after the crash; None is absent."""

    acknowledged: Entry | None
    in_flight: tuple[Entry | None, ...] = ()


class Writer(threading.Thread):
    """Creates, changes and deletes its own mailboxes until the node is gone."""

    def __init__(self, node: Node, number: int, seed: int, claims: dict[bytes, Claim]) -> None:
        super().__init__(daemon=True)
        self._address, self._number = node.address, number
        self._rng = random.Random(seed)
        self.claims = claims
        self.acknowledged = 0
        self.failure: AssertionError | None = None

    def run(self) -> None:
        try:
            while True:
                with Mupdate(self._address) as client:
                    for _ in range(self._rng.randrange(1, 20)):
                        self._change(client)
        except (TimeoutError, ConnectionError, OSError):
            return
        except AssertionError as error:
            self.failure = error

    def _change(self, client: Mupdate) -> None:
        name = b"user.w%d.f%d" % (self._number, self._rng.randrange(30))
        location = b"be%d!p%d" % (self._number, self._rng.randrange(1000))
        acl = b"u%d\tlrs\t" % self._rng.randrange(10**9)
        now = self.claims.get(name, Claim(None)).acknowledged
        match self._rng.choice(["activate", "activate", "reserve", "deactivate", "delete"]):
            case "activate":
                wanted: Entry | None = Entry(name, location, acl)
                command: tuple[bytes, ...] = (b"ACTIVATE", name, location, acl)
            case "delete":
                wanted, command = None, (b"DELETE", name)
            case "deactivate" if now is not None:
                wanted, command = Entry(name, location, None), (b"DEACTIVATE", name, location)
            case _:
                # RESERVE by its owner leaves an active mailbox as it is
                wanted = now if now is not None and now.acl is not None else Entry(name, location, None)
                command = (b"RESERVE", name, location)
        self.claims[name] = Claim(now, (wanted,))
        answer = client.command(*command)[-1]
        assert answer.verb == "OK", (command, answer)
        self.claims[name] = Claim(wanted)
        self.acknowledged += 1


def have_written(writers: list[Writer]) -> bool:
    return sum(writer.acknowledged for writer in writers) > 200


def test_every_acknowledged_change_survives_kill_9(node: Node) -> None:
    rng = random.Random(SEED)
    claims: list[dict[bytes, Claim]] = [{} for _ in range(WRITERS)]
    total = 0
    for round_ in range(ROUNDS):
        writers = [
            Writer(node, number, SEED * 1000 + round_ * 100 + number, claims[number]) for number in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        wait_until(partial(have_written, writers), "they have written")
        time.sleep(rng.random() * 0.1)  # not a wait for anything: the moment of death
        node.kill()
        for writer in writers:
            writer.join(15)
            assert not writer.is_alive()
            assert writer.failure is None, writer.failure
            total += writer.acknowledged
        node.start()
        check(node, claims)
    assert total > ROUNDS * 200


def check(node: Node, claims: list[dict[bytes, Claim]]) -> None:
    """Compare the node with the oracle; what was in flight is then known, too."""
    with Mupdate(node.address) as client:
        there = {entry.name: entry for entry in client.list()}
        assert there.keys() <= {name for own in claims for name in own}
        for own in claims:
            for name, claim in own.items():
                found = there.get(name)
                assert found in (claim.acknowledged, *claim.in_flight), (name, found, claim)
                own[name] = Claim(found)
    stream = UpdateStream(node.address)
    assert stream.mirror == there
    stream.close()


def test_a_change_that_was_not_answered_can_be_repeated(node: Node) -> None:
    with Mupdate(node.address) as client:
        client.ok(b"RESERVE", b"user.alice", b"be1!default")
        client.send(b"X ACTIVATE {10+}\r\nuser.alice {11+}\r\nbe1!default {3+}\r\na\tl\r\n")
        node.kill()
    node.start()
    with Mupdate(node.address) as client:
        client.ok(b"RESERVE", b"user.alice", b"be1!default")
        client.ok(b"ACTIVATE", b"user.alice", b"be1!default", b"a\tl\t")
        entry = client.find(b"user.alice")
        assert entry is not None
        assert entry.acl == b"a\tl\t"
        client.ok(b"DELETE", b"user.alice")
        client.ok(b"DELETE", b"user.alice")


def test_sigterm_answers_what_is_under_way_and_says_bye(node: Node) -> None:
    stream = UpdateStream(node.address)
    with socket.create_connection((node.address, PORT), timeout=10) as stranger:
        node.ask_to_stop()
        node.finish_stop()
        heard = b""
        while data := stranger.recv(4096):
            heard += data
        assert heard.endswith(b'* BYE "server is shutting down"\r\n')
    line = stream.receive()
    assert (line.verb, line.text) == ("BYE", "server is shutting down")
    stream.close()
    node.wait_log("event=node.stopped")
    node.start()


def test_a_second_node_on_the_same_state_is_refused_with_the_first_one_s_pid(
    node: Node, new_state: Callable[[], Path]
) -> None:
    state = new_state()
    other = Node(node.address, state, {}, {"node": {"state_dir": node.config["node"]["state_dir"]}})
    other.config["mupdate"]["listen"] = [f"{node.address}:3906"]
    other.configure()
    refused = other.cli("node", check=False)
    assert refused.returncode not in (0, None)
    assert f"in use by another node (process {node.pid})" in refused.stderr
    with Mupdate(node.address) as client:
        client.ok(b"NOOP")


def test_a_taken_port_is_named_and_nothing_is_left(node: Node, new_state: Callable[[], Path]) -> None:
    other = Node(node.address, new_state(), {})
    other.configure()
    refused = other.cli("node", check=False)
    assert refused.returncode == 78
    assert f"can not listen on {node.address}:3905" in refused.stderr
