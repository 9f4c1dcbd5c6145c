"""What the router would tell a client about an address, without sending anything: MAIL and RCPT, then RSET.

Rule: the question is put to the router's own frontend, in this process and behind a socket of our own, so that lookup,
second look and backend are those of the mail; a backend is asked exactly what it is asked before a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from cyrusext.errors import DeliveryTemporary
from cyrusext.lookup import Answer, Lookup, Verdict
from cyrusext.net import address as net_address
from cyrusext.runtime.config import Config
from lmtp_router.frontend import Frontend
from lmtp_router.protocol import codec
from lmtp_router.protocol.types import Rcpt, Reply
from lmtp_router.routing import Route, Routing
from lmtp_router.settings import settings_of

SPARE_S = 30.0
"""How much longer than its own deadlines the frontend is waited for."""


class Accepts(enum.Enum):
    """What a message to an address would meet with now."""

    YES = "yes"
    NO = "no"
    """It would bounce."""
    LATER = "later"
    """It would wait in the sender's queue."""


class Judgement(NamedTuple):
    """An address, what the lookup says of it, the backend (empty where none is asked), and the reply to its RCPT."""

    answer: Answer
    endpoint: str
    accepts: Accepts
    reply: str


class Line:
    """One session with the frontend."""

    def __init__(self, path: str, patience_s: float) -> None:
        self._path, self._patience_s = path, patience_s
        self._parser = codec.ReplyParser()
        self._replies: list[Reply] = []
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, path: bytes) -> Reply:
        """Return the reply to RCPT for `path`; raises DeliveryTemporary when the frontend breaks off."""
        try:
            async with asyncio.timeout(self._patience_s):
                if self._writer is None:
                    self._reader, self._writer = await asyncio.open_unix_connection(self._path)
                    await self._reply()
                    await self._say(b"LHLO localhost")
                await self._say(b"MAIL FROM:<>", b"RCPT TO:" + path)
                reply = self._replies.pop()
                await self._say(b"RSET")
                return reply
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.close()
            raise DeliveryTemporary(f"no answer about {path!r}: {error or 'in time'}") from error

    async def _say(self, *commands: bytes) -> None:
        """Send commands; the last replies are left in `_replies`."""
        assert self._writer is not None
        self._writer.write(b"".join(command + b"\r\n" for command in commands))
        self._replies = [await self._reply() for _ in commands]

    async def _reply(self) -> Reply:
        assert self._reader is not None
        while True:
            lines = await self._reader.readuntil(b"\r\n")
            if replies := self._parser.feed(lines):
                return replies[0]

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._parser = codec.ReplyParser()


class Probe:
    """The router of `config` without its doors; an asynchronous context manager.  Raises ConfigError."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._settings = settings_of(config)._replace(logins=None)
        self._lookup = Lookup(config.node.state_dir, config.names.rules(), no_max_age_s=config.lookup.no_max_age_s)
        self._routing = Routing(self._lookup, config.backends)
        deadlines = self._settings.deadlines
        self._patience_s = 2 * (deadlines.connect + deadlines.greeting + deadlines.envelope) + SPARE_S
        self._place = tempfile.TemporaryDirectory(prefix="cyrusext-check-")
        self._path = str(Path(self._place.name) / "lmtp")
        self._sockets: list[socket.socket] = []
        self._frontend: Frontend | None = None

    async def __aenter__(self) -> Self:
        self._sockets = net_address.bind(net_address.UnixAddress(self._path))
        self._frontend = Frontend(self._settings, self._routing, self._sockets)
        await self._frontend.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._frontend is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._frontend.stop(), 2.0)
        self._lookup.close()
        self._place.cleanup()

    def line(self) -> Line:
        """Return a session; asking in several at once asks backends at once."""
        return Line(self._path, self._patience_s)

    async def judge(self, rcpt: Rcpt, line: Line) -> Judgement:
        """Say what would become of a message to `rcpt` now; raises DeliveryTemporary."""
        answer = self._lookup.recipient(rcpt.address)
        route = self._routing.route(rcpt)
        reply = await line.ask(rcpt.path)
        accepts = Accepts.YES if reply.positive else Accepts.NO if reply.code // 100 == 5 else Accepts.LATER
        endpoint = f"{route.host}:{route.port}" if isinstance(route, Route) else ""
        # The lookup's reason says more than our own words for it.
        text = reply.text if answer.verdict is Verdict.FOUND else f"{reply.text} ({answer.reason})"
        return Judgement(answer, endpoint, accepts, text)
