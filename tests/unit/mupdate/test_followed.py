"""The leader's side of following, spoken by hand: what a follower is told, in which order, what a slow one costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import msgpack

from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate.service import Bounds
from tests.harness.inprocess import InProcessMaster
from tests.harness.mupdate import Line, Mupdate, literal
from tests.harness.waiting import wait_until


@pytest.fixture
def master(tmp_path: Path) -> Iterator[InProcessMaster]:
    with InProcessMaster(tmp_path, bounds=Bounds(slow_reader_s=1.0), cluster_id="east") as master:
        yield master


class Follower:
    """A connection that follows; `records` is what it was told, `seq` and `mark` how far."""

    def __init__(self, master: InProcessMaster, store_id: str = "", seq: int = 0, mark: str = "") -> None:
        self.client = master.connect()
        self.records: dict[bytes, list[Any]] = {}
        self.seq, self.mark = seq, mark
        strings = (b"1", b"east", b"standard", store_id.encode(), b"%d" % seq, mark.encode(), b"node2")
        self.client.send(b"F1 X-CYRUSEXT-FOLLOW " + b" ".join(map(literal, strings)) + b"\r\n")
        begins = self.client.receive()
        assert begins.verb == "X-BEGIN", begins
        self.store_id, self.mode = begins.arguments[0].decode(), begins.arguments[1].decode()
        assert self.client.receive().verb == "OK"

    def take(self) -> Line:
        """Take one line."""
        line = self.client.receive()
        if line.verb == "X-RECORDS":
            self.records |= {record[0]: record for record in msgpack.decode(line.arguments[0])}
        elif line.verb == "X-REACHED":
            self.seq, self.mark = int(line.arguments[0]), line.arguments[1].decode()
        return line

    def until(self, tag: str) -> Line:
        """Take lines up to the answer to the command with this tag."""
        while (line := self.take()).tag != tag:
            pass
        return line

    def noop(self) -> None:
        self.client.send(b"N1 NOOP\r\n")
        assert self.until("N1").verb == "OK"

    def forward(self, tag: bytes, action: bytes, name: bytes, location: bytes, acl: bytes = b"") -> None:
        strings = (b"bob@10.0.0.9", action, name, location, acl)
        self.client.send(tag + b" X-CYRUSEXT-FORWARD " + b" ".join(map(literal, strings)) + b"\r\n")


def fill(master: InProcessMaster, count: int, acl: bytes = b"a\tl\t") -> None:
    one = MailboxRecord(b"", State.ACTIVE, "be1", "default", acl, changed_at=5, changed_by="x@y")
    with master.store.begin() as transaction:
        for number in range(count):
            transaction.put(one._replace(name=b"user.u%05d" % number))


def test_a_stranger_gets_everything_and_then_what_changes(master: InProcessMaster) -> None:
    fill(master, 1200)
    with master.connect() as backend:
        backend.ok(b"DELETE", b"user.u00007")
        follower = Follower(master)
        follower.noop()
        assert follower.mode == "full"
        assert (len(follower.records), follower.seq) == (1200, 1201)
        assert follower.records[b"user.u00007"][1] == State.DELETED
        assert follower.records[b"user.u00008"] == [b"user.u00008", 2, "be1", "default", b"a\tl\t", 9, 0, 5, "x@y"]
        backend.ok(b"ACTIVATE", b"user.new", b"be2!default", b"b\tl\t")
        while b"user.new" not in follower.records:
            follower.take()
        assert follower.records[b"user.new"][8] == "murder@127.0.0.1"


def test_who_comes_back_gets_what_changed_since(master: InProcessMaster) -> None:
    fill(master, 30)
    first = Follower(master)
    first.noop()
    first.client.close()
    with master.connect() as backend:
        for server in (b"be1", b"be1"):
            backend.ok(b"ACTIVATE", b"user.u00003", server + b"!other", b"c\tl\t")
        backend.ok(b"DELETE", b"user.u00004")
    again = Follower(master, first.store_id, first.seq, first.mark)
    again.noop()
    assert (again.mode, again.store_id) == ("log", first.store_id)
    assert {name: record[1] for name, record in again.records.items()} == {
        b"user.u00003": State.ACTIVE,
        b"user.u00004": State.DELETED,
    }
    assert Follower(master, first.store_id, first.seq, "00000000").mode == "full"


def test_a_forwarded_change_comes_before_its_answer_and_names_who_asked(master: InProcessMaster) -> None:
    follower = Follower(master)
    follower.noop()
    follower.forward(b"W1", b"ACTIVATE", b"user.a", b"be1!default", b"a\tl\t")
    follower.forward(b"W2", b"ACTIVATE", b"user.a", b"be2!default", b"a\tl\t")
    follower.forward(b"W3", b"DESTROY", b"user.a", b"")
    follower.forward(b"W4", b"DELETE", b"user.a", b"")
    granted = follower.until("W1")
    assert granted.verb == "OK"
    assert follower.records[b"user.a"][8] == "bob@10.0.0.9"
    refused = follower.until("W2")
    assert (refused.verb, refused.text) == ("NO", "mailbox is held by be1")
    assert follower.until("W3").verb == "NO"
    assert follower.until("W4").verb == "OK"
    assert follower.records[b"user.a"][1] == State.DELETED


def test_one_that_takes_nothing_is_cut_off_and_goes_on_later(master: InProcessMaster) -> None:
    first = Follower(master)
    first.noop()
    store_id, seq, mark = first.store_id, first.seq, first.mark
    with master.connect() as backend:
        for number in range(40):
            backend.ok(b"ACTIVATE", b"user.u%d" % number, b"be1!default", b"x" * 900_000)
        wait_until(lambda: not master.leading.followers, "the follower is cut off", 30)
        backend.ok(b"NOOP")
    again = Follower(master, store_id, seq, mark)
    again.noop()
    assert again.mode == "log"
    assert len(again.records) == 40
    assert all(len(record[4]) == 900_000 for record in again.records.values())


def test_followers_do_not_wait_for_each_other(master: InProcessMaster) -> None:
    slow, quick = Follower(master), Follower(master)
    for follower in (slow, quick):
        follower.noop()
    with master.connect() as backend:
        for number in range(20):
            backend.ok(b"ACTIVATE", b"user.u%d" % number, b"be1!default", b"x" * 900_000)
            while b"user.u%d" % number not in quick.records:
                quick.take()
    assert len(quick.records) == 20


@pytest.mark.parametrize(
    ("strings", "words"),
    [
        ((b"2", b"east", b"standard", b"", b"0", b"", b"n"), "version 1"),
        ((b"1", b"west", b"standard", b"", b"0", b"", b"n"), "this is cluster 'east', not 'west'"),
        ((b"1", b"east", b"unified", b"", b"0", b"", b"n"), "mode 'standard', not 'unified'"),
    ],
)
def test_who_does_not_belong_here_is_told_so(master: InProcessMaster, strings: tuple[bytes, ...], words: str) -> None:
    with master.connect() as client:
        answer = client.command(b"X-CYRUSEXT-FOLLOW", *strings)[-1]
        assert answer.verb == "NO"
        assert words in answer.text
        client.ok(b"NOOP")


def test_nothing_but_following_is_legal_while_followed(master: InProcessMaster) -> None:
    follower = Follower(master)
    follower.noop()
    for command in (b"L1 LIST\r\n", b"L1 UPDATE\r\n", b'L1 DELETE "user.a"\r\n'):
        follower.client.send(command)
        assert follower.until("L1") == Line("L1", "BAD", (b"not legal when followed",))
    with master.connect() as client:
        forward = (b"x", b"DELETE", b"user.a", b"", b"")
        assert client.command(b"X-CYRUSEXT-FORWARD", *forward)[-1].verb == "BAD"


def test_the_end_of_the_leader_is_told(master: InProcessMaster) -> None:
    follower = Follower(master)
    follower.noop()
    master.stop()
    while (line := follower.take()).verb != "BYE":
        pass
    assert line.text == "server is shutting down"


def test_a_plain_client_never_hears_of_it(master: InProcessMaster) -> None:
    client: Mupdate = master.connect()
    assert not any(b"CYRUSEXT-" in line for line in client.banner)
