"""`lmtp-router` as a daemon of its own, with the real store and lookup, between clients and backends by script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.store import Store
from tests.harness.lmtp_peer import LmtpClient, ScriptedBackend, listening_socket, wait_until

CHECKOUT = Path(__file__).resolve().parents[2]


class Daemon:
    """`lmtp-router` with a store of its own, whose heart a task beats, and two backends by script."""

    def __init__(self, place: Path, extra: str = "") -> None:
        self.place = place
        self.backends = {"a": ScriptedBackend(), "b": ScriptedBackend()}
        self.extra = extra
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.config = place / "cyrusext.toml"
        self.log = place / "log"
        self.store: Store | None = None
        self.beating = True
        self.clients: list[LmtpClient] = []
        self.environment: dict[str, str] = {}
        self.before: list[str] = []
        """A command that runs it, such as prlimit."""
        self.more: list[str] = []
        """Addresses to listen at beside the usual two."""

    async def start(self) -> None:
        for directory in ("lib", "run"):
            (self.place / directory).mkdir()
        self.store = Store.open(self.place / "lib", run_dir=self.place / "run")
        with self.store.begin() as transaction:
            transaction.put(MailboxRecord(b"user.alice", State.ACTIVE, "a", "default"))
            transaction.put(MailboxRecord(b"user.bob", State.ACTIVE, "b", "default"))
            transaction.put(MailboxRecord(b"user.new", State.RESERVED, "a", "default"))
            transaction.put(MailboxRecord(b"user.held", State.ACTIVE, "a", "default", flags=Flag.HELD))
            transaction.put(MailboxRecord(b"user.odd", State.ACTIVE, "a", "default", flags=Flag.SUSPECT))
        for backend in self.backends.values():
            await backend.start()
        with listening_socket() as sock:
            self.port = sock.getsockname()[1]
        self.configure(self.extra)
        self.process = self.spawn()
        await wait_until(lambda: self.events("lmtp.ready") == 1, f"the router serves: {self.log.read_text()}", 30)

    def configure(self, extra: str, workers: int = 2) -> None:
        """Write the configuration file; `extra` begins in [lmtp]."""
        entries = "".join(
            f'[backends.{name}]\nhost = "127.0.0.1"\nlmtp = {backend.port}\n' for name, backend in self.backends.items()
        )
        listen = ", ".join(
            f'"{place}"' for place in (f"127.0.0.1:{self.port}", f"unix:{self.place}/run/lmtp", *self.more)
        )
        self.config.write_text(
            f'[node]\nstate_dir = "{self.place}/lib"\nrun_dir = "{self.place}/run"\n{entries}'
            f"[lmtp]\nlisten = [{listen}]\nworkers = {workers}\n{extra}"
        )

    async def status(self) -> dict[str, Any]:
        """What `lmtp-router status` says."""
        _, out = await self.command("status", "--format", "json")
        status: dict[str, Any] = json.loads(out)
        return status

    def reload(self) -> None:
        """SIGHUP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [*self.before, sys.executable, "-m", "lmtp_router", "-c", self.config],
                cwd=CHECKOUT,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT), **self.environment},
            )

    def events(self, name: str) -> int:
        return self.log.read_text().count(f"event={name} ")

    async def beat(self) -> None:
        while True:
            if self.beating and self.store is not None:
                self.store.beat(fresh=True)
            await asyncio.sleep(0.2)

    def workers(self) -> list[int]:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    async def client(self) -> LmtpClient:
        client = LmtpClient(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        assert (await client.reply()).startswith(b"220")
        assert (await client.ask(b"LHLO c")).startswith(b"250")
        return client

    async def command(self, *arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lmtp_router", *arguments, "-c", str(self.config),
            cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode or 0, out.decode()

    async def ended(self) -> int:
        assert self.process is not None
        process = self.process
        await wait_until(lambda: process.poll() is not None, "the router ends", 20)
        return process.returncode

    async def stop(self) -> None:
        for client in self.clients:
            client.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            await self.ended()
        for backend in self.backends.values():
            await backend.stop()
        if self.store is not None:
            self.store.close()


@contextlib.asynccontextmanager
async def daemon(
    place: Path, extra: str = "", environment: Mapping[str, str] | None = None, before: Sequence[str] = ()
) -> AsyncIterator[Daemon]:
    router = Daemon(place, extra)
    router.environment = dict(environment or {})
    router.before = list(before)
    beating = asyncio.create_task(router.beat())
    try:
        await router.start()
        yield router
    finally:
        beating.cancel()
        await router.stop()


def is_running(pid: int) -> bool:
    """True for a process that lives and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
