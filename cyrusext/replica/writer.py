"""The one writer of the store: group commit in one thread.

Rule: work is done in the order in which it was submitted; what is queued when the thread is free becomes one
transaction and one fsync; and its results are given on the event loop, after the feed has been told, in one wake-up per
transaction.  The queue is bounded and work in it has a deadline.  A transaction that the store can not take now (a full
disk) changes nothing: its work is held, in its place in the order, and tried again until that deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from cyrusext.directory.base import Committed, Listener, Transaction, Work
from cyrusext.errors import CyrusExtError, StoreError, StoreFull
from cyrusext.replica.bell import Bell
from cyrusext.runtime import logging
from cyrusext.runtime.histogram import Histogram

R = TypeVar("R")

log = logging.get()

HANGING_S = 0.5
"""A transaction that takes less is not hanging: what becomes of its work is about to be known."""
HUNG_S = 60.0
"""A transaction that takes longer will not end: a new process may have better luck."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Between two attempts at a transaction that failed: doubled from one to the other."""


class WriterBusy(StoreError):
    """Too much work is queued already; this was not done."""

    code = "writer-busy"


class WriteTimeout(StoreError):
    """The work waited too long in the queue and was not done."""

    code = "write-timeout"


class WriteUnknown(StoreError):
    """The commit takes too long: nobody knows yet whether it will succeed."""

    code = "write-unknown"


class Store(Protocol):
    """What the writer needs of the store."""

    def begin(self) -> AbstractContextManager[Transaction]: ...


class _Job(Generic[R]):
    """Work with the future that waits for it; `result` is set by the writer's thread."""

    __slots__ = ("future", "result", "since", "work")

    def __init__(self, work: Work[R], future: asyncio.Future[R], since: float) -> None:
        self.work, self.future, self.since = work, future, since
        self.result: R | None = None

    def run(self, transaction: Transaction, changes: list[Committed]) -> None:
        self.result = self.work.run(transaction, changes)

    def give_result(self) -> None:
        if not self.future.done():
            self.future.set_result(cast(R, self.result))

    def give_failure(self, error: CyrusExtError) -> None:
        if not self.future.done():
            self.future.set_result(self.work.failed(error))


