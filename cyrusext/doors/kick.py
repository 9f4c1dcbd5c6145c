"""The kick socket of Cyrus frontends on this machine, ``socket/mupdate.target`` below their configdirectory.

A Cyrus process that misses a mailbox connects, waits until it reads something, and looks again; a stock slave answers
when it has caught up.  Here: catch up, then answer ``ok``.

Rule: every kick is answered within `BARRIER_S`, for the one who kicks waits without a deadline and may hold a lock that
its user needs; no lock of Cyrus is taken, and a kick costs the same however many there are.  A socket that somebody
else serves is left alone and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from cyrusext.errors import ConfigError
from cyrusext.net import address
from cyrusext.runtime import logging

log = logging.get()

ANSWER = b"ok"
BARRIER_S = 0.2
"""How long a kick may wait for what this node does not know yet, in seconds."""
POLL_S = 0.01
RETRY_S = 5.0
"""How often a socket that could not be had is tried again."""
BACKLOG = 1024
MODE = 0o777
"""As a stock slave's: every process of Cyrus may kick, whatever its user."""
HELD_BY_OTHER = "another program answers there: end the frontend's own `mupdate` service, or leave this path out"


class KickDoor:
    """Answers at the paths given to `set_paths`."""

    name = "kick"

    def __init__(self) -> None:
        self.is_caught_up: Callable[[], bool] = lambda: True
        """Whether this node knows what was granted anywhere."""
        self._wanted: tuple[str, ...] = ()
        self._bound: dict[str, tuple[socket.socket, int]] = {}
        self._servers: dict[str, asyncio.Server] = {}
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.failures: dict[str, str] = {}
        """Path → why it is not served now."""
        self.kicks = 0

    def set_paths(self, paths: Iterable[str]) -> None:
        """Serve these and no others: what can be bound is bound now, the rest is tried again while this runs."""
        self._wanted = tuple(dict.fromkeys(paths))
        for path in [path for path in self._bound if path not in self._wanted]:
            self._leave(path)
        self.failures = {path: why for path, why in self.failures.items() if path in self._wanted}
        self._bind_missing()
        self._changed.set()

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self.close()

    def close(self) -> None:
        """Leave all sockets; harmless when they are left already."""
        for path in tuple(self._bound):
            self._leave(path)

    @property
    def paths(self) -> tuple[str, ...]:
        """What was asked for; `failures` says which of it is not served."""
        return self._wanted

    async def _keep(self) -> None:
        """Serve what is bound; try the rest again, now and then and when the paths have changed."""
        while True:
            self._changed.clear()
            self._bind_missing()
            for path, (sock, _) in tuple(self._bound.items()):
                if path in self._servers:
                    continue
                try:
                    self._servers[path] = await asyncio.start_unix_server(self._answer, sock=sock, backlog=BACKLOG)
                except OSError as error:
                    self._failed(path, f"{error.strerror or error}")
                    self._leave(path)
                else:
                    log.info("kick.served", path=path)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), RETRY_S)

    def _bind_missing(self) -> None:
        for path in self._wanted:
            if path in self._bound and not self._is_ours(path):
                self._leave(path)  # a stock slave takes the path without asking
            if path in self._bound:
                continue
            try:
                (sock,) = address.bind(address.UnixAddress(path), mode=MODE, backlog=BACKLOG)
            except ConfigError as error:
                cause = error.__cause__
                in_use = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
                self._failed(path, HELD_BY_OTHER if in_use else str(error))
            else:
                self.failures.pop(path, None)
                self._bound[path] = (sock, Path(path).stat().st_ino)

    def _failed(self, path: str, why: str) -> None:
        if self.failures.get(path) != why:
            log.error("kick.not_served", path=path, reason=why)
        self.failures[path] = why

    def _is_ours(self, path: str) -> bool:
        try:
            return Path(path).stat().st_ino == self._bound[path][1]
        except OSError:
            return False

    def _leave(self, path: str) -> None:
        ours = self._is_ours(path)
        sock, _ = self._bound.pop(path)
        server = self._servers.pop(path, None)
        if server is not None:
            server.close()
        sock.close()
        if ours:
            with contextlib.suppress(OSError):
                Path(path).unlink()

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.kicks += 1
        for _ in range(round(BARRIER_S / POLL_S)):
            if self.is_caught_up():
                break
            await asyncio.sleep(POLL_S)
        writer.write(ANSWER)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()
