"""One worker process: its event loop, its lookup, its frontend, and what it tells its parent.

Rule: nothing that the parent opened but sockets is used here; the store is opened after the fork, for an LMDB
environment does not survive one.  A worker keeps the configuration that it began with: a new one has new workers, and
this one then serves the clients that it has until they go.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec
import uvloop

from cyrusext.lookup import Lookup
from cyrusext.runtime import descriptors, logging
from cyrusext.runtime.config import Config
from cyrusext.runtime.lifecycle import Lifecycle
from lmtp_router.doors import Door
from lmtp_router.frontend import DRAIN_S, MAX_SESSIONS, Frontend
from lmtp_router.process import HEADER
from lmtp_router.routing import Routing
from lmtp_router.settings import Settings
from lmtp_router.tally import Snapshot

TELL_S = 1.0
"""How often the parent is told."""
RETIRE_S = 600.0
"""How long a worker that takes no more clients waits for those it has to go; then they are told to."""
GARBAGE_AT = 10_000
"""Objects that may be made and not freed before garbage is looked for."""
_PAGE = os.sysconf("SC_PAGE_SIZE")

log = logging.get()


def open_lookup(config: Config) -> Lookup:
    """Return the lookup of this process."""
    return Lookup(config.node.state_dir, config.names.rules(), no_max_age_s=config.lookup.no_max_age_s)


def sessions_that_fit() -> int:
    """Have as many open files as `MAX_SESSIONS` may need; return how many clients fit.

    Half of the descriptors are for backends, so that a client who is taken can be served.
    """
    fit = descriptors.allow(2 * MAX_SESSIONS)
    if fit < 2 * MAX_SESSIONS:
        log.warning("lmtp.few_descriptors", clients=max(1, fit // 2), wanted=MAX_SESSIONS)
    return max(1, fit // 2)


class Reporter:
    """Tells the parent what the frontend counts and holds; a service that is there from first to last."""

    name = "reporter"

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.frontend: Frontend | None = None
        self.retiring = False
        self._encoder = msgspec.msgpack.Encoder()
        self._transport: asyncio.WriteTransport | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(self._fd, "wb", buffering=0)
        self._transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, pipe)
        self._task = loop.create_task(self._go_on())

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            self.tell()

    def tell(self) -> None:
        """Tell how things are; nothing while the parent has not read what was told before."""
        if self._transport is None or self.frontend is None or self._transport.get_write_buffer_size():
            return
        frame = self._encoder.encode(self._snapshot(self.frontend))
        self._transport.write(len(frame).to_bytes(HEADER) + frame)

    def _snapshot(self, frontend: Frontend) -> Snapshot:
        tally, pools = frontend.journal.tally, list(frontend.pools)
        tally.connects = {pool.name: pool.made for pool in pools}
        tally.failures = {pool.name: pool.failures for pool in pools}
        used = resource.getrusage(resource.RUSAGE_SELF)
        return Snapshot(
            tally,
            sessions=len(frontend.sessions),
            retiring=self.retiring,
            pools={pool.name: pool.state() for pool in pools},
            cpu_s=used.ru_utime + used.ru_stime,
            rss_bytes=int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE,
        )

    async def stop(self) -> None:
        """Tell the last figures."""
        if self._task is not None:
            self._task.cancel()
        self.tell()
        if self._transport is not None:
            self._transport.close()
            await asyncio.sleep(0)


def work(
    config: Config, settings: Settings, doors: Mapping[int, Door], sockets: list[socket.socket], tell: int, life: int
) -> int:
    """Serve until SIGTERM, or until the parent is gone, or after SIGHUP until the clients are gone; return the exit
    status."""

    async def serve() -> int:
        lookup = open_lookup(config)
        loop = asyncio.get_running_loop()
        try:
            reporter = Reporter(tell)
            routing = Routing(lookup, config.backends, asks_deleted=config.lmtp.deleted_mailbox == "ask")
            frontend = reporter.frontend = Frontend(settings, routing, sockets, doors)
            frontend.max_sessions = sessions_that_fit()
            lifecycle = Lifecycle([reporter, frontend], stop_timeout_s=DRAIN_S + 5)

            def orphaned() -> None:
                loop.remove_reader(life)
                lifecycle.request_stop("the supervisor is gone")

            async def retire() -> None:
                reporter.retiring = True
                frontend.retire()
                await frontend.emptied(RETIRE_S)
                lifecycle.request_stop("retired")

            loop.add_reader(life, orphaned)
            try:
                return await lifecycle.run(reporter.tell, reload=retire)
            finally:
                with contextlib.suppress(ValueError):
                    loop.remove_reader(life)
        finally:
            lookup.close()

    logging.setup(config.log.level)
    # What is there now stays: looking through it for garbage again and again would cost a tenth of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AT, 20, 50)
    os.set_blocking(life, False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve())
