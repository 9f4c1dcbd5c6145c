"""The parent's workers: forked, watched, started again when they end, replaced for a new configuration, stopped.

Rule: the parent does nothing with mail, so that a worker that dies or hangs costs its own sessions and nothing else; no
worker outlives the parent; and systemd hears that all is well only while every worker says so of itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from cyrusext.errors import CyrusExtError
from cyrusext.runtime import logging, systemd
from cyrusext.runtime.config import Config
from lmtp_router.doors import doors_of
from lmtp_router.listening import Listening
from lmtp_router.process import Process
from lmtp_router.settings import Settings
from lmtp_router.tally import PHASES, Counts, Snapshot, Tally, total_of
from lmtp_router.worker import work

STOP_S = 40.0
"""How long workers may take to drain before they are killed."""
START_S = 30.0
"""How long a worker may take until it serves."""
FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 5.0
"""Connections wait in a dead worker's queue: it must not be long."""
STEADY_S = 60.0
"""A worker that lived this long starts again at once."""
ANSWER_S = 5.0
"""A worker that has been silent for longer does not answer: systemd is no longer told that all is well."""
HUNG_S = 20.0
"""After so long a silence a worker is killed and replaced; sooner where systemd would end all of us sooner."""
MAX_RETIRED = 4
"""Configurations whose workers may still serve the clients that they have; those of older ones are told to go."""
TICK_S = 0.25
WINDOW_S = 60.0
"""How far back the durations that `status` shows go."""

log = logging.get()


class Terms(NamedTuple):
    """What workers begin with."""

    config: Config
    settings: Settings
    workers: int


class _Place:
    """One place for a worker process, taken by one after the other."""

    def __init__(self) -> None:
        self.process: Process | None = None
        self.pause_s = 0.0
        self.start_at = 0.0


