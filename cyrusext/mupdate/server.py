"""The MUPDATE server: listens, admits, and ends in order.

Rule: one event loop serves all clients; no client has a thread of its own, and none that is silent, slow or broken
takes anything from the others but its place among `max_connections`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence

from cyrusext.errors import ConfigError
from cyrusext.mupdate.service import Service
from cyrusext.mupdate.session import Session
from cyrusext.runtime import logging

log = logging.get()

BACKLOG = 4096
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""A client that vanished without a word is noticed within two minutes."""


class MupdateServer:
    """Serves MUPDATE on bound `sockets`, which it owns from `start` on."""

    name = "mupdate"

    def __init__(self, service: Service, sockets: Sequence[socket.socket]) -> None:
        self._service = service
        self._sockets = sockets
        self._servers: list[asyncio.Server] = []
        self._sessions: set[Session] = set()
        self._stopping = False
        self._empty = asyncio.Event()
        self.turned_away = 0

    def __len__(self) -> int:
        return len(self._sessions)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            if sock.family != socket.AF_UNIX:
                # inherited by accepted connections
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in KEEPALIVE:
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
            try:
                server = await loop.create_server(lambda: Session(self._service, self), sock=sock, backlog=BACKLOG)
            except OSError as error:  # somebody else began to listen since it was bound
                raise ConfigError(f"can not listen on {sock.getsockname()}: {error.strerror or error}") from error
            self._servers.append(server)

    async def stop(self) -> None:
        """Accept no more; let changes at hand be answered; tell the others BYE and see them out."""
        self._stopping = True
        for server in self._servers:
            server.close()
        sessions = tuple(self._sessions)
        for streams in (False, True):  # subscribers last: they are told what is granted until the end
            ending = [session for session in sessions if session.streams is streams]
            await asyncio.gather(*(session.finish("server is shutting down") for session in ending))
        if self._sessions:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), self._service.bounds.close_s + 1.0)
        self._service.login_pool.close()

    def admit(self, session: Session) -> str:
        if self._stopping:
            return "server is shutting down"
        if len(self._sessions) >= self._service.bounds.connections:
            self.turned_away += 1
            if self.turned_away % 1000 == 1:
                log.warning("mupdate.turned_away", peer=session.peer, connections=len(self._sessions))
            return "too many connections"
        self._sessions.add(session)
        return ""

    def forget(self, session: Session) -> None:
        self._sessions.discard(session)
        if self._stopping and not self._sessions:
            self._empty.set()
