"""A node that follows another one: the connection to it, what comes over it, and how fresh that makes us.

Rule: this node is fresh only as of the moment at which it asked a question (NOOP) that the leader answered after
everything it had granted by then; an answer that was under way for long proves nothing about now.  What comes is
committed before anything that rests on it is answered.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cyrusext.errors import ConfigError, CyrusExtError, LocalProtocolError, MupdateRefused, MupdateUnavailable
from cyrusext.model import MailboxRecord
from cyrusext.mupdate.client import Client
from cyrusext.mupdate.following import VERSION
from cyrusext.mupdate.forwarding import Forwarding
from cyrusext.mupdate.types import Begins, Follow, Noop, Ok, Reached, Records
from cyrusext.net.address import TcpAddress
from cyrusext.replica.copying import FOLLOWED, GONE_BATCH, Cookie, CopyWork, Missing, is_complete
from cyrusext.replica.upkeep import BEAT_S as HEARTBEAT_S
from cyrusext.replica.writer import GroupCommit
from cyrusext.runtime import logging
from cyrusext.store import Store
from cyrusext.wire.framer import Limits
from cyrusext.wire.sasl import Secret

log = logging.get()

LIMITS = Limits(literal=4 << 20, message=5 << 20)
"""A piece of a copy holds records of up to a megabyte, and one more."""
BEAT_S = 0.5
"""How often the leader is asked whether we know everything."""
CONNECT_S = 5.0
SILENCE_S = 10.0
"""A leader that says nothing for so long, though it is asked twice a second, is gone."""
RETRY_S = (0.1, 2.0)
"""First and longest pause between attempts; each is twice as long as the one before."""
REFUSED_S = 5.0
HELD_S = 30.0
"""Pauses after a refusal, and while deletions wait for an operator."""


class CopyHeld(CyrusExtError):
    """The leader lacks so much of what is here that an operator has to say that it is right."""

    code = "copy-held"


@dataclass(frozen=True)
class Target:
    """The node to follow and how to log in there; `tls_ca` is a PEM file, "" for no TLS (loopback only)."""

    address: TcpAddress
    user: str
    password_file: str
    tls_ca: str
    cluster_id: str
    murder: str
    """The mode of our murder, which has to be the leader's."""
    node: str
    """Our own name, for the leader's log."""


@dataclass
class Held:
    """Deletions that wait for an operator: how many, of which store's copy, and the first names."""

    store_id: str
    count: int
    names: list[bytes]


