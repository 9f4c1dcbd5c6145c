"""SIGHUP: the running router takes its configuration file anew, without losing a session.

Rule: all of it or nothing.  What can fail (reading, checking, passwords, new sockets, workers that begin to serve with
it) is done first; a fault is logged with file, key and reason, and the router goes on as it was.  `[node]` keeps its
values, and the log and `lmtp-router status` say so when the file has others.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec

from cyrusext.errors import CyrusExtError
from cyrusext.net import address
from cyrusext.runtime import logging
from cyrusext.runtime.config import Config, load
from cyrusext.runtime.config_check import require
from cyrusext.runtime.metrics import MetricsServer
from lmtp_router.doors import doors_of
from lmtp_router.listening import Listening
from lmtp_router.settings import settings_of
from lmtp_router.supervisor import Crew, Terms

log = logging.get()


def terms_of(config: Config) -> Terms:
    """Return what the workers begin with; reads the password file.  Raises ConfigError."""
    return Terms(config, settings_of(config), config.lmtp.workers or len(os.sched_getaffinity(0)))


def settled(running: Config, wanted: Config) -> tuple[Config, list[str]]:
    """Return `wanted` as a running router can take it, and ``[section] key`` of what it can not."""
    was, now = running.node, wanted.node
    kept = [f"[node] {key}" for key in now.__struct_fields__ if getattr(was, key) != getattr(now, key)]
    return msgspec.structs.replace(wanted, node=was), kept


class Reload:
    """Takes the configuration file anew for `crew`, at new addresses too."""

    def __init__(self, crew: Crew, listening: Listening) -> None:
        self.needs_restart: list[str] = []
        """``[section] key`` of what the file has otherwise."""
        self.failure = ""
        """Why the last reload changed nothing; empty when it succeeded."""
        self.count = 0
        self._crew, self._listening = crew, listening
        self._door: MetricsServer | None = None
        self._metrics: dict[str, list[socket.socket]] = {}

    def serve_metrics(self, door: MetricsServer, text: str, sockets: list[socket.socket]) -> None:
        """Have `door`, which answers at `text`, follow the configuration."""
        self._door = door
        self._metrics = {text: sockets} if text else {}

    async def run(self) -> None:
        """Take the file; log what came of it.  Never raises for what is in the file."""
        try:
            kept = await self._take()
        except CyrusExtError as error:
            self.failure = str(error)
            for line in self.failure.splitlines():
                log.error("lmtp.reload_failed", error=line)
            return
        self.failure, self.needs_restart = "", kept
        self.count += 1
        for key in kept:
            log.warning("lmtp.needs_restart", key=key)
        terms = self._crew.terms
        log.info("lmtp.reloaded", workers=terms.workers, log_level=terms.config.log.level, needs_restart=len(kept))

    async def _take(self) -> list[str]:
        source = self._crew.terms.config.source
        wanted = load(None if source == Config().source else Path(source))
        config, kept = settled(self._crew.terms.config, wanted)
        notices = require(config, "lmtp-router")
        terms = terms_of(config)
        addresses = self._listening.bind(doors_of(config.lmtp), terms.workers)
        try:
            await self._listen_for_metrics(config.metrics.router_listen)
            await self._crew.renew(terms)
        except BaseException:
            self._listening.close(addresses)
            self._leave_metrics(self._crew.terms.config.metrics.router_listen)
            raise
        logging.setup(config.log.level)
        for notice in notices:
            log.warning("config.notice", text=notice)
        self._leave_metrics(config.metrics.router_listen)
        doors = doors_of(config.lmtp)
        gone = [text for text in self._listening.addresses if text not in doors]
        if gone:
            self._listening.close(gone)
        return kept

    async def _listen_for_metrics(self, text: str) -> None:
        if text and text not in self._metrics and self._door is not None:
            sockets = address.bind(address.parse(text), listen=False)
            await self._door.listen(sockets)
            self._metrics[text] = sockets

    def _leave_metrics(self, wanted: str) -> None:
        """Answer for metrics at `wanted` only."""
        for text in [text for text in self._metrics if text != wanted]:
            if self._door is not None:
                self._door.leave(self._metrics.pop(text))
