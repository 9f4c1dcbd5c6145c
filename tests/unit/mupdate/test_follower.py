"""The follower's side, with leaders that break their word: nothing of it reaches the store or passes for fresh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from msgspec import msgpack

from cyrusext.directory.follow import FollowDirectory
from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate.follower import Follower, Target
from cyrusext.net.address import TcpAddress
from cyrusext.replica.writer import GroupCommit
from cyrusext.store import Store
from tests.harness.mupdate import literal
from tests.harness.waiting import wait_until

BANNER = b'* AUTH "PLAIN"\r\n* OK MUPDATE "leader" "cyrusext" "1" "(master)"\r\n'
ALICE = MailboxRecord(b"user.alice", State.ACTIVE, "be1", "default", b"a\tl\t", 7, changed_at=5, changed_by="x@y")
BEGIN = b'F1 X-BEGIN "0123abcd" "full" "7"\r\nF1 OK "following"\r\n'
RECORDS = b"F1 X-RECORDS " + literal(msgpack.encode([ALICE])) + b"\r\n"
REACHED = b'F1 X-REACHED "7" "00ff00ff" "%b"\r\n'


class Leader:
    """Says BANNER, takes any login, and answers FOLLOW with `script`; `noop` is what it says to each NOOP."""

    def __init__(self, script: bytes, noop: bytes | None = None) -> None:
        self.script, self.noop = script, noop
        self.connections = 0
        self.closed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(BANNER)
        following = b""
        try:
            while line := await reader.readline():
                tag, _, command = line.partition(b" ")
                if command.startswith(b"AUTHENTICATE"):
                    await reader.readline()
                    writer.write(tag + b' OK "Authenticated"\r\n')
                elif command.startswith(b"X-CYRUSEXT-FOLLOW"):
                    for _ in range(7):
                        await reader.readline()
                    following = tag
                    writer.write(self.script.replace(b"F1 ", tag + b" "))
                elif command.startswith(b"NOOP") and self.noop is not None:
                    writer.write(self.noop.replace(b"F1 ", following + b" ") + tag + b' OK "Noop done"\r\n')
        except ConnectionError:
            pass
        finally:
            self.closed += 1
            writer.close()


Scenario = Callable[[Leader, Follower, Store], Coroutine[Any, Any, None]]


def play(place: Path, leader: Leader, scenario: Scenario) -> None:
    (place / "password").write_text("murderpw\n")

    async def main() -> None:
        server = await asyncio.start_server(leader.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with Store.open(place / "state", run_dir=place / "run", map_size=64 << 20) as store:
            writer = GroupCommit(store)
            target = Target(
                TcpAddress("127.0.0.1", port), "murder", str(place / "password"), "", "", "standard", "node2"
            )
            follower = Follower(target, store, writer, write_wait_s=0.5, no_max_age_s=2.0)
            await writer.start()
            await follower.start()
            try:
                await asyncio.wait_for(scenario(leader, follower, store), 30)
            finally:
                await follower.stop()
                await writer.stop()
                server.close()

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition, "what the test waits for", 20)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (b'F1 BAD "Unrecognized command"\r\n', "BAD Unrecognized command"),
        (b'F1 NO "this node follows x:1 itself; follow that one"\r\n', "follow that one"),
        (b'* BYE "too many connections"\r\n', "too many connections"),
        (b'F1 OK "following"\r\n', "unexpected OK"),
        (b'F1 X-BEGIN "0123abcd" "most" "7"\r\n', "can not be read"),
        (BEGIN + b"F1 X-RECORDS {3+}\r\n\xc1\xc1\xc1\r\n", "can not be read"),
        (BEGIN + b"F1 X-RECORDS " + literal(msgpack.encode([ALICE._replace(name=b"")])) + b"\r\n", "can not be read"),
        (BEGIN + b'F9 X-REACHED "7" "" "fresh"\r\n', "nobody asked for"),
        (BEGIN + b'F1 MAILBOX "a" "b!c" ""\r\n', "unexpected"),
        (BEGIN + b"F1 X-RECORDS {9999999+}\r\n", "literal too long"),
        (BEGIN + b'F1 X-BEGIN "0123abcd" "full" "7"\r\n', "begins twice"),
    ],
)
def test_a_leader_that_breaks_its_word_is_left_and_asked_again(tmp_path: Path, script: bytes, problem: str) -> None:
    async def scenario(leader: Leader, follower: Follower, store: Store) -> None:
        await until(lambda: problem in follower.problem)
        assert (follower.is_complete, follower.is_fresh, store.chunk()) == (False, False, [])
        assert not await follower.catch_up()
        await until(lambda: leader.closed == leader.connections)

    play(tmp_path, Leader(script), scenario)


def test_an_interrupted_copy_is_no_copy(tmp_path: Path) -> None:
    async def scenario(_leader: Leader, follower: Follower, store: Store) -> None:
        await until(lambda: store.get(b"user.alice"))
        assert not follower.is_complete
        assert not FollowDirectory(follower, "leader").may_answer

    play(tmp_path, Leader(BEGIN + RECORDS), scenario)
    play(tmp_path, Leader(b"", None), not_complete)


async def not_complete(_leader: Leader, follower: Follower, store: Store) -> None:
    assert store.get(b"user.alice") is not None
    assert not follower.is_complete


def test_a_leader_that_answers_no_question_makes_nobody_fresh(tmp_path: Path) -> None:
    async def scenario(_leader: Leader, follower: Follower, store: Store) -> None:
        await until(lambda: follower.is_complete)
        assert store.get(b"user.alice") == ALICE
        assert not await follower.catch_up()
        assert not follower.is_fresh
        assert follower.state == "following"

    play(tmp_path, Leader(BEGIN + RECORDS + REACHED % b"fresh"), scenario)


@pytest.mark.parametrize("word", [b"fresh", b"stale"])
def test_a_follower_is_as_fresh_as_its_leader(tmp_path: Path, word: bytes) -> None:
    async def scenario(leader: Leader, follower: Follower, _store: Store) -> None:
        await until(lambda: follower.is_complete)
        assert await follower.catch_up() is (word == b"fresh")
        await until(lambda: follower.is_fresh is (word == b"fresh"))
        leader.noop = None
        await until(lambda: not follower.is_fresh)

    play(tmp_path, Leader(BEGIN + RECORDS + REACHED % word, REACHED % word), scenario)


def test_a_copy_that_lacks_what_is_here_waits_for_an_operator(tmp_path: Path) -> None:
    def other(records: bytes) -> Leader:
        return Leader(b'F1 X-BEGIN "another" "full" "1"\r\nF1 OK "following"\r\n' + records + REACHED % b"fresh")

    async def first(_leader: Leader, follower: Follower, _store: Store) -> None:
        await until(lambda: follower.is_complete)

    async def held(_leader: Leader, follower: Follower, store: Store) -> None:
        await until(lambda: follower.held)
        assert follower.held is not None
        assert (follower.state, follower.held.count, follower.held.names) == ("held", 1, [b"user.alice"])
        assert store.get(b"user.alice") == ALICE
        assert follower.is_complete
        assert follower.accept() == 1
        await until(lambda: follower.state == "following")
        assert store.chunk() == []
        assert follower.accept() == 0

    play(tmp_path, Leader(BEGIN + RECORDS + REACHED % b"fresh"), first)
    play(tmp_path, other(b""), held)