class Follower:
    """Follows `target` into `store` while it runs; all of it happens on the event loop but the commits."""

    name = "follower"

    def __init__(
        self, target: Target, store: Store, writer: GroupCommit, *, write_wait_s: float, no_max_age_s: float
    ) -> None:
        self.target = target
        self.set_no_max_age(no_max_age_s)
        self._store, self._writer, self._write_wait_s = store, writer, write_wait_s
        self.cookie = Cookie.parse(store.text(FOLLOWED))
        self.is_complete = is_complete(store)
        """This node has a whole copy, however old."""
        self.forwarding = Forwarding(str(target.address), store.get, write_wait_s)
        self.state = "connecting"
        self.problem = ""
        """Why it does not follow now; empty while it does."""
        self.full_copies = self.resumed = 0
        self.leader_seq = 0
        self.held: Held | None = None
        self.on_turn: Callable[[], None] = lambda: None
        """Called when this node becomes fresh, and when it loses its leader."""
        self._accepted: tuple[str, int] | None = None
        self._retry_now = asyncio.Event()
        self._fresh_at: float | None = None
        self._synced = False
        self._beat: tuple[bytes, float, list[asyncio.Future[bool]]] | None = None
        self._waiting: list[asyncio.Future[bool]] = []
        self._client: Client | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    # What the directory asks.

    @property
    def is_fresh(self) -> bool:
        return self.age_s is not None and self.age_s <= self._fresh_s

    def set_no_max_age(self, seconds: float) -> None:
        """Have readers of our heartbeat, which may itself be half a second old, never rely on an older answer."""
        self._fresh_s = max(BEAT_S, seconds - HEARTBEAT_S)

    @property
    def age_s(self) -> float | None:
        """Seconds since this node knew everything; None: it never did, or is not connected."""
        if self._fresh_at is None or not self._synced:
            return None
        return _boot_time() - self._fresh_at

    async def catch_up(self) -> bool:
        """Wait until everything granted before this call is applied here; False when that is not to be had in time."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._ask()
        try:
            async with asyncio.timeout(self._write_wait_s):
                return bool(await future)
        except TimeoutError:
            return False
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def accept(self) -> int:
        """Make the deletions that are held, should the leader still lack as much; return how many."""
        if self.held is None:
            return 0
        self._accepted = (self.held.store_id, self.held.count)
        self._retry_now.set()
        return self.held.count

    # Life.

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._tick()

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.forwarding.close()

    async def _run(self) -> None:
        pause = RETRY_S[0]
        while True:
            self._retry_now.clear()
            longer = 0.0
            try:
                await self._follow()
            except (CyrusExtError, OSError) as error:
                pause = RETRY_S[0] if self._synced else min(2 * pause, RETRY_S[1])
                self._lost(error)
                longer = HELD_S if isinstance(error, CopyHeld) else REFUSED_S if isinstance(error, _LASTING) else 0.0
            except Exception as error:
                log.error("follow.failed", leader=self.target.address, error=error, exc_info=error)
                self._lost(error)
                longer = REFUSED_S
            try:
                async with asyncio.timeout(max(pause, longer)):
                    await self._retry_now.wait()
            except TimeoutError:
                pass

    def _lost(self, error: Exception) -> None:
        self._synced, self._fresh_at = False, None
        self.forwarding.detach()
        if self._beat is not None:
            self._waiting += [future for future in self._beat[2] if not future.done()]
            self._beat = None
        if self._client is not None:
            self._client.abort()
            self._client = None
        self.state = "held" if isinstance(error, CopyHeld) else "connecting"
        if str(error) != self.problem:
            tell = log.error if isinstance(error, (CopyHeld, *_LASTING)) else log.warning
            tell("follow.lost", leader=self.target.address, reason=error)
        self.problem = str(error)
        self.on_turn()

    # The connection.

    async def _follow(self) -> None:
        """Connect, and take what comes until the connection is over, which raises the reason."""
        target = self.target
        client = self._client = await Client.connect(*target.address, timeout_s=CONNECT_S, limits=LIMITS)
        if target.tls_ca:
            if not client.banner.starttls:
                raise LocalProtocolError(f"{target.address} does not offer STARTTLS, and follow_tls_ca is set")
            await client.starttls(_tls_context(target.tls_ca), target.address.host)
        elif not ip_address(client.host.partition("%")[0]).is_loopback:
            raise LocalProtocolError(f"{target.address}: no password is sent without TLS; set follow_tls_ca")
        await client.login(target.user, Secret(_read_password(target.password_file)))
        have = self.cookie or Cookie("", 0, "")
        command = Follow(
            b"", VERSION, target.cluster_id, target.murder, have.store_id, have.seq, have.mark, target.node
        )
        begins = await client.follow(command)
        await _Copy(self, client, begins, self._store, self._writer).run()

    def reached(self, client: Client, reached: Reached, cookie: Cookie) -> None:
        """Everything up to there is committed here."""
        self.cookie = cookie
        if self._synced:
            self.forwarding.applied(reached.seq)
            return
        self._synced, self.is_complete, self.held, self._accepted = True, True, None, None
        self.state, self.problem = "following", ""
        self.forwarding.attach(client.post, reached.seq)
        self._ask()

    def answered(self, answer: Ok, fresh: bool) -> bool:
        """Take the answer to our NOOP; False for another's tag."""
        if self._beat is None or answer.tag != self._beat[0]:
            return False
        _, asked_at, futures = self._beat
        self._beat = None
        if fresh:
            was_fresh, self._fresh_at = self.is_fresh, asked_at
            if not was_fresh:
                self.on_turn()
        for future in futures:
            if not future.done():
                future.set_result(fresh)
        if self._waiting:
            self._ask()
        return True

    def may_delete(self, missing: Missing, begins: Begins) -> bool:
        """Say whether what a full copy lacks may be deleted here without asking anybody."""
        if not missing.count:
            return True
        if self._accepted is not None and self._accepted[0] == begins.store_id and missing.count <= self._accepted[1]:
            return True
        return begins.mode == "behind" and not missing.is_suspicious

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._tick)
        self._ask()

    def _ask(self) -> None:
        """Ask the leader whether we know everything, unless it has still to answer that."""
        if self._beat is not None or not self._synced or self._client is None:
            return
        now = _boot_time()
        try:
            tag = self._client.post(Noop(b""))
        except (LocalProtocolError, MupdateUnavailable):
            return  # the connection is just ending
        self._beat = (tag, now, self._waiting)
        self._waiting = []


