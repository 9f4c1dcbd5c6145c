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
        self._servers: dict[socket.socket, asyncio.Server] = {}
        self._dismissals: set[asyncio.Task[None]] = set()
        self._sessions: set[Session] = set()
        self._stopping = False
        self._empty = asyncio.Event()
        self.turned_away = 0

    def __len__(self) -> int:
        return len(self._sessions)

    async def start(self) -> None:
        await self.listen(self._sockets)

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Serve on more bound `sockets`.  Raises ConfigError where one can not be listened on, and then on none."""
        loop = asyncio.get_running_loop()
        for count, sock in enumerate(sockets):
            if sock.family != socket.AF_UNIX:
                # inherited by accepted connections
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in KEEPALIVE:
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
            try:
                server = await loop.create_server(lambda: Session(self._service, self), sock=sock, backlog=BACKLOG)
            except OSError as error:  # somebody else began to listen since it was bound
                self.leave(sockets[:count])
                raise ConfigError(f"can not listen on {sock.getsockname()}: {error.strerror or error}") from error
            self._servers[sock] = server

    def leave(self, sockets: Sequence[socket.socket]) -> None:
        """Accept no more on these; who came that way stays."""
        for sock in sockets:
            self._servers.pop(sock).close()

    @property
    def service(self) -> Service:
        return self._service

    def reconfigure(self, service: Service) -> None:
        """Take other settings, for new clients and for those that are there.

        Who is logged in and no longer in `admins` is told BYE, once the changes at hand have their answers.
        """
        self._service = service
        loop = asyncio.get_running_loop()
        for session in tuple(self._sessions):
            session.reconfigure(service)
            if session.user and session.user not in service.admins:
                log.warning("mupdate.dismissed", peer=session.peer, user=session.user, reason="no longer in admins")
                task = loop.create_task(session.finish("no longer an administrator"))
                self._dismissals.add(task)
                task.add_done_callback(self._dismissals.discard)

    async def stop(self) -> None:
        """Accept no more; let changes at hand be answered; tell the others BYE and see them out."""
        self._stopping = True
        self.leave(tuple(self._servers))
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
