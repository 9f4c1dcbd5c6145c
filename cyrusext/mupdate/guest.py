"""A connection as its server counts it: greeted, bounded in time, one of so many.

Rule: who says nothing costs a place and as little memory as can be; the conversation is made when the first bytes come.
Until the login the guest is a stranger, who has so much time and may have to leave for others.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from cyrusext.mupdate.service import Service
from cyrusext.mupdate.session import Session


class Host(Protocol):
    """The server that a guest comes to."""

    @property
    def service(self) -> Service: ...

    def admit(self, guest: Guest) -> str:
        """Give `guest` a place, or return the sentence with which it is turned away."""
        ...

    def admitted(self, guest: Guest) -> None:
        """`guest` has logged in."""
        ...

    def forget(self, guest: Guest) -> None: ...


class Guest(asyncio.Protocol):
    """One connection, from the greeting to its end."""

    __slots__ = ("__weakref__", "_server", "_timer", "_transport", "host", "peer", "session")

    def __init__(self, server: Host) -> None:
        self._server = server
        self._timer: asyncio.TimerHandle | None = None
        self.session: Session | None = None
        """The conversation, once there is one."""
        self.host = ""
        """The client's address; empty on a UNIX socket."""
        self.peer = "unix"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        peername = transport.get_extra_info("peername")
        if isinstance(peername, tuple):
            self.host = peername[0].removeprefix("::ffff:")
            self.peer = f"{self.host}:{peername[1]}"
        service = self._server.service
        if not service.directory.may_answer:
            self._transport.abort()  # before any "* OK": the client goes elsewhere
        elif sentence := self._server.admit(self):
            self.bye(sentence)
        else:
            self._transport.write(service.greeting(service.mechanisms_for(self.host, None)))
            self._timer = asyncio.get_running_loop().call_later(service.bounds.login_s, self._too_late)

    def data_received(self, data: bytes) -> None:
        session = self.session = Session(self._server.service, self, self._transport)
        self._transport.set_protocol(session)
        session.begin()
        session.data_received(data)

    def eof_received(self) -> bool:
        return False  # nothing was said, and nothing will be

    def connection_lost(self, _error: Exception | None) -> None:
        self.left()

    @property
    def streams(self) -> bool:
        """The client has asked for the stream of changes."""
        return self.session is not None and self.session.streams

    def bye(self, text: str) -> None:
        """Say BYE and close; a client that does not read it is cut off."""
        if self.session is not None:
            self.session.bye(text)
        elif not self._transport.is_closing():
            service = self._server.service
            self._transport.write(service.farewell(text))
            self._transport.close()
            self._stop_timer()
            self._timer = asyncio.get_running_loop().call_later(service.bounds.close_s, self._transport.abort)

    async def finish(self, text: str) -> None:
        """Let the changes at hand be answered, then say BYE."""
        if self.session is not None:
            await self.session.finish(text)
        else:
            self.bye(text)

    def _too_late(self) -> None:
        self._server.service.peer_log.info("mupdate.login_timeout", peer=self.peer)
        self.bye("login took too long")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What its session tells.

    def admitted(self) -> None:
        """The client has logged in: it is no stranger any more."""
        self._stop_timer()
        self._server.admitted(self)

    def left(self) -> None:
        """The connection is over; harmless when it was before."""
        self._stop_timer()
        self._server.forget(self)
