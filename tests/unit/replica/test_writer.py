"""Group commit: one transaction for what waits, failures to whom they concern, nothing for ever.

The store here is a stand-in that can be told to fail and to hang, which the real one can not be.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cyrusext.directory.base import Committed, Outcome, Transaction
from cyrusext.directory.embedded import EmbeddedDirectory
from cyrusext.directory.ownership import Action, check_change
from cyrusext.errors import StoreError, StoreFull
from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.replica.writer import GroupCommit
from tests.harness.waiting import wait_until


class FaultyStore:
    """Commits to a dict; `failure` is raised at the commit, `gate` holds the commit back while it is not set, and a
    record named `poison` can not be put."""

    def __init__(self) -> None:
        self.records: dict[bytes, MailboxRecord] = {}
        self.failure: Exception | None = None
        self.poison = b""
        self.gate = threading.Event()
        self.gate.set()
        self.sizes: list[int] = []
        self.seq = 0

    @contextmanager
    def begin(self) -> Iterator[FaultyTransaction]:
        transaction = FaultyTransaction(self)
        yield transaction
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        self.records.update(transaction.written)
        self.sizes.append(len(transaction.written))


class FaultyTransaction:
    def __init__(self, store: FaultyStore) -> None:
        self._store = store
        self.written: dict[bytes, MailboxRecord] = {}

    def get(self, name: bytes) -> MailboxRecord | None:
        return self.written.get(name, self._store.records.get(name))

    def put(self, record: MailboxRecord) -> MailboxRecord:
        if record.name == self._store.poison:
            raise StoreError("too many servers", public="the store failed")
        self._store.seq += 1
        self.written[record.name] = stored = record._replace(seq=self._store.seq)
        return stored

    def put_copied(self, record: MailboxRecord) -> MailboxRecord:
        raise NotImplementedError

    def set_text(self, key: str, text: str) -> None:
        raise NotImplementedError


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.store = FaultyStore()
        self.writer = GroupCommit(self.store, **settings)
        self.directory = EmbeddedDirectory(self.writer)
        self.told: list[Committed] = []
        self.writer.on_commit(self.told.extend)

    def activate(self, name: bytes, location: bytes = b"be1!default") -> asyncio.Future[Outcome]:
        return self.directory.write(check_change(Action.ACTIVATE, name, location, b"a\tl\t"), "test")


def run(scenario: Callable[[Bench], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def main() -> None:
        bench = Bench(**settings)
        await bench.writer.start()
        try:
            await asyncio.wait_for(scenario(bench), 20)
        finally:
            bench.store.gate.set()
            await asyncio.wait_for(bench.writer.stop(), 5)

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition, "the writer is so far")


def test_what_waits_becomes_one_transaction() -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.gate.clear()
        first = bench.activate(b"first")
        await until(lambda: not bench.writer.queued)
        others = [bench.activate(b"user.%d" % number) for number in range(100)]
        bench.store.gate.set()
        assert all(outcome.granted for outcome in await asyncio.gather(first, *others))
        assert bench.store.sizes == [1, 100]
        assert len(bench.told) == 101

    run(scenario)


def test_a_transaction_has_a_bound() -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.gate.clear()
        waiting = [bench.activate(b"user.%d" % number) for number in range(25)]
        bench.store.gate.set()
        await asyncio.gather(*waiting)
        assert max(bench.store.sizes) <= 10
        assert sum(bench.store.sizes) == 25

    run(scenario, batch=10)


def test_two_changes_to_one_mailbox_are_decided_one_after_the_other() -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.gate.clear()
        one, two = bench.activate(b"x", b"be1!default"), bench.activate(b"x", b"be2!default")
        bench.store.gate.set()
        assert (await one).granted
        assert await two == Outcome(False, "mailbox is held by be1", "ownership")

    run(scenario)


def test_the_feed_is_told_before_the_outcome_is_given() -> None:
    async def scenario(bench: Bench) -> None:
        story: list[str] = []
        bench.writer.on_commit(lambda changes: story.extend(change.record.name.decode() for change in changes))
        future = bench.activate(b"x")
        future.add_done_callback(lambda _: story.append("outcome"))
        await future
        await asyncio.sleep(0)
        assert story == ["x", "outcome"]
        assert bench.store.records[b"x"].state is State.ACTIVE

    run(scenario)


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (StoreFull("MDB_MAP_FULL in /secret/place"), "no space left for the change"),
        (StoreError("EIO in /secret/place", public="the store failed"), "the store failed"),
        (RuntimeError("bug in /secret/place"), "internal error"),
    ],
)
def test_a_failed_commit_is_a_no_with_the_reason_for_each_and_then_it_goes_on(
    failure: Exception, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.failure = failure
        outcomes = await asyncio.gather(*(bench.activate(b"user.%d" % number) for number in range(3)))
        assert [outcome[:2] for outcome in outcomes] == [(False, text)] * 3
        assert bench.told == []
        bench.store.failure = None
        assert (await bench.activate(b"user.0")).granted
        assert bench.writer.last_error == ""

    run(scenario, write_wait_s=0.3)


def test_what_the_store_does_not_take_now_is_held_and_done_in_its_order(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.failure = StoreFull("no space")
        waiting = [bench.activate(b"x", b"be1!default"), bench.activate(b"x", b"be2!default"), bench.activate(b"y")]
        await until(lambda: bench.writer.last_error)
        assert not any(future.done() for future in waiting)
        bench.store.failure = None
        assert [outcome.granted for outcome in await asyncio.gather(*waiting)] == [True, False, True]
        assert bench.store.records[b"x"].server == "be1"
        assert bench.writer.last_error == ""

    run(scenario)
    told = capfd.readouterr().err
    assert told.count("event=store.commit_failed") == 1
    assert told.count("event=store.commit_recovered") == 1


def test_one_change_that_can_not_be_done_costs_the_others_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.poison = b"bad"
        bench.store.gate.clear()
        first = bench.activate(b"first")
        await until(lambda: not bench.writer.queued)
        others = [bench.activate(name) for name in (b"a", b"bad", b"c", b"a")]
        bench.store.gate.set()
        assert (await first).granted
        outcomes = await asyncio.gather(*others)
        assert [outcome.granted for outcome in outcomes] == [True, False, True, True]
        assert outcomes[1].text == "the store failed"

    run(scenario)


def test_stopping_does_not_wait_for_a_store_that_does_not_take_it(capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        bench = Bench(write_wait_s=60)
        await bench.writer.start()
        bench.store.failure = StoreFull("no space")
        waiting = [bench.activate(b"user.%d" % number) for number in range(3)]
        await until(lambda: bench.writer.last_error)
        await asyncio.wait_for(bench.writer.stop(), 10)
        assert await asyncio.gather(*waiting) == [Outcome(False, "no space left for the change", "store-full")] * 3

    asyncio.run(main())


def test_a_held_change_does_not_keep_chores(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.failure = StoreFull("no space")
        held = bench.activate(b"x")
        await until(lambda: bench.writer.last_error)
        await asyncio.wait_for(bench.writer.call_between(lambda: None), 10)
        assert not held.done()
        bench.store.failure = None
        assert (await held).granted

        def fails() -> None:
            raise StoreError("no")

        with pytest.raises(StoreError, match="no"):
            await bench.writer.call_between(fails)

    run(scenario)


def test_too_much_waiting_is_refused_at_once() -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.gate.clear()
        bench.activate(b"runs")
        await until(lambda: not bench.writer.queued)
        queued = [bench.activate(b"user.%d" % number) for number in range(5)]
        refused = bench.activate(b"one.more")
        assert refused.done()
        assert refused.result() == Outcome(False, "too many changes are waiting, try again", "writer-busy")
        bench.store.gate.set()
        assert all(outcome.granted for outcome in await asyncio.gather(*queued))
        assert b"one.more" not in bench.store.records

    run(scenario, queue=5)


def test_what_waited_too_long_is_refused_and_never_made(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.gate.clear()
        running = bench.activate(b"runs")
        await until(lambda: not bench.writer.queued)
        late = bench.activate(b"late")
        assert await late == Outcome(False, "the change waited too long and was not made", "write-timeout")
        assert await running == Outcome(False, "the change is not durable yet, its outcome is unknown", "write-unknown")
        bench.store.gate.set()
        assert (await bench.activate(b"after")).granted
        assert b"late" not in bench.store.records

    run(scenario, write_wait_s=0.2)


def test_a_change_that_took_effect_after_its_no_is_marked_suspect(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.gate.clear()
        assert not (await bench.activate(b"x")).granted
        bench.store.gate.set()
        await until(lambda: b"x" in bench.store.records and bench.store.records[b"x"].flags)
        assert bench.store.records[b"x"].flags is Flag.SUSPECT
        assert bench.told[-1].record.flags is Flag.SUSPECT
        assert (await bench.activate(b"x")).granted
        assert not bench.store.records[b"x"].flags

    run(scenario, write_wait_s=0.2)


def test_it_says_when_the_store_does_not_answer_any_more(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scenario(bench: Bench) -> None:
        assert bench.writer.hung == ""
        bench.store.gate.clear()
        running = bench.activate(b"x")
        await until(lambda: bench.writer.busy_since)
        assert bench.writer.hung == ""
        monkeypatch.setattr("cyrusext.replica.writer.HUNG_S", 0.01)
        await until(lambda: bench.writer.hung)
        bench.store.gate.set()
        assert (await running).granted
        await until(lambda: not bench.writer.hung)

    run(scenario)


def test_stopping_commits_what_is_queued_and_refuses_more() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.writer.start()
        waiting = [bench.activate(b"user.%d" % number) for number in range(20)]
        await bench.writer.stop()
        assert all(outcome.granted for outcome in await asyncio.gather(*waiting))
        assert not (await bench.activate(b"too.late")).granted

    asyncio.run(main())


def test_chores_run_outside_transactions_and_a_failing_one_ends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(bench: Bench) -> None:
        done = threading.Event()

        def fails() -> None:
            raise StoreError("no")

        bench.writer.do_between(fails)
        bench.writer.do_between(done.set)
        assert await asyncio.to_thread(done.wait, 10)
        assert (await bench.activate(b"x")).granted

    run(scenario)


def test_a_claim_lets_one_server_take_over_until_it_ends() -> None:
    async def scenario(bench: Bench) -> None:
        now = [100.0]
        bench.directory = EmbeddedDirectory(bench.writer, clock=lambda: now[0])
        assert (await bench.activate(b"x", b"be1!p")).granted
        bench.directory.claim("be2", 60)
        assert not (await bench.activate(b"x", b"be3!p")).granted
        assert (await bench.activate(b"x", b"be2!p")).granted
        assert (await bench.activate(b"x", b"be2!p")).granted
        now[0] += 61
        bench.directory.claim("be1", 60)
        assert (await bench.activate(b"x", b"be1!p")).granted
        assert not (await bench.activate(b"x", b"be2!p")).granted

    run(scenario)


def test_the_work_sees_a_transaction(capfd: pytest.CaptureFixture[str]) -> None:
    def takes(transaction: Transaction) -> None:
        """FaultyTransaction has to be what the contract asks for."""

    takes(FaultyTransaction(FaultyStore()))


def test_who_has_time_waits_for_what_is_being_committed_but_not_for_ever() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.writer.quiet(1000)  # nothing to wait for
        bench.store.gate.clear()
        first = bench.activate(b"first")
        await bench.writer.quiet(0.01)
        assert not first.done()
        waiting = asyncio.create_task(bench.writer.quiet(1000))
        second = bench.activate(b"second")
        bench.store.gate.set()
        await waiting
        assert first.done() and second.done()

    run(scenario)


def test_a_store_that_refuses_keeps_nobody_waiting() -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.failure = StoreFull("the disk is full")
        held = bench.activate(b"held")
        await bench.writer.quiet(1000)
        assert not held.done()
        bench.store.failure = None
        assert (await held).granted
        await bench.writer.quiet(1000)

    run(scenario)


def test_what_a_listener_raises_costs_only_the_commit_that_it_was_told_of() -> None:
    """The results that the thread told at the same time come all the same."""

    async def scenario(bench: Bench) -> None:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["exception"]))

        def refuse(changes: list[Committed]) -> None:
            if changes[0].record.name == b"bad":
                raise ZeroDivisionError

        bench.writer.on_commit(refuse)
        bench.store.gate.clear()
        bench.activate(b"bad")
        await until(lambda: not bench.writer.queued)
        good = bench.activate(b"good")
        bench.writer.do_between(lambda: None)
        bench.store.gate.set()
        assert (await good).granted
        assert [type(error) for error in reported] == [ZeroDivisionError]

    run(scenario)


def test_it_can_be_stopped_and_leaves_no_descriptor() -> None:
    def descriptors() -> set[str]:
        return {entry.name for entry in Path("/proc/self/fd").iterdir()}

    async def scenario() -> None:
        before = descriptors()
        bench = Bench()
        await bench.writer.start()
        assert (await bench.activate(b"user.a")).granted
        await bench.writer.stop()
        assert descriptors() == before
        assert not (await bench.activate(b"user.b")).granted

    asyncio.run(asyncio.wait_for(scenario(), 20))
