"""SIGHUP: the running node takes its configuration file anew.

Rule: all of it or nothing.  What can fail (reading, checking, certificates, passwords, new sockets, the note to the
readers in the store) is done first; a fault is logged with file, key and reason, and the node goes on as it was.  Keys
of `NEEDS_RESTART` keep their values, and the log and `cyrusext status` name those that the file has otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from cyrusext.errors import CyrusExtError, StoreError
from cyrusext.mupdate.server import MupdateServer
from cyrusext.node.listeners import Listeners
from cyrusext.node.settings import configured, open_logins, open_tls
from cyrusext.replica.writer import GroupCommit
from cyrusext.runtime import logging
from cyrusext.runtime.config import Config, load
from cyrusext.runtime.config_check import require
from cyrusext.runtime.config_schema import NodeSection
from cyrusext.store import Store

log = logging.get()

NEEDS_RESTART: Mapping[str, tuple[str, ...]] = {
    "node": NodeSection.__struct_fields__,
    "mupdate": ("mode", "pwcheck", "sasldb_path", "saslauthd_path"),
}
"""Keys that a running node can not take: its identity, places and rights, the rules of its records, libsasl2's own."""
NOTE_S = 8.0
"""How long the note to the readers may take to be durable, in seconds."""


class Door(Protocol):
    """A server that may get more sockets, and lose some, while it runs."""

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Serve on these too; raises ConfigError where one can not be listened on, and then on none."""
        ...

    def leave(self, sockets: Sequence[socket.socket]) -> None: ...


class _Opening(NamedTuple):
    """A door, its sockets, and the addresses that a configuration has for it."""

    door: Door
    listeners: Listeners
    addresses: Callable[[Config], Sequence[str]]


def settled(running: Config, wanted: Config) -> tuple[Config, list[str]]:
    """Return `wanted` as a running node can take it, and ``[section] key`` of what it can not."""
    kept: list[str] = []
    sections: dict[str, Any] = {}
    for section, keys in NEEDS_RESTART.items():
        was, now = getattr(running, section), getattr(wanted, section)
        changed = {key: getattr(was, key) for key in keys if getattr(was, key) != getattr(now, key)}
        if changed:
            sections[section] = msgspec.structs.replace(now, **changed)
            kept += [f"[{section}] {key}" for key in changed]
    return msgspec.structs.replace(wanted, **sections), kept


class Reload:
    """Knows the configuration that a node runs with, and takes it anew."""

    def __init__(self, config: Config, store: Store, writer: GroupCommit, server: MupdateServer) -> None:
        self.config = config
        """What the node runs with now."""
        self.needs_restart: list[str] = []
        """``[section] key`` of what the file has otherwise."""
        self.failure = ""
        """Why the last reload changed nothing; empty when it succeeded."""
        self.count = 0
        self._store, self._writer, self._server = store, writer, server
        self._openings: list[_Opening] = []
        self._listeners: list[Callable[[Config], None]] = []

    def on_reload(self, listener: Callable[[Config], None]) -> None:
        """Have `listener` told of each configuration that was taken; it must not fail."""
        self._listeners.append(listener)

    def add_door(self, door: Door, listeners: Listeners, addresses: Callable[[Config], Sequence[str]]) -> None:
        """Have `door` serve at the `addresses` of each configuration that is taken; `listeners` has those of now."""
        self._openings.append(_Opening(door, listeners, addresses))

    async def run(self) -> None:
        """Take the file; log what came of it.  Never raises for what is in the file."""
        try:
            kept = await self._take()
        except CyrusExtError as error:
            self.failure = str(error)
            for line in self.failure.splitlines():
                log.error("node.reload_failed", error=line)
            return
        self.failure, self.needs_restart = "", kept
        self.count += 1
        for key in kept:
            log.warning("node.needs_restart", key=key)
        log.info("node.reloaded", log_level=self.config.log.level, needs_restart=len(kept))

    async def _take(self) -> list[str]:
        wanted, notices = await asyncio.to_thread(self._read)
        config, kept = settled(self.config, wanted)
        # A certificate may have been renewed in place, so it is loaded whether or not a key has changed.
        tls = await asyncio.to_thread(open_tls, config.mupdate)
        logins = await asyncio.to_thread(open_logins, config)
        async with contextlib.AsyncExitStack() as undo:
            for opening in self._openings:
                await _open(opening, config, undo)
            await self._tell_readers(config)
            undo.pop_all()  # from here on nothing can fail
        logging.setup(config.log.level)
        for notice in notices:
            log.warning("config.notice", notice=notice)
        self._server.reconfigure(configured(self._server.service, config, tls, logins))
        self._writer.write_wait_s = config.mupdate.write_wait_s
        for opening in self._openings:
            _close_others(opening, config)
        self.config = config
        for listener in self._listeners:
            listener(config)
        return kept

    def _read(self) -> tuple[Config, list[str]]:
        defaults = Config()
        wanted = load(None if self.config.source == defaults.source else Path(self.config.source))
        return wanted, require(wanted, "node")

    async def _tell_readers(self, config: Config) -> None:
        """Write what readers of the store go by; raises StoreError when that can not be had."""
        if (config.names, config.lookup.no_max_age_s) == (self.config.names, self.config.lookup.no_max_age_s):
            return

        def note() -> None:
            self._store.describe(config.names.rules()._asdict(), config.lookup.no_max_age_s)

        try:
            await asyncio.wait_for(self._writer.call_between(note), NOTE_S)
        except TimeoutError:
            raise StoreError(f"the store did not take [names] and no_max_age_s within {NOTE_S:g} s") from None


async def _open(opening: _Opening, config: Config, undo: contextlib.AsyncExitStack) -> None:
    """Serve at the addresses that are new."""
    door, listeners, addresses = opening
    new = [text for text in dict.fromkeys(addresses(config)) if text not in listeners.addresses]
    listeners.bind(new)
    undo.callback(listeners.close, new)
    sockets = [sock for text in new for sock in listeners.of(text)]
    await door.listen(sockets)
    undo.callback(door.leave, sockets)


def _close_others(opening: _Opening, config: Config) -> None:
    """Serve no longer at the addresses that are gone."""
    door, listeners, addresses = opening
    wanted = set(addresses(config))
    gone = [text for text in listeners.addresses if text not in wanted]
    door.leave([sock for text in gone for sock in listeners.of(text)])
    listeners.close(gone)
