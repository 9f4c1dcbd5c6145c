"""Clients that are no session yet: at their door a PROXY header or TLS comes before anything is said.

Rule: whoever has not arrived counts like a session, against the same bound, and has one deadline; an address that may
not deliver costs no handshake.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
from collections.abc import Coroutine
from typing import Any, Protocol

from cyrusext.errors import RemoteProtocolError
from cyrusext.runtime import logging
from lmtp_router.channel import CLOSE_S
from lmtp_router.doors import Door
from lmtp_router.journal import Journal
from lmtp_router.protocol.proxy import Endpoint, ProxyParser
from lmtp_router.settings import Settings

BATCH = 64
"""Connections accepted in one turn of the loop at one door."""
PAUSE_S = 0.2
"""How long nobody is accepted when there is no descriptor left."""
PEEK = 4096
"""Octets looked at for a PROXY header."""
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

    def session(self, door: Door, source: Endpoint | None) -> asyncio.Protocol:
        """A session of somebody who has arrived by `door`; a balancer said that he is at `source`."""


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
        reason, settings = "", self._lobby.settings
        if not (settings.believes(peer) if door.proxied else settings.admits(peer) or settings.hears_strangers):
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
            source = await self._introduce(sock, peer) if door.proxied else None
            await self._begin(sock, door, source)
        except RemoteProtocolError as error:
            self._lobby.journal.refused("no PROXY header")
            log.warning("lmtp.refused", peer=peer, reason=str(error))
            sock.close()
        except (OSError, TimeoutError) as error:  # SSLError is an OSError
            log.info("lmtp.not_arrived", peer=peer, reason=str(error) or type(error).__name__)
            sock.close()
        except BaseException:
            sock.close()
            raise
        finally:
            self._count -= 1

    async def _introduce(self, sock: socket.socket, peer: Any) -> Endpoint | None:
        """Read the PROXY header and nothing behind it; return where the client is.

        Raises RemoteProtocolError where there is none, or not in time.
        """
        parser = ProxyParser()
        try:
            async with asyncio.timeout(self._lobby.settings.deadlines.greeting):
                while (header := parser.header) is None:
                    try:
                        octets = sock.recv(PEEK, socket.MSG_PEEK)
                    except BlockingIOError:
                        await self._readable(sock)
                        continue
                    if not octets:
                        raise RemoteProtocolError("PROXY protocol: the connection ended in the header", fatal=True)
                    sock.recv(parser.feed(octets))
        except TimeoutError:
            raise RemoteProtocolError("PROXY protocol: no header in time", fatal=True) from None
        if header.source is not None:
            log.debug("lmtp.proxied", peer=peer, address=header.source.address, port=header.source.port)
        return header.source

    async def _readable(self, sock: socket.socket) -> None:
        ready = asyncio.Event()
        self._loop.add_reader(sock, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_reader(sock)

    async def _begin(self, sock: socket.socket, door: Door, source: Endpoint | None) -> None:
        """Begin TLS, where it is the door for that; then the session begins."""
        settings = self._lobby.settings
        session = functools.partial(self._lobby.session, door, source)
        if not door.tls:
            await self._loop.connect_accepted_socket(session, sock)
            return
        assert settings.tls is not None
        await self._loop.connect_accepted_socket(
            session,
            sock,
            ssl=settings.tls.context,
            ssl_handshake_timeout=settings.deadlines.greeting,
            ssl_shutdown_timeout=CLOSE_S,
        )
