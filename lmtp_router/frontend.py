"""The sessions, transactions and backend connections of one worker.

Rule: this is the one place that has the sockets to accept on and the clock; when it stops, no new client is taken,
transactions end, and what then is left is cut, so that its sender keeps the message.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import functools
import itertools
import os
import socket
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from cyrusext.runtime import logging
from lmtp_router._express import Express
from lmtp_router.arrivals import Arrivals
from lmtp_router.backends import BackendPools
from lmtp_router.bulk import Share
from lmtp_router.doors import OPEN, Door
from lmtp_router.journal import Journal
from lmtp_router.link import LinkSettings
from lmtp_router.protocol.proxy import Endpoint
from lmtp_router.protocol.types import Mail, reply
from lmtp_router.results import Replies
from lmtp_router.routing import Routing
from lmtp_router.session import Session
from lmtp_router.settings import Settings
from lmtp_router.tally import Tally
from lmtp_router.transaction import Transaction
from lmtp_router.turn import Turn

if TYPE_CHECKING:
    from lmtp_router.logins import LoginDesk

MAX_SESSIONS = 20_000
"""Clients of one worker at a time, where it may have as many descriptors."""
MAX_STRANGERS = 1000
"""Those of them that have to log in before they may send mail, and have not."""
DRAIN_S = 25.0
"""How long transactions may go on after SIGTERM."""

log = logging.get()


class Frontend:
    """All sessions of a worker; a service of its lifecycle."""

    name = "lmtp"

    def __init__(
        self,
        settings: Settings,
        routing: Routing,
        sockets: Sequence[socket.socket],
        doors: Mapping[int, Door] | None = None,
    ) -> None:
        """Serve at `sockets`; `doors` says by file descriptor which of them are not `OPEN`."""
        self.settings = settings
        self.max_sessions = MAX_SESSIONS
        self.sessions: set[Session] = set()
        self.strangers: set[Session] = set()
        """Those that have to log in before they may send mail, and have not."""
        self.orphans: set[Transaction] = set()
        self.draining = False
        self._retired = False
        self.greeting = reply(220, f"{settings.hostname} LMTP cyrusext ready").raw
        self.smtp_greeting = reply(220, f"{settings.hostname} ESMTP cyrusext ready").raw
        self._routing = routing
        self._sockets = sockets
        self._doors = doors or {}
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.journal = Journal(settings.disclosure, later=self._loop.call_later)
        self.logins = _open(settings, self.journal.tally)
        self.turn = Turn(self._loop.call_soon)
        self.share = Share()
        self.pools = BackendPools(
            LinkSettings(
                settings.hostname,
                settings.credentials,
                settings.deadlines,
                settings.body_buffer,
                settings.backend_tls,
                settings.pool,
                settings.backend_xclient,
            ),
            self._loop,
            self.turn,
        )
        self._ids = itertools.count(1)
        self._prefix = f"{os.getpid():x}{int(time.time()) & 0xFFFFFF:06x}"
        self._dated, self._date = 0, b""
        self._sweeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrivals = Arrivals(self, self._loop)
        self._empty = asyncio.Event()

    def admit(self, session: Session) -> bool:
        """Take `session` up; False when there are too many."""
        if len(self.sessions) >= self.max_sessions:
            return False
        if session.is_stranger:
            if len(self.strangers) >= MAX_STRANGERS:
                return False
            self.strangers.add(session)
        self.sessions.add(session)
        self.journal.began()
        return True

    def forget(self, session: Session, transaction: Transaction | None) -> None:
        """`session` is gone.  Where a backend has the whole message, its reply is still worth a line in the log."""
        self.sessions.discard(session)
        self.strangers.discard(session)
        if transaction is not None and transaction.live:
            self.orphans.add(transaction)
        self._note_empty()

    def logged_in(self, session: Session) -> None:
        """`session` has logged in."""
        self.strangers.discard(session)

    def _note_empty(self) -> None:
        if self._retired and not self.sessions and not self.orphans:
            self._empty.set()

    def has_room(self, arriving: int) -> bool:
        """True while one more client may come, beside so many that arrive."""
        return len(self.sessions) + arriving < self.max_sessions

    def session(self, door: Door, source: Endpoint | None = None) -> asyncio.Protocol:
        """Return the session of somebody who has arrived by `door`; a balancer said that he is at `source`."""
        return cast(asyncio.Protocol, Session(self, door, source))

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Run what has to wait (a TLS handshake), until it is done or we stop."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def next_id(self) -> str:
        """The name of a session in the log: unique among the workers that live."""
        return f"{self._prefix}-{next(self._ids):x}"

    def date(self) -> bytes:
        """The date and time of now, as a message has it, with CRLF; made once a second."""
        now = int(time.time())
        if now != self._dated:
            self._dated, self._date = now, f"{email.utils.formatdate(now, localtime=True)}\r\n".encode("ascii")
        return self._date

    def transaction(self, mail: Mail, client: Session, replies: Replies) -> Transaction:
        """Begin a transaction."""
        settings = self.settings
        return Transaction(
            mail, client, replies, self._routing, self.pools, settings.deadlines, self.now, settings.body_buffer
        )

    def express(self, session: Session) -> Express:
        """The short way for what is common."""
        return Express(session, session, self._routing, self.pools, self.now)

    @property
    def shared_extensions(self) -> frozenset[bytes]:
        """What all backends can do that a client may ask for."""
        return self.pools.shared_extensions

    async def start(self) -> None:
        for sock in self._sockets:
            door = self._doors.get(sock.fileno(), OPEN)
            session = functools.partial(self.session, door)
            if door.tls or door.proxied:
                self._arrivals.open(sock, door)
                continue
            if sock.family == socket.AF_UNIX:
                server = await self._loop.create_unix_server(session, sock=sock)
            else:
                server = await self._loop.create_server(session, sock=sock)
            self._servers.append(server)
        self._sweeper = self._loop.create_task(self._sweep())

    def retire(self) -> None:
        """Take no more clients; serve those that are there as ever."""
        self._arrivals.close()
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._retired = True
        self._note_empty()

    async def emptied(self, timeout_s: float) -> None:
        """Wait until the clients of a frontend that takes no more are gone, but no longer than so."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), timeout_s)

    async def stop(self) -> None:
        """Take no more clients, let transactions end for `DRAIN_S`, then cut."""
        self.retire()
        self.draining = True
        for session in list(self.sessions):
            session.drain()
        await self.emptied(DRAIN_S)
        log.info("lmtp.drained", cut=len(self.sessions))
        for session in list(self.sessions):
            session.abort()
        for task in list(self._tasks):
            task.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self.logins is not None:
            self.logins.close()
        self.pools.close()
        self.journal.flush()

    async def _sweep(self) -> None:
        """Look after all deadlines: a sweep costs less than a timer for each step of each message."""
        deadlines = self.settings.deadlines
        steps = (deadlines.mail, deadlines.rcpt, deadlines.go_ahead)
        shortest_s = min(
            deadlines.connect, deadlines.greeting, deadlines.envelope, *steps, deadlines.data, deadlines.final
        )
        period_s = min(0.5, shortest_s / 4, self.settings.idle_s / 4)
        while True:
            await asyncio.sleep(period_s)
            now = self.now()
            for session in list(self.sessions):
                session.expire(now)
            for transaction in list(self.orphans):
                transaction.expire(now)
                if not transaction.live:
                    self.orphans.discard(transaction)
                    self._note_empty()
            self.pools.expire(now)


def _open(settings: Settings, tally: Tally) -> LoginDesk | None:
    """Open what checks logins, in the process that does it.  Raises ConfigError."""
    if settings.logins is None:
        return None
    # Loaded here: most routers log nobody in.
    from lmtp_router.logins import LoginDesk

    return LoginDesk(settings.logins, settings.hostname, tally)
