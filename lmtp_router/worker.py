"""One worker process: its event loop, its lookup, its frontend.

Rule: nothing that the parent opened but sockets is used here; the store is opened after the fork, for an LMDB
environment does not survive one.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

import uvloop

from cyrusext.lookup import Lookup
from cyrusext.runtime.config import Config
from cyrusext.runtime.lifecycle import Lifecycle
from lmtp_router.frontend import DRAIN_S, Frontend
from lmtp_router.routing import Routing
from lmtp_router.settings import Settings


def open_lookup(config: Config) -> Lookup:
    """Return the lookup of this process."""
    return Lookup(config.node.state_dir, config.names.rules(), no_max_age_s=config.lookup.no_max_age_s)


def work(config: Config, settings: Settings, sockets: list[socket.socket], ready: Callable[[], None], life: int) -> int:
    """Serve until SIGTERM, or until the parent is gone; return the exit status."""

    async def serve() -> int:
        lookup = open_lookup(config)
        try:
            frontend = Frontend(settings, Routing(lookup, config.backends), sockets)
            lifecycle = Lifecycle([frontend], stop_timeout_s=DRAIN_S + 5)
            loop = asyncio.get_running_loop()

            def orphaned() -> None:
                loop.remove_reader(life)
                lifecycle.request_stop("the supervisor is gone")

            loop.add_reader(life, orphaned)
            try:
                return await lifecycle.run(ready)
            finally:
                loop.remove_reader(life)
        finally:
            lookup.close()

    os.set_blocking(life, False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve())
