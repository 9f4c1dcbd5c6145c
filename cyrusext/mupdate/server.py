"""The MUPDATE server: listens, admits, and ends in order.

Rule: one event loop serves all clients; no client has a thread of its own, and none that is silent, slow or broken
takes anything from the others but its place among `max_connections`; and who has not logged in gives that up to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence

from cyrusext.errors import ConfigError
from cyrusext.mupdate.guest import Guest
from cyrusext.mupdate.places import Places
from cyrusext.mupdate.service import Service
from cyrusext.runtime import logging

log = logging.get()

_TOO_MANY = "too many connections"
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
        self._guests: Places[Guest] = Places()
        self._stopping = False
        self._empty = asyncio.Event()
        self.turned_away = 0
        """Connections that found no place."""
        self.gave_way = 0
        """Connections that had to leave before their login, for new ones."""

    def __len__(self) -> int:
        return len(self._guests)

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
                server = await loop.create_server(lambda: Guest(self), sock=sock, backlog=BACKLOG)
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
        for session in [guest.session for guest in self._guests if guest.session is not None]:
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
        guests = tuple(self._guests)
        for streams in (False, True):  # subscribers last: they are told what is granted until the end
            ending = [guest for guest in guests if guest.streams is streams]
            await asyncio.gather(*(guest.finish("server is shutting down") for guest in ending))
        if self._guests:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), self._service.bounds.close_s + 1.0)
        self._service.login_pool.close()

    def by_state(self) -> dict[str, int]:
        """Return how many connections have not logged in, have, and stream."""
        login, streaming = self._guests.strangers, sum(guest.streams for guest in self._guests)
        return {"login": login, "ready": len(self._guests) - login - streaming, "streaming": streaming}

    def admit(self, guest: Guest) -> str:
        if self._stopping:
            return "server is shutting down"
        places = self._service.bounds.connections
        if len(self._guests) >= places:
            oldest = self._guests.gives_way(guest.host, places)
            if oldest is None:
                self.turned_away += 1
                if self.turned_away % 1000 == 1:
                    log.warning("mupdate.turned_away", peer=guest.peer, connections=len(self), count=self.turned_away)
                return _TOO_MANY
            self.gave_way += 1
            if self.gave_way % 1000 == 1:
                strangers = self._guests.strangers
                log.warning("mupdate.gave_way", peer=oldest.peer, strangers=strangers, count=self.gave_way)
            self._guests.leave(oldest)  # its place is free, however long it takes to see it out
            oldest.bye(_TOO_MANY)
        self._guests.enter(guest, guest.host)
        return ""

    def admitted(self, guest: Guest) -> None:
        self._guests.admitted(guest)

    def forget(self, guest: Guest) -> None:
        self._guests.leave(guest)
        if self._stopping and not self._guests:
            self._empty.set()
