"""One worker process: its event loop, its lookup, its frontend.

Rule: nothing that the parent opened but sockets is used here; the store is opened after the fork, for an LMDB
environment does not survive one.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import uvloop

from cyrusext.errors import ConfigError
from cyrusext.lookup import Lookup
from cyrusext.runtime.config import Config
from cyrusext.runtime.lifecycle import Lifecycle
from lmtp_router.frontend import DRAIN_S, Frontend, Settings
from lmtp_router.privacy import Disclosure
from lmtp_router.protocol.connection import Limits
from lmtp_router.routing import Routing


def settings_of(config: Config) -> Settings:
    """Return what the sessions need; reads the password file.  Raises ConfigError."""
    lmtp = config.lmtp
    hostname = config.node.name
    if not (hostname.isascii() and hostname.isprintable() and " " not in hostname):
        raise ConfigError(f"{config.source}: [node] name: expected a name that can be sent in LHLO, got {hostname!r}")
    return Settings(
        hostname=hostname,
        limits=Limits(max_size=lmtp.max_size_bytes),
        replace_bare_newlines=lmtp.bare_newline == "replace",
        body_buffer=lmtp.body_buffer_bytes,
        deadlines=lmtp.timeouts,
        idle_s=lmtp.timeouts.idle,
        credentials=_credentials(config),
        disclosure=Disclosure(config.log.recipients),
    )


def _credentials(config: Config) -> tuple[str, str] | None:
    lmtp = config.lmtp
    if not lmtp.backend_user:
        return None
    if not lmtp.backend_password_file:
        raise ConfigError(f"{config.source}: [lmtp] backend_password_file: expected, because backend_user is set")
    try:
        lines = Path(lmtp.backend_password_file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config.source}: [lmtp] backend_password_file: can not be read: {error}") from error
    if not lines or not lines[0]:
        raise ConfigError(f"{config.source}: [lmtp] backend_password_file: its first line is empty")
    return lmtp.backend_user, lines[0]


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
