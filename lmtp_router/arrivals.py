"""Clients that are no session yet: TLS begins at their door before anything is said.

Rule: whoever has not arrived counts like a session, against the same bound, and has one deadline; an address that may
not deliver costs no handshake.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Coroutine
from typing import Any, Protocol

from cyrusext.runtime import logging
from lmtp_router.channel import CLOSE_S
from lmtp_router.doors import Door
from lmtp_router.journal import Journal
from lmtp_router.settings import Settings

BATCH = 64
"""Connections accepted in one turn of the loop at one door."""
PAUSE_S = 0.2
"""How long nobody is accepted when there is no descriptor left."""
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.get()


class Lobby(Protocol):
    """What arrivals ask of the frontend."""

    @property
    def settings(self) -> Settings: ...

    @property
    def journal(self) -> Journal: ...

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Run what has to wait, until it is done or the frontend stops."""

    def has_room(self, arriving: int) -> bool:
        """True while one more may come, beside so many that arrive."""

    def session(self, door: Door) -> asyncio.Protocol:
        """A session of somebody who has arrived by `door`."""


class Arrivals:
    """Accepts at the doors where something comes before the greeting."""

    def __init__(self, lobby: Lobby, loop: asyncio.AbstractEventLoop) -> None:
        self._lobby = lobby
        self._loop = loop
        self._sockets: dict[socket.socket, Door] = {}
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._count = 0

    def open(self, sock: socket.socket, door: Door) -> None:
        """Accept from the listening socket `sock`."""
        self._sockets[sock] = door
        self._watch(sock)

    def close(self) -> None:
        """Accept nobody any more, and close the sockets; those who arrive go on."""
        for sock in self._sockets:
            if (timer := self._paused.pop(sock, None)) is not None:
                timer.cancel()
            else:
                self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()

    def _watch(self, sock: socket.socket) -> None:
        self._paused.pop(sock, None)
        self._loop.add_reader(sock, self._accept, sock)

    def _accept(self, listening: socket.socket) -> None:
        door = self._sockets[listening]
        for _ in range(BATCH):
            try:
                sock, peer = listening.accept()
            except (BlockingIOError, ConnectionError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                # Else the loop would ask again at once, and for ever.
                log.error("lmtp.no_descriptors", reason=error.strerror)
                self._loop.remove_reader(listening)
                self._paused[listening] = self._loop.call_later(PAUSE_S, self._watch, listening)
                return
            sock.setblocking(False)
            self._receive(sock, peer, door)

    def _receive(self, sock: socket.socket, peer: Any, door: Door) -> None:
        reason = ""
        if not self._lobby.settings.admits(peer):
            reason = "not trusted"
        elif not self._lobby.has_room(self._count):
            reason = "crowded"
        if reason:
            self._lobby.journal.refused(reason)
            log.warning("lmtp.refused", peer=peer, reason=reason)
            sock.close()
            return
        self._count += 1
        self._lobby.run(self._arrive(sock, peer, door))

    async def _arrive(self, sock: socket.socket, peer: Any, door: Door) -> None:
        try:
            await self._secure(sock, door)
        except (OSError, TimeoutError) as error:  # SSLError is an OSError
            log.info("lmtp.not_arrived", peer=peer, reason=str(error) or type(error).__name__)
        finally:
            self._count -= 1

    async def _secure(self, sock: socket.socket, door: Door) -> None:
        """Begin TLS; the session begins when it is there."""
        settings = self._lobby.settings
        assert settings.tls is not None
        await self._loop.connect_accepted_socket(
            lambda: self._lobby.session(door),
            sock,
            ssl=settings.tls.context,
            ssl_handshake_timeout=settings.deadlines.greeting,
            ssl_shutdown_timeout=CLOSE_S,
        )