_LASTING = (MupdateRefused, LocalProtocolError, ConfigError)
"""What will not be otherwise in a moment."""


class _Copy:
    """One connection's worth of records: a full copy or what changed, then every change."""

    def __init__(self, follower: Follower, client: Client, begins: Begins, store: Store, writer: GroupCommit) -> None:
        self._follower, self._client, self._begins = follower, client, begins
        self._store, self._writer = store, writer
        self._by = f"leader@{follower.target.address}"
        self._records: list[MailboxRecord] = []
        self._missing = Missing(store) if begins.mode != "log" else None
        self._filling = not follower.is_complete
        self._fresh = False

    async def run(self) -> None:
        follower, mode = self._follower, self._begins.mode
        follower.state, follower.leader_seq = "catching up" if mode == "log" else "copying", self._begins.seq
        if mode == "log":
            follower.resumed += 1
        else:
            follower.full_copies += 1
        log.info("follow.begins", leader=follower.target.address, mode=mode, seq=self._begins.seq)
        while True:
            event = await self._client.next_event(SILENCE_S)
            if isinstance(event, Records):
                self._records += event.records
                if self._missing is not None:
                    await self._copied()
            elif isinstance(event, Reached):
                follower.leader_seq = event.seq
                await self._reached(event)
            elif isinstance(event, Ok):
                _ = follower.answered(event, self._fresh) or follower.forwarding.answered(event)
            elif isinstance(event, Begins):
                raise MupdateUnavailable("the leader begins twice")
            else:
                follower.forwarding.answered(event)

    async def _copied(self) -> None:
        """A piece of a full copy: what this node has beyond it is counted, and nothing deleted yet."""
        assert self._missing is not None
        records, self._records = self._records, []
        self._missing.pass_over(records)
        await self._commit(records, None)

    async def _reached(self, reached: Reached) -> None:
        cookie = Cookie(self._begins.store_id, reached.seq, reached.mark)
        self._fresh = reached.fresh
        records, self._records = self._records, []
        if self._missing is not None:
            await self._delete_missing(self._missing, cookie)
            self._missing = None
            self._filling = False
        elif records or cookie != self._follower.cookie:
            await self._commit(records, cookie)
        self._follower.reached(self._client, reached, cookie)

    async def _delete_missing(self, missing: Missing, cookie: Cookie) -> None:
        """The full copy is complete: delete what it lacks, the last of it together with the cookie."""
        missing.finish()
        follower = self._follower
        names = missing.names
        if not follower.may_delete(missing, self._begins):
            follower.held = Held(self._begins.store_id, missing.count, names[:100])
            raise CopyHeld(
                f"{follower.target.address} lacks {missing.count} of {missing.present} mailboxes that are here; "
                "nothing is deleted before: cyrusext replica deletes accept"
            )
        if names:
            log.warning("follow.deletes", leader=follower.target.address, count=missing.count)
        if missing.count > len(names):
            await self._delete(names)
            raise MupdateUnavailable("more is to be deleted than fits one copy; the next one goes on")
        last = names[-GONE_BATCH:]
        await self._delete(names[: len(names) - len(last)])
        await self._commit([], cookie, last)

    async def _delete(self, names: list[bytes]) -> None:
        for start in range(0, len(names), GONE_BATCH):
            await self._commit([], None, names[start : start + GONE_BATCH])

    async def _commit(
        self, records: list[MailboxRecord], cookie: Cookie | None, gone: list[bytes] | None = None
    ) -> None:
        work = CopyWork(records, cookie=cookie, gone=gone or [], filling=self._filling, by=self._by)
        error = await self._writer.submit(work)
        if error is not None:
            raise error


def _boot_time() -> float:
    """Return seconds on the clock of the heartbeat, which goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _tls_context(ca: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigError(f"{ca}: no certificates in PEM: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _read_password(place: str) -> bytes:
    try:
        return Path(place).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(f"{place} can not be read: {error.strerror}") from error
