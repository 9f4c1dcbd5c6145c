"""The contract of a directory (directory.base): the embedded one on the real store, and a follower of such a one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from cyrusext.directory.base import Committed, Directory
from cyrusext.directory.embedded import EmbeddedDirectory
from cyrusext.directory.follow import FollowDirectory
from cyrusext.directory.ownership import Action, check_change
from cyrusext.model import State
from cyrusext.mupdate.follower import Follower, Target
from cyrusext.net.address import TcpAddress
from cyrusext.replica.writer import GroupCommit
from cyrusext.store import Store
from tests.harness.inprocess import InProcessMaster


class Embedded:
    """The embedded directory with its store; `told` is what the feed heard."""

    def __init__(self, place: Path) -> None:
        (place / "run").mkdir(exist_ok=True)
        self.store = Store.open(place / "state", run_dir=place / "run", map_size=256 << 20)
        self.writer = GroupCommit(self.store)
        self.directory: Directory = EmbeddedDirectory(self.writer)
        self.told: list[Committed] = []
        self.writer.on_commit(self.told.extend)

    async def __aenter__(self) -> Embedded:
        await self.writer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.writer.stop()
        self.store.close()

    async def do(self, action: Action, name: bytes, location: bytes = b"", acl: bytes = b"") -> bool:
        return (await self.directory.write(check_change(action, name, location, acl), "murder@10.0.0.1")).granted


class Following(Embedded):
    """A follower's directory, connected to a leader in this process."""

    def __init__(self, place: Path) -> None:
        (place / "leader").mkdir(exist_ok=True)
        (place / "password").write_text("murderpw\n")
        self.leader = InProcessMaster(place / "leader")
        super().__init__(place)
        address = TcpAddress("127.0.0.1", self.leader.port)
        target = Target(address, "murder", str(place / "password"), "", "", "standard", "node2")
        self.link = Follower(target, self.store, self.writer, write_wait_s=20, no_max_age_s=600)
        self.directory = FollowDirectory(self.link, str(address))

    async def __aenter__(self) -> Following:
        await asyncio.to_thread(self.leader.__enter__)
        await super().__aenter__()
        await self.link.start()
        assert await self.directory.catch_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.link.stop()
        await super().__aexit__()
        await asyncio.to_thread(self.leader.__exit__)


Scenario = Callable[[Embedded], Coroutine[Any, Any, None]]


@pytest.fixture(params=[Embedded, Following])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scenario], None]:
    """Run a scenario on the directory; a second one finds what the first one left."""

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            async with request.param(tmp_path) as node:
                await asyncio.wait_for(scenario(node), 30)

        asyncio.run(main())

    return run


def test_a_granted_change_is_visible_and_told_when_its_outcome_is_given(play: Callable[[Scenario], None]) -> None:
    async def scenario(node: Embedded) -> None:
        assert node.directory.may_answer
        assert node.directory.is_fresh
        assert await node.do(Action.ACTIVATE, b"user.alice", b"be1!default", b"alice\tlrs\t")
        record = node.store.get(b"user.alice")
        assert record is not None
        assert (record.state, record.server, record.acl) == (State.ACTIVE, "be1", b"alice\tlrs\t")
        assert record.changed_by == "murder@10.0.0.1"
        assert node.told == [Committed(record, "")]

    play(scenario)


def test_catching_up_is_knowing_what_was_granted_before(play: Callable[[Scenario], None]) -> None:
    async def scenario(node: Embedded) -> None:
        for number in range(20):
            assert await node.do(Action.ACTIVATE, b"user.u%d" % number, b"be1!default", b"a\tl\t")
        assert await node.directory.catch_up()
        assert node.directory.is_fresh
        assert len(node.store.chunk()) == 20

    play(scenario)


def test_a_refused_change_changes_and_tells_nothing(play: Callable[[Scenario], None]) -> None:
    async def scenario(node: Embedded) -> None:
        assert await node.do(Action.ACTIVATE, b"user.alice", b"be1!default", b"a\tl\t")
        before, seq = node.store.get(b"user.alice"), node.store.seq
        for action in (Action.RESERVE, Action.ACTIVATE, Action.DEACTIVATE):
            assert not await node.do(action, b"user.alice", b"be2!default", b"b\tl\t")
        assert not await node.do(Action.DEACTIVATE, b"user.nobody", b"be1!default")
        assert (node.store.get(b"user.alice"), node.store.seq, len(node.told)) == (before, seq, 1)

    play(scenario)


def test_what_was_granted_is_there_after_a_new_start(play: Callable[[Scenario], None]) -> None:
    async def first(node: Embedded) -> None:
        assert all(
            await asyncio.gather(
                *(node.do(Action.ACTIVATE, b"user.u%d" % n, b"be1!default", b"x\tl\t") for n in range(200))
            )
        )
        assert await node.do(Action.DELETE, b"user.u7")

    async def second(node: Embedded) -> None:
        names = {record.name for record in node.store.chunk(limit=1000)}
        assert names == {b"user.u%d" % n for n in range(200) if n != 7}
        tombstone = node.store.get(b"user.u7")
        assert tombstone is not None
        assert tombstone.state is State.DELETED
        assert await node.do(Action.DELETE, b"user.u7")  # a repetition

    play(first)
    play(second)


def test_changes_to_one_mailbox_are_one_after_the_other(play: Callable[[Scenario], None]) -> None:
    """However many servers want it at once, one gets it; and the sequence in the feed only grows."""

    async def scenario(node: Embedded) -> None:
        granted = await asyncio.gather(
            *(node.do(Action.RESERVE, b"user.new", b"be%d!default" % server) for server in range(50))
        )
        assert granted.count(True) == 1
        record = node.store.get(b"user.new")
        assert record is not None
        assert record.server == f"be{granted.index(True)}"
        for server in range(50):
            await node.do(Action.DELETE, b"user.new")
            await node.do(Action.RESERVE, b"user.new", b"be%d!default" % server)
        seqs = [change.record.seq for change in node.told]
        assert seqs == sorted(set(seqs))
        assert [change.was for change in node.told[:4]] == ["", record.server, "", "be0"]

    play(scenario)


def test_an_xfer(play: Callable[[Scenario], None]) -> None:
    async def scenario(node: Embedded) -> None:
        assert await node.do(Action.ACTIVATE, b"user.alice", b"be1!default", b"a\tl\t")
        assert await node.do(Action.DEACTIVATE, b"user.alice", b"be1!default")
        assert await node.do(Action.ACTIVATE, b"user.alice", b"be2!default", b"a\tl\t")
        assert [(change.was, change.record.server, change.record.state) for change in node.told] == [
            ("", "be1", State.ACTIVE),
            ("be1", "be1", State.RESERVED),
            ("be1", "be2", State.ACTIVE),
        ]

    play(scenario)
