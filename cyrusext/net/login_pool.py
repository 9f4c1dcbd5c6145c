"""The threads in which logins are worked on, since libsasl2 may wait for saslauthd, a database or entropy.

Rule: clients take turns by address, however many logins one of them begins; what one address may have waiting is
bounded, and nobody waits longer than a time limit.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from cyrusext.net.sasl import LoginUnavailable

T = TypeVar("T")


class _Step(Generic[T]):
    """One call, who waits for it, and what came of it."""

    __slots__ = ("address", "call", "error", "future", "result")

    def __init__(self, address: str, call: Callable[[], T], future: asyncio.Future[T]) -> None:
        self.address, self.call, self.future = address, call, future
        self.error: BaseException | None = None
        self.result: Any = None


class LoginPool:
    """Runs steps of exchanges in `threads` threads; of one address at most `queued` wait or run at a time."""

    def __init__(self, *, threads: int = 4, queued: int = 256) -> None:
        self._threads, self._queued = threads, queued
        self._started: list[threading.Thread] = []
        self._free = 0
        self._work: SimpleQueue[_Step[Any] | None] = SimpleQueue()
        self._waiting: dict[str, deque[_Step[Any]]] = {}
        """By address; the first one's turn is next."""
        self._begun: dict[str, int] = {}
        """Steps by address, waiting and running."""
        self._closed = False

    async def run(self, call: Callable[[], T], address: str = "", timeout_s: float = 30.0) -> T:
        """Run `call` (a step of an exchange with a client at `address`) in a thread.

        Raises LoginUnavailable when too many wait or it takes longer than `timeout_s` seconds, and what it raises.
        """
        begun = self._begun.get(address, 0)
        if self._closed or begun >= self._queued:
            raise LoginUnavailable("too many logins at once", public="authentication unavailable")
        self._begun[address] = begun + 1
        self._loop = loop = asyncio.get_running_loop()
        step = _Step(address, call, loop.create_future())
        if self._free or self._start_thread():
            self._free -= 1
            self._work.put(step)
        else:
            self._waiting.setdefault(address, deque()).append(step)
        timer = loop.call_later(timeout_s, self._late, step)
        try:
            result: T = await step.future
        finally:
            timer.cancel()
        return result

    def _start_thread(self) -> bool:
        if len(self._started) >= self._threads:
            return False
        # Daemons: one that hangs in libsasl2 does not keep the process from ending.
        thread = threading.Thread(target=self._serve, name="login", daemon=True)
        self._started.append(thread)
        self._free += 1
        thread.start()
        return True

    def _serve(self) -> None:
        """A thread's life."""
        while (step := self._work.get()) is not None:
            try:
                step.result = step.call()
            except BaseException as error:  # noqa: BLE001 - it is raised again where the step is waited for
                step.error = error
            try:
                self._loop.call_soon_threadsafe(self._done, step)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

    def _done(self, step: _Step[Any]) -> None:
        """On the event loop: the next address has its turn; give the result."""
        if self._waiting:
            address = next(iter(self._waiting))
            queue = self._waiting.pop(address)
            self._work.put(queue.popleft())
            if queue:
                self._waiting[address] = queue  # behind the others
        else:
            self._free += 1
        self._leave(step.address)
        if step.future.done():
            return  # who began it has left, or was told that it took too long
        if step.error is not None:
            step.future.set_exception(step.error)
        else:
            step.future.set_result(step.result)

    def _leave(self, address: str) -> None:
        self._begun[address] -= 1
        if not self._begun[address]:
            del self._begun[address]

    @staticmethod
    def _late(step: _Step[Any]) -> None:
        if not step.future.done():
            step.future.set_exception(LoginUnavailable("the login took too long", public="authentication unavailable"))

    def close(self) -> None:
        """Start no further step; those that run are left to end."""
        self._closed = True
        for queue in self._waiting.values():
            for step in queue:
                step.future.cancel()
                self._leave(step.address)
        self._waiting.clear()
        for _ in self._started:
            self._work.put(None)
