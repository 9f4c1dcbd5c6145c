"""The life of a daemon: start the services in order, wait, stop them in reverse.

Rule: a service that was started is stopped, whatever fails later; signal handlers only set flags; and no stop takes
longer than its bound, so that the daemon always ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

from cyrusext.runtime import logging, systemd
from cyrusext.runtime.watchdog import Watchdog

log = logging.get()


class Service(Protocol):
    """A part of a daemon.  `start` returns when it serves, or raises; `stop` is itself bounded and may be cancelled."""

    @property
    def name(self) -> str: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Lifecycle:
    """Runs `services`; the later ones may rely on the earlier ones from their start to their stop.

    `watchdog` is fed while they run, and so is systemd's while `alive` says that all is well.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        stop_timeout_s: float = 10.0,
        watchdog: Watchdog | None = None,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self._services = services
        self._watchdog = watchdog
        self._alive = alive
        self._stop_timeout_s = stop_timeout_s
        self._stopping = asyncio.Event()
        self._reload_asked = asyncio.Event()
        self._reason = ""
        self._exit_code = 0

    def request_stop(self, reason: str, exit_code: int = 0) -> None:
        """Ask for an orderly end; the first reason counts.  To be called on the loop's thread."""
        if not self._stopping.is_set():
            self._reason, self._exit_code = reason, exit_code
            self._stopping.set()

    async def run(
        self, ready: Callable[[], None] | None = None, *, reload: Callable[[], Awaitable[None]] | None = None
    ) -> int:
        """Start all, call `ready`, wait for SIGTERM, SIGINT or `request_stop`, stop all; return the exit status.

        SIGHUP calls `reload`, one at a time, and is ignored when there is none.  Raises what a `start` raised, after
        stopping what had been started.
        """
        started: list[Service] = []
        with self._signals():
            try:
                for service in self._services:
                    if self._stopping.is_set():
                        break
                    await service.start()
                    started.append(service)
                if not self._stopping.is_set():
                    systemd.notify("READY=1")
                    if ready is not None:
                        ready()
                    reloading = asyncio.create_task(self._reload_when_asked(reload))
                    await self._wait()
                    reloading.cancel()
                log.info("lifecycle.stopping", reason=self._reason)
            finally:
                systemd.notify("STOPPING=1")
                for service in reversed(started):
                    await self._stop(service)
        return self._exit_code

    async def _wait(self) -> None:
        """Wait for the request to stop; tell the watchdogs meanwhile that the loop still turns."""
        period_s = systemd.watchdog_period_s()
        if self._watchdog is not None:
            period_s = min(self._watchdog.feed_s, period_s or self._watchdog.feed_s)
            self._watchdog.start()
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), period_s)
            if self._watchdog is not None:
                self._watchdog.feed()
            if self._alive():
                systemd.notify("WATCHDOG=1")
        if self._watchdog is not None:
            self._watchdog.stop()

    async def _reload_when_asked(self, reload: Callable[[], Awaitable[None]] | None) -> None:
        while reload is not None:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            systemd.notify_reloading()
            try:
                await reload()
            except Exception as error:
                log.error("lifecycle.reload_failed", error=error, exc_info=error)
            systemd.notify("READY=1")

    async def _stop(self, service: Service) -> None:
        try:
            await asyncio.wait_for(service.stop(), self._stop_timeout_s)
        except TimeoutError:
            log.error("lifecycle.stop_timeout", service=service.name, seconds=self._stop_timeout_s)
        except Exception as error:
            log.error("lifecycle.stop_failed", service=service.name, error=error, exc_info=error)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_stop, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
