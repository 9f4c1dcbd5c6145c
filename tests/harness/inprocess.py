"""A MUPDATE server on the real store within the test's own process, for bounds that no configuration file has.

Rule: it is assembled from the same parts as the node, and serves real connections on a port of its own; its event loop
runs in a thread, so that a test may use plain sockets.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import uvloop

from cyrusext.directory.embedded import EmbeddedDirectory
from cyrusext.mupdate.leading import Leading
from cyrusext.mupdate.leftover import Leftovers
from cyrusext.mupdate.refill import Refill
from cyrusext.mupdate.server import MupdateServer
from cyrusext.mupdate.service import Bounds, Network, Order, Service
from cyrusext.net.address import TcpAddress, bind
from cyrusext.net.login_pool import LoginPool
from cyrusext.net.sasl import FileLogins, Logins
from cyrusext.net.tls import ServerTls
from cyrusext.replica.copying import begin_to_lead
from cyrusext.replica.feed import ChangeFeed
from cyrusext.replica.writer import GroupCommit
from cyrusext.store import Store
from tests.harness.mupdate import Mupdate, UpdateStream

T = TypeVar("T")

ADDRESS = "127.0.0.1"


class InProcessMaster:
    """Serves from `start` to `stop`; `settings` are fields of Service, `bounds` fields of its Bounds."""

    def __init__(
        self,
        place: Path,
        *,
        bounds: Bounds | None = None,
        feed_limit: int = 50_000,
        resend_after_s: float = 0.05,
        orders: list[tuple[Network, Order]] | None = None,
        may_answer: bool = True,
        leftover_wait_s: float = 30.0,
        failed_login_s: float = 0.05,
        tls: ServerTls | None = None,
        mechanisms: tuple[str, ...] = ("PLAIN",),
        logins: Logins | None = None,
        cluster_id: str = "",
    ) -> None:
        (place / "run").mkdir(exist_ok=True)
        passwords = place / "passwords"
        passwords.write_text("murder:murderpw\nalice:alicepw\n")
        passwords.chmod(0o600)
        self.store = Store.open(place / "state", run_dir=place / "run", map_size=1 << 30)
        self.writer = GroupCommit(self.store)
        self.feed = ChangeFeed(limit=feed_limit)
        self.writer.on_commit(self.feed.publish)
        self.leading = Leading(begin_to_lead(self.store), cluster_id, self.store)
        self.writer.on_commit(self.leading.committed)
        directory = EmbeddedDirectory(self.writer)
        if not may_answer:
            directory = _Filling(self.writer)
        refill = Refill()
        self.service = Service(
            hostname="node1",
            version="1",
            records=self.store,
            directory=directory,
            feed=self.feed,
            logins=logins or FileLogins(passwords),
            login_pool=LoginPool(),
            admins=frozenset({"murder"}),
            mechanisms=mechanisms,
            tls=tls,
            resend_after_s=resend_after_s,
            orders=orders or [],
            leading=self.leading,
            give_way=self.writer.quiet,
            leftovers=Leftovers(self.store.get, leftover_wait_s),
            refill=refill,
            bounds=replace(bounds or Bounds(), failed_login_s=failed_login_s, close_s=1.0),
        )
        self._sockets = bind(TcpAddress(ADDRESS, 0))
        self.port: int = self._sockets[0].getsockname()[1]
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._clients: list[Mupdate | socket.socket] = []
        self._serving = False

    def __enter__(self) -> Self:
        self._thread.start()
        self.call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for client in self._clients:
            client.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self.store.close()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the server's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def on_loop(self, call: Callable[[], T]) -> T:
        """Call `call` on the server's loop and return its result."""

        async def work() -> T:
            return call()

        return self.call(work())

    def stop(self) -> None:
        """End as the node does; the clients stay, to see what they were told."""
        if self._serving:
            self._serving = False
            self.call(self._stop())

    async def _start(self) -> None:
        self.server = MupdateServer(self.service, self._sockets)
        await self.writer.start()
        await self.server.start()
        self._serving = True

    async def _stop(self) -> None:
        await self.server.stop()
        await self.writer.stop()

    def connect(self, *, user: str = "murder") -> Mupdate:
        client = Mupdate(ADDRESS, self.port, user=user)
        self._clients.append(client)
        return client

    def stream(self, *servers: bytes) -> UpdateStream:
        client = UpdateStream(ADDRESS, self.port, servers=servers)
        self._clients.append(client)
        return client

    def raw(self, *, receive_buffer: int = 0) -> socket.socket:
        """A connection without a client; a small `receive_buffer` makes one that soon takes nothing more."""
        client = socket.socket()
        self._clients.append(client)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(20)
        client.connect((ADDRESS, self.port))
        return client


class _Filling(EmbeddedDirectory):
    """A directory whose copy is not complete yet."""

    @property
    def may_answer(self) -> bool:
        return False
