"""The one writer of the store: group commit in one thread.

Rule: work is done in the order in which it was submitted; what is queued when the thread is free becomes one
transaction and one fsync; and its results are given on the event loop, after the feed has been told, in one wake-up per
transaction.  The queue is bounded and work in it has a deadline.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar, cast

from cyrusext.directory.base import Committed, Listener, Transaction, Work
from cyrusext.errors import CyrusExtError, StoreError
from cyrusext.runtime import logging

R = TypeVar("R")

log = logging.get()


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

    `write_wait_s`: work not committed within it fails, with WriteTimeout when it had not begun (it never will), else
    with WriteUnknown.  `queue` bounds the work waiting, `batch` the work in one transaction.
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
        self._awake = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self.last_error = ""
        """Why the last commit failed; empty when it succeeded."""
        self.commits = 0
        self.changes = 0

    def on_commit(self, listener: Listener) -> None:
        """Have `listener` told of every commit from now on, in the order of registration."""
        self._listeners.append(listener)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._thread.start()
        self._sweep()

    async def stop(self) -> None:
        """Commit what is queued, then end; may be cancelled, then the thread ends by itself."""
        with self._awake:
            self._stopping = True
            self._awake.notify()
        await self._stopped.wait()
        if self._thread is not None:
            self._thread.join(1.0)  # it has nothing left to do
        if self._sweeper is not None:
            self._sweeper.cancel()

    @property
    def is_running(self) -> bool:
        """The thread has not ended: after `stop`, because a commit hangs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def queued(self) -> int:
        return len(self._queue)

    def submit(self, work: Work[R]) -> asyncio.Future[R]:
        """Queue `work`; the future never raises, a failure is what `work.failed` makes of it."""
        job = _Job(work, self._loop.create_future(), self._loop.time())
        with self._awake:
            refused = self._stopping or len(self._queue) >= self._limit
            if not refused:
                self._queue.append(job)
                self._awake.notify()
        if refused:
            job.give_failure(WriterBusy("too many changes are waiting, try again"))
        return job.future

    def do_between(self, chore: Callable[[], None]) -> None:
        """Call `chore` in the writer's thread, outside any transaction of ours."""
        with self._awake:
            self._chores.append(chore)
            self._awake.notify()

    def call_between(self, chore: Callable[[], None]) -> asyncio.Future[None]:
        """Do `chore` likewise; the future tells that it is done, or raises what it raised.  Cancelling withdraws it."""
        loop, future = self._loop, self._loop.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                chore()
            except CyrusExtError as error:
                loop.call_soon_threadsafe(_give, future, error)
            else:
                loop.call_soon_threadsafe(_give, future, None)

        self.do_between(run)
        return future

    def _write(self) -> None:
        """The writer's thread."""
        while True:
            with self._awake:
                while not (self._queue or self._chores or self._stopping):
                    self._awake.wait()
                jobs = [self._queue.popleft() for _ in range(min(len(self._queue), self._batch))]
                self._running = jobs
                chore = self._chores.popleft() if self._chores else None
                ended = not jobs and chore is None
            if ended:
                break
            if jobs:
                self._commit(jobs)
            if chore is not None:
                self._run_chore(chore)
        self._loop.call_soon_threadsafe(self._stopped.set)

    def _commit(self, jobs: list[_Job[Any]]) -> None:
        changes: list[Committed] = []
        failure: CyrusExtError | None = None
        try:
            with self._store.begin() as transaction:
                for job in jobs:
                    job.run(transaction, changes)
        except CyrusExtError as error:
            failure = error
        except Exception as error:
            log.error("writer.failed", error=error, exc_info=error)
            failure = StoreError(f"internal error: {error}", public="internal error")
        self._loop.call_soon_threadsafe(self._committed, jobs, changes, failure)

    def _run_chore(self, chore: Callable[[], None]) -> None:
        try:
            chore()
        except Exception as error:  # noqa: BLE001 - chores are repeated; the writer goes on
            log.warning("writer.chore_failed", error=error)

    def _committed(self, jobs: list[_Job[Any]], changes: list[Committed], failure: CyrusExtError | None) -> None:
        """On the event loop: tell the feed, then give the results."""
        with self._awake:
            if self._running is jobs:
                self._running = []
        if failure is not None:
            if str(failure) != self.last_error:
                log.error("store.commit_failed", error=failure, code=failure.code, changes=len(jobs))
            self.last_error = str(failure)
            for job in jobs:
                job.give_failure(failure)
            return
        if self.last_error:
            log.info("store.commit_recovered", after=self.last_error)
            self.last_error = ""
        self.commits += 1
        self.changes += len(changes)
        for listener in self._listeners:
            listener(changes)
        for job in jobs:
            late = job.work.applied_late() if job.future.done() else None
            job.give_result()
            if late is not None:
                self.submit(late)

    def _sweep(self) -> None:
        """Fail what has waited too long; four times a second, while there is a loop."""
        self._sweeper = self._loop.call_later(0.25, self._sweep)
        limit = self._loop.time() - self.write_wait_s
        expired = []
        with self._awake:
            while self._queue and self._queue[0].since < limit:
                expired.append(self._queue.popleft())
            hanging = [job for job in self._running if job.since < limit and not job.future.done()]
        for job in expired:
            job.give_failure(WriteTimeout("the change waited too long and was not made"))
        for job in hanging:
            job.give_failure(WriteUnknown("the change is not durable yet, its outcome is unknown"))
        if expired or hanging:
            log.error("writer.too_slow", not_made=len(expired), unknown=len(hanging), seconds=self.write_wait_s)


def _give(future: asyncio.Future[None], error: CyrusExtError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
