"""What a node tells a node that follows it: a full copy or the changes since, then every change as it is committed.

Rule: the store's change log is the only queue.  A follower is sent what the log has behind the change that it was sent
last, when it takes it; so a slow one costs no memory, and one that falls behind the log's end has to begin again.  The
answer to a change that a follower forwarded is sent after the change itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from cyrusext.errors import CyrusExtError
from cyrusext.model import MailboxRecord
from cyrusext.mupdate import following
from cyrusext.mupdate.leading import Leading, mark_text
from cyrusext.mupdate.service import Service
from cyrusext.mupdate.types import Begins, Follow, Reached, Records, Reply
from cyrusext.runtime import logging

log = logging.get()

STEP = following.MAX_RECORDS
"""Changes read of the log at once."""


class Sender(Protocol):
    """The session that the stream belongs to."""

    peer: str

    def send(self, reply: Reply) -> None: ...

    def flush(self) -> None: ...

    async def drain(self) -> None: ...

    def bye(self, text: str) -> None: ...


class FollowerStream:
    """One follower."""

    def __init__(
        self,
        sender: Sender,
        service: Service,
        leading: Leading,
        command: Follow,
        *,
        writable: Callable[[], bool],
        caught_up: Callable[[], None],
    ) -> None:
        self._sender, self._service, self._leading = sender, service, leading
        self._tag, self.node = command.tag, command.node
        self._writable, self._caught_up = writable, caught_up
        self._pump: asyncio.Task[None] | None = None
        self._begun = self._closed = False
        self._mode = leading.mode(command)
        self._full = self._mode != "log"
        self.sent = leading.log.seq if self._full else command.seq
        """The last change that was sent, or what came after made sending needless."""
        self._mark = leading.mark(self.sent) if self._full else command.mark
        leading.followers.add(self)
        log.info("follower.begins", peer=sender.peer, node=self.node, mode=self._mode, seq=self.sent)
        if self._full:
            leading.full += 1
        else:
            leading.resumed += 1

    @property
    def is_current(self) -> bool:
        """Every commit that was told of has been sent."""
        return self._begun and self._pump is None

    def begins(self) -> Begins:
        return Begins(self._tag, self._leading.store_id, self._mode, self._leading.log.seq)

    async def copy(self) -> None:
        """After the OK: send a full copy where one is needed, then changes from now on."""
        if self._full:
            await self._walk()
            self._sender.send(self._reached())
        self._begun = True
        await self.drained()

    def close(self) -> None:
        """End it; harmless when ended already."""
        self._closed = True
        self._leading.followers.discard(self)
        if self._pump is not None:
            self._pump.cancel()

    def catch_up(self) -> None:
        """Send everything committed before, if the follower takes it."""
        self.committed()

    async def drained(self) -> None:
        """Wait until everything committed before is on its way, and say how far that is."""
        if self._pump is not None:
            await asyncio.shield(self._pump)
        while not self._closed and not self._send_step():
            await self._sender.drain()
            await asyncio.sleep(0)
        if not self._closed:
            self._sender.send(self._reached())

    async def _walk(self) -> None:
        after, limit = b"", STEP // 8
        while True:
            async with self._service.turn():
                records = self._leading.log.chunk(after=after, limit=limit, tombstones=True)
                self._send_records(records)
            if not records:
                return
            after = records[-1].name
            heavy = sum([len(record.acl) for record in records]) > following.MAX_RECORDS_BYTES
            limit = max(1, limit // 8) if heavy else min(STEP, limit * 2)
            await self._sender.drain()

    def _send_records(self, records: list[MailboxRecord]) -> None:
        for piece in following.pieces(records):
            self._sender.send(Records(self._tag, tuple(piece)))

    def _reached(self) -> Reached:
        return Reached(self._tag, self.sent, self._mark, self._service.directory.is_fresh)

    def committed(self) -> None:
        """Something was committed: send it at once when the follower takes it, else when it does."""
        if not self._begun or self._closed or self._pump is not None:
            return
        try:
            done = self._writable() and self._send_step()
        except CyrusExtError as error:
            self._failed(error)
            return
        if done:
            self._arrive()
        else:
            self._pump = asyncio.get_running_loop().create_task(self._send_waiting())

    def _send_step(self) -> bool:
        """Send what the next piece of the log says, and how far that is; True when nothing is behind it."""
        changed = self._leading.log.changed(self.sent, STEP)
        if changed.first > self.sent + 1:
            log.warning("follower.too_slow", peer=self._sender.peer, node=self.node, at=self.sent, log=changed.first)
            self._closed = True
            self._sender.bye("the change log does not reach back so far any more, begin again")
            return True
        self._send_records(changed.records)
        if changed.first:
            self.sent, self._mark = changed.upto, mark_text(changed.mark)
            self._sender.send(self._reached())
        return changed.done

    async def _send_waiting(self) -> None:
        try:
            while not self._closed:
                await self._sender.drain()
                if self._send_step():
                    break
                await asyncio.sleep(0)
        except ConnectionError:
            self.close()
        except CyrusExtError as error:
            self._failed(error)
        finally:
            self._pump = None
        if not self._closed:
            self._arrive()

    def _arrive(self) -> None:
        self._sender.flush()
        self._caught_up()

    def _failed(self, error: CyrusExtError) -> None:
        log.error("follower.log_unreadable", peer=self._sender.peer, node=self.node, error=error)
        self.close()
        self._sender.bye("the change log can not be read")
