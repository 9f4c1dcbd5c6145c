"""A refill over real connections: what a push hears, what counts as one, and what nobody is told meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cyrusext.directory.embedded import EmbeddedDirectory
from cyrusext.mupdate.refill import Refill
from tests.harness.inprocess import InProcessMaster
from tests.harness.mupdate import Mupdate, literal
from tests.harness.waiting import wait_until

HERE, THERE = b"be1!default", b"be2!default"


@pytest.fixture
def master(tmp_path: Path) -> Iterator[InProcessMaster]:
    """It holds two mailboxes of be2, user.moved and user.kept, which may be out of date."""
    with InProcessMaster(tmp_path, leftover_wait_s=0.2) as running:
        client = running.connect()
        for name in (b"user.moved", b"user.kept"):
            client.ok(b"ACTIVATE", name, THERE, b"x\tl\t")
        running.on_loop(lambda: begin(running))
        yield running


def begin(master: InProcessMaster) -> None:
    master.service.refill.begin(master.store.seq)
    directory = master.service.directory
    assert isinstance(directory, EmbeddedDirectory)
    directory.set_stale(master.store.seq)


def pushed(master: InProcessMaster) -> set[str]:
    return master.on_loop(lambda: set(master.service.refill.pushed))


def logout(client: Mupdate) -> None:
    client.ok(b"LOGOUT")


def test_a_push_hears_nothing_of_records_that_may_be_out_of_date(master: InProcessMaster) -> None:
    client = master.connect()
    assert client.list(b"be1!") == []
    assert client.find(b"user.moved") is None
    client.ok(b"ACTIVATE", b"user.moved", HERE, b"y\tl\t")
    entry = client.find(b"user.moved")
    assert entry is not None and entry.server == "be1"
    logout(client)
    assert pushed(master) == {"be1"}
    stranger = master.connect().find(b"user.kept")
    assert stranger is not None and stranger.server == "be2", "everybody else sees what is recorded"


def test_a_dry_run_is_no_push(master: InProcessMaster) -> None:
    client = master.connect()
    client.list(b"be1!")
    assert client.find(b"user.moved") is None
    logout(client)
    broken = master.connect()
    broken.list(b"be3!")
    broken.close()
    assert pushed(master) == set()


def test_a_mailbox_that_two_servers_really_have_is_not_decided(master: InProcessMaster) -> None:
    first, second = master.connect(), master.connect()
    first.list(b"be1!")
    assert first.find(b"user.moved") is None
    first.ok(b"ACTIVATE", b"user.moved", HERE, b"")
    second.list(b"be2!")
    assert second.find(b"user.moved") is None, "it would remove its own"
    answer = second.command(b"ACTIVATE", b"user.moved", THERE, b"")[-1]
    assert (answer.verb, answer.text) == ("NO", "mailbox is held by be1")
    logout(second)
    assert pushed(master) == set(), "and it has not told all that it has"


def test_a_create_takes_nothing_over(master: InProcessMaster) -> None:
    """Its RESERVE comes first, and is refused as ever."""
    answer = master.connect().command(b"RESERVE", b"user.kept", HERE)[-1]
    assert (answer.verb, answer.text) == ("NO", "mailbox is held by be2")


def test_nobody_gets_the_list_and_nothing_is_fresh(master: InProcessMaster) -> None:
    client = master.connect()
    client.send(b"U UPDATE\r\n")
    assert client._socket.recv(1000) == b"", "cut off without a word: NO or BYE would be taken for an empty list"
    assert not master.service.directory.is_fresh
    master.on_loop(master.service.refill.end)
    with master.stream() as stream:
        assert set(stream.mirror) == {b"user.moved", b"user.kept"}


def test_who_is_missing() -> None:
    refill = Refill()
    assert not refill.active
    refill.begin(5)
    refill.pushed.add("be1")
    assert refill.missing(["be2", "be1", "be3"]) == ["be2", "be3"]
    refill.begin(7)
    assert refill.missing(["be1"]) == ["be1"], "it begins anew"


def test_the_end_of_the_node_cuts_off_a_list_that_is_not_complete(tmp_path: Path) -> None:
    """The stock slave takes a list that ends with BYE for the whole one, and forgets every other mailbox."""
    with InProcessMaster(tmp_path) as master:
        client = master.connect()
        acl = b"x\tl\t" * 5000
        for number in range(400):
            client.send(
                b"%d ACTIVATE %s %s %s\r\n" % (number, literal(b"user.u%d" % number), literal(HERE), literal(acl))
            )
        for _ in range(400):
            assert client.receive(30).verb == "OK"
        reader = master.connect()
        reader.send(b"U UPDATE\r\n")
        assert reader._socket.recv(1000)
        wait_until(lambda: master.on_loop(lambda: len(master.feed)) == 1, "the subscription")
        master.stop()
        heard = b""
        try:
            while data := reader._socket.recv(1 << 20):
                heard = (heard + data)[-2000:]
        except ConnectionResetError:
            pass
        assert b"BYE" not in heard