class Crew:
    """Keeps a process at each of `terms.workers` places; a service of the parent's lifecycle."""

    name = "workers"

    def __init__(self, terms: Terms, listening: Listening) -> None:
        self.terms = terms
        self.restarts = 0
        """Workers that died and were replaced."""
        self.hung = 0
        """Those of them that had been killed because they hung."""
        self.serving = False
        self.failed: Callable[[str, int], None] = lambda reason, code: None
        """Called with a reason and an exit status when a worker ends before all have begun to serve."""
        self._listening = listening
        self._places = [_Place() for _ in range(terms.workers)]
        self._others: list[Process] = []
        """Those that retire, and those that are to begin for a new configuration."""
        self._retired: deque[list[Process]] = deque()
        """Those of the configurations before, the oldest first."""
        self._past = Tally()
        """What processes that ended had counted."""
        self._history: deque[tuple[float, dict[str, Counts]]] = deque()
        self._life_read, self._life_write = os.pipe()
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._ticker: asyncio.Task[None] | None = None
        self._ticked = 0.0
        self._stopping = False
        period_s = systemd.watchdog_period_s()
        self._hung_s = min(HUNG_S, period_s * 4 / 3) if period_s else HUNG_S
        self._answer_s = min(ANSWER_S, self._hung_s / 2)

    @property
    def processes(self) -> list[Process]:
        """All that live, those that retire too."""
        return [*(place.process for place in self._places if place.process is not None), *self._others]

    @property
    def tally(self) -> Tally:
        """What all workers, of now and of before, have counted."""
        return total_of([self._past, *(process.snapshot.tally for process in self.processes)])

    @property
    def snapshots(self) -> list[Snapshot]:
        return [process.snapshot for process in self.processes]

    def silent_s(self, process: Process) -> float:
        """Return for how long `process` has told nothing."""
        return self._loop.time() - process.heard

    @property
    def silent(self) -> int:
        """Number of places where nobody answers."""
        return sum(
            place.process is None or not place.process.ready or self.silent_s(place.process) > self._answer_s
            for place in self._places
        )

    def recent(self) -> dict[str, Counts]:
        """Return the durations of each phase in the last minute; since the start where it was not a minute ago."""
        now = self.tally.phases
        if self._history:
            _, before = self._history[0]
            if any(now[phase].total > before[phase].total for phase in PHASES):
                return {phase: now[phase].since(before[phase]) for phase in PHASES}
        return now

    # The life of the service.

    async def start(self) -> None:
        """Start all; return when they serve, or when one of them has failed."""
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number, place in enumerate(self._places):
            place.process = await self._spawn(number, self.terms)
        await self._until(lambda: self._stopping or self._all_ready(), START_S)
        if self._stopping or not self._all_ready():
            self._fail("a worker did not begin to serve in time", 70)
            return
        self.serving = True
        log.info("lmtp.ready", workers=len(self._places), pid=os.getpid())
        self._ticker = self._loop.create_task(self._tick_on())

    async def stop(self) -> None:
        """Have all of them drain; kill what is left after `STOP_S`."""
        self._stopping = True
        self._news.set()
        log.info("lmtp.stopping", workers=len(self.processes))
        if self._ticker is not None:
            self._ticker.cancel()
        self._listening.close(self._listening.addresses)
        self._signal_all(signal.SIGTERM)
        await self._until(lambda: not self.processes, STOP_S)
        self._signal_all(signal.SIGKILL)
        self._loop.remove_signal_handler(signal.SIGCHLD)
        log.info("lmtp.stopped", cut=len(self.processes))

    def kill(self) -> None:
        """End whatever is left, at once."""
        self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: int) -> None:
        for process in self.processes:
            process.signal(number)

    def _all_ready(self) -> bool:
        return all(place.process is not None and place.process.ready for place in self._places)

    async def _until(self, claim: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the workers' news make `claim` true; False when they do not in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not claim():
                    self._news.clear()
                    await self._news.wait()
        return claim()

    async def _spawn(self, number: int, terms: Terms) -> Process:
        doors = doors_of(terms.config.lmtp)
        sockets = self._listening.of(doors, number, terms.workers)
        serve = functools.partial(work, terms.config, terms.settings, self._listening.doors(sockets, doors))
        process = Process(number, sockets, serve, self._life_read, self._news)
        await process.listen()
        return process

    # What happens meanwhile.

    async def _tick_on(self) -> None:
        self._ticked = self._loop.time()
        while True:
            await asyncio.sleep(TICK_S)
            now = self._loop.time()
            late_s = now - self._ticked - TICK_S
            self._ticked = now
            if late_s > 1.0:
                # It was we who stood still: what was told meanwhile has not been read yet.
                for process in self.processes:
                    process.heard += late_s
            self._end_hung(now)
            await self._start_due(now)
            self._remember(now)

    def _end_hung(self, now: float) -> None:
        for process in self.processes:
            silent_s = now - process.heard
            if process.aborted:
                if now - process.aborted > 1.0:
                    process.signal(signal.SIGKILL)
            elif silent_s > (self._hung_s if process.ready else START_S):
                log.error("lmtp.worker_hung", worker=process.place, pid=process.pid, silent_s=round(silent_s, 1))
                self.hung += 1
                process.aborted = now
                process.signal(signal.SIGABRT)

    async def _start_due(self, now: float) -> None:
        for number, place in enumerate(self._places):
            if place.process is None and now >= place.start_at:
                place.process = await self._spawn(number, self.terms)

    def _remember(self, now: float) -> None:
        if not self._history or now - self._history[-1][0] >= WINDOW_S / 12:
            self._history.append((now, self.tally.phases))
            while now - self._history[0][0] > WINDOW_S:
                self._history.popleft()

    def _reap(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(process.pid, os.WNOHANG)
                if pid:
                    self._ended(process, os.waitstatus_to_exitcode(status))

    def _ended(self, process: Process, code: int) -> None:
        process.drain_pipe()
        self._news.set()
        self._past.add(process.snapshot.tally)
        if process in self._others:
            self._others.remove(process)
            if process.retiring:
                log.info("lmtp.worker_retired", worker=process.place, pid=process.pid, status=code)
            return
        place = self._places[process.place]
        place.process = None
        if self._stopping:
            return
        if not self.serving:
            self._fail("a worker failed at its start", code if code > 0 else 70)
            return
        now = self._loop.time()
        steady = now - process.started >= STEADY_S
        place.pause_s = FIRST_PAUSE_S if steady else min(max(place.pause_s * 2, FIRST_PAUSE_S), LAST_PAUSE_S)
        place.start_at = now + place.pause_s
        self.restarts += 1
        log.error("lmtp.worker_died", worker=process.place, pid=process.pid, status=code, again_in_s=place.pause_s)

    def _fail(self, reason: str, code: int) -> None:
        """The first reason counts."""
        if not self._stopping:
            self._stopping = True
            self.failed(reason, code)

    # A new configuration.

    async def renew(self, terms: Terms) -> None:
        """Replace all workers by ones that begin with `terms`; those of now take no more clients and serve the rest.

        Raises CyrusExtError when the new ones do not come to serve; then everything is as it was.
        """
        fresh: list[Process] = []
        try:
            for number in range(terms.workers):
                fresh.append(await self._spawn(number, terms))
                self._others.append(fresh[-1])
            served = await self._until(
                lambda: all(process.ready or process not in self._others for process in fresh), START_S
            )
            if not served or not all(process in self._others for process in fresh):
                raise CyrusExtError("a worker did not come to serve with the new configuration; its log says why")
        except BaseException:
            for process in fresh:
                if process in self._others:
                    process.signal(signal.SIGKILL)
            raise
        # From here on nothing waits.
        self._retired.append([place.process for place in self._places if place.process is not None])
        while len(self._retired) > MAX_RETIRED:
            for process in self._retired.popleft():
                if process in self._others:
                    process.signal(signal.SIGTERM)
        self._others = [process for process in self._others if process not in fresh]
        for process in self._retired[-1]:
            process.retiring = True
            self._others.append(process)
            process.signal(signal.SIGHUP)
        self.terms = terms
        self._places = [_Place() for _ in fresh]
        for place, process in zip(self._places, fresh, strict=True):
            place.process = process
