"""What a session answers from the records: FIND, LIST, UPDATE.

Rule: a FIND that nothing is before is answered where its bytes arrive, in compiled code and without waking the
session's task; any other takes its turn with the other commands.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable

from cyrusext.model import State
from cyrusext.mupdate._finds import Finds
from cyrusext.mupdate._sorted import Sorted
from cyrusext.mupdate._walk import Walk
from cyrusext.mupdate.channel import WRITE_AHEAD, Channel
from cyrusext.mupdate.followed import FollowerStream
from cyrusext.mupdate.leftover import Push
from cyrusext.mupdate.refill import Account
from cyrusext.mupdate.service import Service
from cyrusext.mupdate.stream import Stream
from cyrusext.mupdate.types import Find, List, Ok, Update
from cyrusext.names import without_folder
from cyrusext.runtime import logging
from cyrusext.wire.framer import Framer

log = logging.get()

FIRST_ANSWERS = 5 << 10
"""Answers sent at once to a client that keeps many FINDs in flight, in bytes."""
PIECE = 128 << 10
"""Lines made in one turn of the event loop, in bytes: well below a millisecond."""
PIECE_TO_DEFLATE = 32 << 10
SNAPSHOT_S = 2.0
"""How long a walk may be of one moment: so long the store can not use again what is changed meanwhile."""


class Reading(Channel):
    """The part of a session that changes nothing."""

    def __init__(self, service: Service, transport: asyncio.Transport, host: str, peer: str) -> None:
        super().__init__(service, transport, host, peer)
        self._finds: Finds = service.finds
        self._leader = service.leader
        self._stream: Stream | FollowerStream | None = None
        self._asking = ""
        """The server whose list this client has asked for: ``ctl_mboxlist -m`` asks for its own."""
        self._push: Push | None = None
        """With `_asking`, where such a client removes what FIND tells it of."""
        self._refill = service.refill
        self._account = Account(service.refill)
        self.resting = False
        """The session's task waits for the client, and nothing waits for its answer."""
        self._busy = False

    @property
    def streams(self) -> bool:
        """The client has asked for the stream of changes."""
        return self._stream is not None

    @abstractmethod
    def bye(self, text: str) -> None:
        """Say BYE and close."""

    # FIND.

    def answered_at_once(self) -> bool:
        if not self.resting or not self._writable.is_set() or self._asking or self._leader:
            return False
        # One client that keeps many commands in flight sends the next ones while these are answered, so it gets the
        # first answers early; where others ask as well, there is enough to do meanwhile.
        alone, self._finds.asker = self._finds.asker == id(self), id(self)
        answers, more = self._connection.answer_finds(self._part if alone else self._batch)
        if answers:
            self._busy = True
            self._write(answers)
            self.flush()
        if more is None:
            asyncio.get_running_loop().call_soon(self._go_on)
        return not more

    def _go_on(self) -> None:
        """Answer what the turn before has left."""
        if not self.answered_at_once() or not self._reading:
            self._received.set()

    def was_busy(self) -> bool:
        """Whether there was an answer at once since this was asked last."""
        busy, self._busy = self._busy, False
        return busy

    def answer_finds(self) -> bool:
        """Answer FINDs that wait, one batch of them; False where there was none."""
        if self._asking or self._leader:
            return False
        answers, _ = self._connection.answer_finds(self._batch)
        if answers:
            self._write(answers)
        return bool(answers)

    def _batch(self, framer: Framer) -> tuple[bytes, bool | None]:
        return self._finds.answer(framer, WRITE_AHEAD)

    def _part(self, framer: Framer) -> tuple[bytes, bool | None]:
        return self._finds.answer(framer, FIRST_ANSWERS)

    def _find(self, command: Find) -> bool:
        """Answer FIND; False where this client may not hear the answer yet."""
        record = self._service.records.get(command.name) if command.name else None
        if self._asking and not self._service.rules.push_finds:
            record = None  # Quirk.REPLICATED_PUSH: it would remove its mailbox, whatever the answer says
        if record is not None and (record.state is State.DELETED or self._refill.hides(record, self._asking)):
            record = None
        if record is None:
            self._account.asked_in_vain(command.name)
        else:
            if self._push is not None and self._push.keeps(record):
                return False
            self._write(self._connection.send_records(command.tag, (record,)))
        self.send(Ok(command.tag, "Search completed"))
        return True

    async def _is_current(self, command: Find | List) -> bool:
        """Wait until this node has caught up with the one it follows; where that fails, the client is cut off.

        A backend that pushes its list removes what it hears to be elsewhere: an old answer may cost the only copy.
        """
        if not self._leader or await self._service.directory.catch_up():
            return True
        log.error("mupdate.unanswered", peer=self.peer, command=type(command).__name__.upper(), leader=self._leader)
        self._transport.abort()
        return False

    async def _find_later(self, command: Find) -> None:
        """Answer when the client may hear it; where that takes too long, as if there were no such mailbox."""
        assert self._push is not None
        self._service.peer_log.info(
            "mupdate.find_waits", peer=self.peer, mailbox=without_folder(command.name), asking=self._asking
        )
        while await self._push.settled(command.name):
            if self._find(command):
                return
        self._service.peer_log.warning(
            "mupdate.find_withheld",
            peer=self.peer,
            mailbox=without_folder(command.name),
            asking=self._asking,
            reason="reserved by another server, which has not pushed its list since: let it run ctl_mboxlist -m, "
            "or decide with: cyrusext mailbox set --force or cyrusext mailbox delete",
        )
        self.send(Ok(command.tag, "Search completed"))

    # LIST and UPDATE.

    async def _list(self, command: List) -> None:
        server, mark, _ = command.prefix.partition(b"!")
        self._asking = server.decode("ascii", "replace") if mark else ""
        leftovers = self._service.leftovers
        self._push = leftovers.push(self._asking) if self._asking and leftovers is not None else None
        only = [server] if mark and server else []
        order = self._service.order_for(self.host)
        await self.send_walk(self._service.walk(order, command.tag, only, command.prefix))
        self.send(Ok(command.tag, "list complete"))

    async def send_walk(self, walk: Walk, learn: Callable[[Walk], None] | None = None) -> None:
        """Send all lines of `walk`, as fast as the client takes them; `learn` is called after each piece."""
        size = PIECE if self._deflate is None else PIECE_TO_DEFLATE
        brief = asyncio.get_running_loop().call_later(SNAPSHOT_S, walk.be_brief)
        try:
            if isinstance(walk, Sorted):
                await self._sort(walk)
            while not walk.done:
                async with self._service.turn():
                    self._write(walk.piece(size))
                    self.flush()
                    if learn is not None:
                        learn(walk)
                await self.drain()
        finally:
            brief.cancel()
            walk.close()

    async def _sort(self, walk: Sorted) -> None:
        more = True
        while more:
            async with self._service.turn():
                more = walk.collect()
        await asyncio.to_thread(walk.sort)

    def _left(self) -> None:
        """The client said LOGOUT."""
        if self._account.ended(self._asking):
            log.info("mupdate.pushed", peer=self.peer, server=self._asking)

    async def _update(self, command: Update) -> None:
        if self._refill.active:
            log.info("mupdate.update_refused", peer=self.peer, reason="the records are being refilled")
            self._transport.abort()  # unanswered: see Stream.list_is_open
            return
        order = self._service.order_for(self.host)
        servers = frozenset(command.hosts)
        audience = await self._service.audiences.at(self.host)
        if audience.servers and not self._service.rules.streams_to_servers:
            # Quirk.REPLICATED_STREAM.  Unanswered, for a NO would end the slave's list: see Stream.list_is_open.
            self._service.peer_log.warning(
                "mupdate.update_refused",
                peer=self.peer,
                servers=" ".join(sorted(audience.servers)),
                reason="mode replicated: a server that holds mailboxes must not run a mupdate slave",
            )
            self._transport.abort()
            return
        self._stream = stream = Stream(
            self,
            self._service,
            tag=command.tag,
            servers=servers,
            order=order,
            audience=audience,
            writable=self._writable.is_set,
        )
        self._service.peer_log.info(
            "mupdate.subscribed", peer=self.peer, user=self.user, servers=" ".join(sorted(servers)), order=order
        )
        await stream.walk()
        self.send(Ok(command.tag, "streaming starts"))
        self.flush()
        stream.begin()
