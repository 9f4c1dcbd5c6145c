"""Long messages: what is read at once, into what, and that what many of them have together is bounded."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest
import uvloop

from lmtp_router._intake import Intake
from lmtp_router.bulk import BUDGET, LEAST, LONG, MOST, Bulk, Share


def test_what_all_may_have_together_is_bounded() -> None:
    share = Share()
    for number in range(1, 2 * BUDGET // LEAST):
        share.count(1)
        assert LEAST <= share.size <= MOST
        assert share.size == LEAST or share.size * number <= BUDGET
        assert share.size == MOST or share.size * 2 * number > BUDGET
    for _ in range(share.active):
        share.count(-1)
    assert (share.active, share.size) == (0, MOST)


def test_what_was_taken_is_not_written_again() -> None:
    intake = Intake()
    with memoryview(cast(Any, intake.room(4))) as view:
        view[:] = b"abcd"
        full = intake.take(4)
        view[:] = b"efgh"
        assert (full, intake.take(2), intake.take(0)) == (b"abcd", b"ef", b"")
    for wrong in (5, -1):
        with pytest.raises(ValueError, match="no room"):
            intake.take(wrong)
    for wrong in (0, 1 << 20):
        with pytest.raises(ValueError, match="there is room for"):
            intake.room(wrong)


class Session:
    """Hears what comes, and says to `bulk` that it did."""

    def __init__(self, share: Share) -> None:
        self.bulk = Bulk(self, share)
        self.transport: asyncio.Transport | None = None
        self.pieces: list[bytes] = []
        self.calls: list[str] = []
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        assert self.transport is not None
        self.bulk.came(len(data), self.transport, reading=True)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return False

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


def test_a_connection_goes_over_to_larger_reads_in_the_middle_of_a_message() -> None:
    text = bytes(range(256)) * (1 << 14)

    async def test() -> None:
        share = Share()
        for _ in range(200):
            share.count(1)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        session = Session(share)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: cast(asyncio.Protocol, session), ours)
        with theirs:
            await asyncio.to_thread(theirs.sendall, text)
        await session.lost.wait()
        assert b"".join(session.pieces) == text
        assert share.active == 201
        size, at = 0, 0
        while size <= LONG:
            size += len(session.pieces[at])
            at += 1
        assert all(len(piece) <= share.size for piece in session.pieces[at:])
        assert session.calls == ["eof"]
        session.bulk.over()
        session.bulk.over()
        assert share.active == 200

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(test(), 30))