class GroupCommit:
    """Commits work to `store`.

    `write_wait_s`: work not committed within it fails: with what the store said where that is what kept it, with
    WriteTimeout when it had not begun (it never will), else with WriteUnknown.  `queue` bounds the work waiting,
    `batch` the work in one transaction.
    """

    name = "writer"

    def __init__(self, store: Store, *, write_wait_s: float = 8.0, queue: int = 10_000, batch: int = 512) -> None:
        self._store = store
        self._listeners: list[Listener] = []
        self.write_wait_s = write_wait_s
        self._limit, self._batch = queue, batch
        self._queue: deque[_Job[Any]] = deque()
        self._running: list[_Job[Any]] = []
        self._chores: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        """Held for what the loop and the thread both touch, for moments."""
        self._called: Bell | None = None
        """Rung for the thread, while there is one."""
        self._told: Bell | None = None
        """Rung for the loop."""
        self._results: deque[Callable[[], None]] = deque()
        """What the thread has the loop do, in order."""
        self._stopping = False
        self._calling = False
        self._settling = False
        """A transaction has failed; its work is on its way back into the queue, and nothing may overtake it."""
        self._failure: CyrusExtError | None = None
        """What keeps the work in the queue waiting."""
        self._pause_s = 0.0
        self._not_before = 0.0
        self._thread: threading.Thread | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.last_error = ""
        """Why the last commit failed; empty when it succeeded."""
        self.busy_since = 0.0
        """When the thread began what it is at, by time.monotonic(); 0 when it is at nothing."""
        self.commits = 0
        self.changes = 0
        self.latency = Histogram()
        """Seconds of each commit, its decisions included."""

    def on_commit(self, listener: Listener) -> None:
        """Have `listener` told of every commit from now on, in the order of registration."""
        self._listeners.append(listener)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._called, self._told = Bell(), Bell()
        self._loop.add_reader(self._told.fileno(), self._hear)
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._thread.start()
        self._sweep()

    async def stop(self) -> None:
        """Commit what is queued, then end; may be cancelled, then the thread ends by itself."""
        with self._lock:
            self._stopping = True
        self._call()
        await self._stopped.wait()
        if self._thread is not None:
            self._thread.join(1.0)  # it has nothing left to do
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._told is not None and not self.is_running:
            self._loop.remove_reader(self._told.fileno())
            for bell in (self._told, self._called):
                if bell is not None:
                    bell.close()
            self._told = self._called = None

    @property
    def is_running(self) -> bool:
        """The thread has not ended: after `stop`, because a commit hangs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def hung(self) -> str:
        """Why the thread will do nothing more, or ""; asked while it should run."""
        if not self.is_running:
            return "the writer's thread has ended"
        since = self.busy_since
        if since and time.monotonic() - since > HUNG_S:
            return f"the store has not answered for {HUNG_S:g} s"
        return ""

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def quiet(self, at_most_s: float) -> None:
        """Wait until nothing is being committed, but no longer than that: for whoever has time, on the event loop.

        The thread shares the interpreter, and maybe the processor, with whoever is busy there.
        """
        if not self._quiet.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(at_most_s):
                    await self._quiet.wait()

    def submit(self, work: Work[R]) -> asyncio.Future[R]:
        """Queue `work`; the future never raises, a failure is what `work.failed` makes of it."""
        job = _Job(work, self._loop.create_future(), self._loop.time())
        with self._lock:
            refused = self._stopping or len(self._queue) >= self._limit
            if not refused:
                self._queue.append(job)
                self._quiet.clear()
        if refused:
            job.give_failure(WriterBusy("too many changes are waiting, try again"))
        elif not self._calling:
            # Once, when the loop has seen to all who are ready: what came together shares a transaction, and the
            # thread does not wake to wait for an interpreter that is busy here.
            self._calling = True
            self._loop.call_soon(self._call)
        return job.future

    def _call(self) -> None:
        """On the event loop: have the thread look at what there is to do."""
        self._calling = False
        if self._called is not None:
            self._called.ring()

    def _tell(self, result: Callable[[], None]) -> None:
        """In the thread: have the loop call `result`."""
        self._results.append(result)
        if self._told is not None:
            self._told.ring()

    def _hear(self) -> None:
        """On the event loop: do what the thread has told."""
        if self._told is not None:
            self._told.hush()
        try:
            while self._results:
                self._results.popleft()()
        finally:
            if self._results and self._told is not None:
                self._told.ring()  # one has raised; the others have their turn

    def do_between(self, chore: Callable[[], None]) -> None:
        """Call `chore` in the writer's thread, outside any transaction of ours."""
        with self._lock:
            self._chores.append(chore)
        self._call()

    def call_between(self, chore: Callable[[], None]) -> asyncio.Future[None]:
        """Do `chore` likewise; the future tells that it is done, or raises what it raised.  Cancelling withdraws it."""
        future = self._loop.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                chore()
            except CyrusExtError as error:
                self._tell(partial(_give, future, error))
            else:
                self._tell(partial(_give, future, None))

        self.do_between(run)
        return future

    def _write(self) -> None:
        """The writer's thread."""
        while (step := self._next_step()) is not None:
            jobs, chore = step
            self.busy_since = time.monotonic()
            if jobs:
                self._commit(jobs)
            if chore is not None:
                self._run_chore(chore)
            self.busy_since = 0.0
        self._tell(self._stopped.set)

    def _next_step(self) -> tuple[list[_Job[Any]], Callable[[], None] | None] | None:
        """Wait for something to do; None at the end."""
        while True:
            with self._lock:
                wait_s = self._wait_s()
                if self._chores or wait_s == 0.0:
                    return self._take(wait_s == 0.0)
                if self._stopping and not self._queue and not self._settling:
                    return None
            assert self._called is not None
            self._called.wait(wait_s)

    def _take(self, work: bool) -> tuple[list[_Job[Any]], Callable[[], None] | None]:
        """Take a chore where there is one, and of the queue, if `work`, what goes into one transaction."""
        count = 0
        if work:
            # While the store refuses, one piece of work finds out whether it still does.
            count = 1 if self._pause_s and not self._stopping else min(len(self._queue), self._batch)
        jobs = self._running = [self._queue.popleft() for _ in range(count)]
        return jobs, self._chores.popleft() if self._chores else None

    def _wait_s(self) -> float | None:
        """Return how long until there may be a transaction; None: until something happens."""
        if not self._queue or self._settling:
            return None
        return 0.0 if self._stopping or not self._pause_s else max(0.0, self._not_before - time.monotonic())

    def _commit(self, jobs: list[_Job[Any]]) -> None:
        changes: list[Committed] = []
        failure: CyrusExtError | None = None
        at_fault: list[_Job[Any]] = []
        began = time.perf_counter()
        try:
            with self._store.begin() as transaction:
                for job in jobs:
                    at_fault = [job]
                    job.run(transaction, changes)
                at_fault = []
            self.latency.add(time.perf_counter() - began)
        except CyrusExtError as error:
            failure = error
        except Exception as error:
            log.error("writer.failed", error=error, exc_info=error)
            failure = StoreError(f"internal error: {error}", public="internal error")
            at_fault = at_fault or jobs
        if failure is None:
            self._tell(partial(self._committed, jobs, changes))
            return
        self._settling = True
        if at_fault and not isinstance(failure, StoreFull):
            self._tell(partial(self._give_up, jobs, at_fault, failure))
        else:
            self._tell(partial(self._hold, jobs, failure))

    def _run_chore(self, chore: Callable[[], None]) -> None:
        try:
            chore()
        except Exception as error:  # noqa: BLE001 - chores are repeated; the writer goes on
            log.warning("writer.chore_failed", error=error)

    def _committed(self, jobs: list[_Job[Any]], changes: list[Committed]) -> None:
        """On the event loop: tell the feed, then give the results."""
        with self._lock:
            if self._running is jobs:
                self._running = []
                if not self._queue:
                    self._quiet.set()
            paused, self._pause_s = self._pause_s, 0.0
        if paused:
            self._call()
        if self._failure is not None:
            log.info("store.commit_recovered", after=self.last_error)
            self._failure, self.last_error = None, ""
        self.commits += 1
        self.changes += len(changes)
        for listener in self._listeners:
            listener(changes)
        for job in jobs:
            late = job.work.applied_late() if job.future.done() else None
            job.give_result()
            if late is not None:
                self.submit(late)

    def _hold(self, jobs: list[_Job[Any]], failure: CyrusExtError) -> None:
        """On the event loop: the store does not take `jobs` now; have them tried again while their time lasts."""
        if str(failure) != self.last_error:
            log.error("store.commit_failed", error=failure, code=failure.code, changes=len(jobs))
        self._failure, self.last_error = failure, str(failure)
        limit = self._loop.time() - self.write_wait_s
        held = [] if self._stopping else [job for job in jobs if job.since > limit and not job.future.done()]
        with self._lock:
            self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s) or FIRST_PAUSE_S
            self._not_before = time.monotonic() + self._pause_s
            self._put_back(held)
        for job in jobs:
            if job not in held:
                job.give_failure(failure)

    def _give_up(self, jobs: list[_Job[Any]], at_fault: list[_Job[Any]], failure: CyrusExtError) -> None:
        """On the event loop: `at_fault` can not be done, whatever the store; the others of `jobs` can."""
        log.error("writer.not_done", error=failure, code=failure.code, changes=len(at_fault))
        with self._lock:
            self._put_back([job for job in jobs if job not in at_fault and not job.future.done()])
        for job in at_fault:
            job.give_failure(failure)

    def _put_back(self, jobs: list[_Job[Any]]) -> None:
        """Return `jobs` to their place, and let the thread go on; the lock is held."""
        self._quiet.set()
        self._queue.extendleft(reversed(jobs))
        self._running = []
        self._settling = False
        self._call()

    def _sweep(self) -> None:
        """Fail what has waited too long; four times a second, while there is a loop."""
        self._sweeper = self._loop.call_later(0.25, self._sweep)
        limit = self._loop.time() - self.write_wait_s
        expired = []
        with self._lock:
            while self._queue and self._queue[0].since < limit:
                expired.append(self._queue.popleft())
            if not self._queue and not self._running:
                self._quiet.set()
            hanging = []
            if self.busy_since and time.monotonic() - self.busy_since > HANGING_S:
                hanging = [job for job in self._running if job.since < limit and not job.future.done()]
        for job in expired:
            job.give_failure(self._failure or WriteTimeout("the change waited too long and was not made"))
        for job in hanging:
            job.give_failure(WriteUnknown("the change is not durable yet, its outcome is unknown"))
        if hanging or (expired and self._failure is None):
            log.error("writer.too_slow", not_made=len(expired), unknown=len(hanging), seconds=self.write_wait_s)


def _give(future: asyncio.Future[None], error: CyrusExtError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
