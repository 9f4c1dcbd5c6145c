"""The connection of a client below its session: its transport, and TLS on it.

Rule: what a client said in the clear counts for nothing under TLS (RFC 3207 section 4.2), and what was sent behind
STARTTLS before its reply ends the connection: it could be somebody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Protocol, cast

from cyrusext.runtime import logging
from lmtp_router.doors import Door
from lmtp_router.journal import Journal
from lmtp_router.protocol.connection import ServerConnection
from lmtp_router.protocol.types import reply
from lmtp_router.results import Replies
from lmtp_router.settings import Settings
from lmtp_router.turn import Outlet, Turn

CLOSE_S = 2.0
"""How long a client may take to say good-bye under TLS."""

BEGIN_TLS = reply(220, "2.0.0 Ready to start TLS")
PIPELINED = reply(501, "5.5.4 Nothing may follow STARTTLS before its reply, closing connection")

log = logging.get()


class Reception(Protocol):
    """What a channel asks of the frontend that it belongs to."""

    @property
    def settings(self) -> Settings: ...

    @property
    def journal(self) -> Journal: ...

    @property
    def greeting(self) -> bytes: ...

    @property
    def smtp_greeting(self) -> bytes: ...

    @property
    def turn(self) -> Turn: ...

    def next_id(self) -> str: ...

    def now(self) -> float: ...

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Run what has to wait, until it is done or the frontend stops."""


class Channel:
    """The lower half of a session."""

    def __init__(self, reception: Reception, door: Door) -> None:
        self._reception = reception
        self._settings = settings = reception.settings
        self._door = door
        self._connection = ServerConnection(
            settings.limits, replace_bare_newlines=settings.replace_bare_newlines, smtp=door.smtp
        )
        self._replies = Replies()
        self._transport: Outlet | None = None
        """None before and after the connection, and while TLS begins."""
        self._securing: asyncio.Transport | None = None
        """The transport on which TLS begins."""
        self._secure = door.tls
        """What comes, comes under TLS."""
        self._id = ""
        self._closing = False
        if settings.tls is not None:
            self._offer()

    @property
    def _greeting(self) -> bytes:
        return self._reception.smtp_greeting if self._door.smtp else self._reception.greeting

    def _offer(self) -> None:
        """Say in the reply to LHLO what this client may use now."""
        self._connection.offers = ("STARTTLS",) if self._settings.tls is not None and not self._secure else ()

    def _obey_starttls(self) -> None:
        """STARTTLS, when all replies before its own are known."""
        assert self._transport is not None
        if self._connection.buffered:
            self._replies.add(PIPELINED.raw)
            self._closing = True
            return
        self._replies.add(BEGIN_TLS.raw)
        self._transport.write(self._replies.ready())
        self._transport.flush()
        transport, self._transport = self._transport.transport, None
        # At once: an octet that was read in the clear would be missing in the handshake.
        transport.pause_reading()
        self._securing = transport
        self._reception.run(self._wait_for_tls(transport))

    async def _wait_for_tls(self, transport: asyncio.Transport) -> None:
        assert self._settings.tls is not None
        peer = transport.get_extra_info("peername")
        try:
            secured = await self._settings.tls.begin(
                transport, cast(asyncio.Protocol, self), self._settings.deadlines.greeting, CLOSE_S
            )
        except ConnectionError as error:
            log.info("lmtp.tls_failed", session=self._id, peer=peer, reason=error)
            if self._securing is not None:
                self.connection_lost(error)
            return
        if self._securing is None:
            secured.transport.abort()
            return
        self._securing, self._secure = None, True
        self._transport = Outlet(secured.transport, self._reception.turn)
        self._offer()
        log.debug("lmtp.tls", session=self._id, peer=peer, cipher=secured.cipher)
        self._tls_began()

    def _tls_began(self) -> None:
        """TLS is there: the client begins anew."""
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, or TLS did not begin on it."""
        raise NotImplementedError

    def abort(self) -> None:
        """End now."""
        if self._transport is not None:
            self._transport.abort()
        elif self._securing is not None:
            self._securing.abort()
