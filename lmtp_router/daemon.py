"""The router as a daemon: its sockets, its workers, its control socket and its metrics, put together.

Rule: what needs root comes first, then root is given up, then everything else; what was opened is closed however the
router ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import socket
from pathlib import Path

from cyrusext.errors import ConfigError
from cyrusext.net import address
from cyrusext.runtime import config_check, logging, metrics, privileges
from cyrusext.runtime.config import Config
from cyrusext.runtime.control import ControlServer
from cyrusext.runtime.lifecycle import Lifecycle, Service
from lmtp_router.doors import doors_of
from lmtp_router.figures import Figures
from lmtp_router.listening import Listening
from lmtp_router.reload import Reload, terms_of
from lmtp_router.supervisor import STOP_S, Crew, Terms

CONTROL = "router-control"
"""The control socket in run_dir; the node's is ``control``."""

log = logging.get()


def version() -> str:
    """Return the version of the installed cyrusext; "unknown" when it runs without being installed."""
    try:
        return importlib.metadata.version("cyrusext")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


class Desk:
    """The control socket; a service.  Mail goes on without it, so that it can not be had is no reason to end."""

    name = "control"

    def __init__(self, path: Path, server: ControlServer) -> None:
        self._path, self._server = path, server
        self._serves = False

    async def start(self) -> None:
        try:
            await self._server.start()
            self._serves = True
        except ConfigError as error:
            log.warning("lmtp.no_control", reason=str(error), lost="lmtp-router status")

    async def stop(self) -> None:
        if self._serves:
            await self._server.stop()


def run(config: Config) -> int:
    """Run the router in the foreground; return the exit status.  Raises ConfigError."""
    notices = config_check.require(config, "lmtp-router")
    logging.setup(config.log.level)
    for notice in notices:
        log.warning("config.notice", text=notice)
    terms = terms_of(config)
    with Listening() as listening:
        listening.bind(doors_of(config.lmtp), terms.workers)
        for text in listening.names():
            log.info("lmtp.listening", address=text, workers=terms.workers)
        text = config.metrics.router_listen
        sockets = address.bind(address.parse(text), listen=False) if text else []
        _make_run_dir(config)
        privileges.drop(config.node.user, config.node.group)
        # Not uvloop: this loop is forked from, and turns a few times a second.
        return asyncio.run(_serve(terms, listening, sockets))


async def _serve(terms: Terms, listening: Listening, metrics_sockets: list[socket.socket]) -> int:
    config = terms.config
    crew = Crew(terms, listening)
    reload = Reload(crew, listening)
    figures = Figures(version(), crew, listening, reload)
    registry = metrics.new_registry(figures.metrics, figures.METRICS, figures.LABELS)
    door = metrics.MetricsServer(metrics_sockets, registry, figures.unready)
    reload.serve_metrics(door, config.metrics.router_listen, metrics_sockets)
    control = config.node.run_dir / CONTROL
    desk = Desk(control, ControlServer(control, figures.handle))
    # The workers stop first: while they drain it can still be asked how far they are.
    parts: list[Service] = [desk, door, crew]
    lifecycle = Lifecycle(parts, stop_timeout_s=STOP_S + 5, alive=lambda: not crew.silent)
    crew.failed = lifecycle.request_stop
    try:
        return await lifecycle.run(reload=reload.run)
    finally:
        crew.kill()


def _make_run_dir(config: Config) -> None:
    """Make the directory of the control socket, where the node has not, for the user that we become."""
    place = config.node.run_dir
    with contextlib.suppress(OSError):
        if not place.is_dir():
            place.mkdir(mode=0o755, parents=True)
            if os.geteuid() == 0:
                os.chown(place, *privileges.resolve(config.node.user, config.node.group))
