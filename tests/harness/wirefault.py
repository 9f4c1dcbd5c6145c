"""A TCP proxy that can do to a connection what networks do: cut, hold, delay, reset, lose the rest.

Rule: it never changes a byte that it passes on.  It runs on an event loop in a thread of its own; every method may be
called from a test at any time, has taken effect when it returns, and stays in force for present and future connections
until `heal`.

    with WireFault((listen, 3905), (target, 3905)) as wire:
        wire.hold()                               # nothing passes, nobody is told
        wire.on_match(b"ACTIVATE ", node.kill)    # runs before the bytes with this pattern pass
        wire.on_answer(b"ACTIVATE ", node.kill)   # runs before what is answered to it passes
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, Self

TO_SERVER, TO_CLIENT = "C", "S"


class Passed(NamedTuple):
    """One piece of the record: number of the connection, direction (`TO_SERVER` or `TO_CLIENT`), bytes."""

    connection: int
    direction: str
    data: bytes


class _Match:
    """An action that waits for its moment; `pattern` is compared with what passes, and `turn` counts down to it."""

    def __init__(
        self,
        pattern: bytes,
        direction: str,
        action: Callable[[], None],
        *,
        turn: int,
        lose: bool = False,
        answer: bool = False,
        cut_after: bool = False,
    ) -> None:
        self.pattern, self.direction, self.action, self.lose = pattern, direction, action, lose
        self.turn, self.answer, self.cut_after = turn, answer, cut_after
        self.asked_on: int | None = None
        """With `answer`: the connection on which the question has passed."""

    def comes(self, connection: int, direction: str, data: bytes, before: bytes) -> bool:
        """Say whether its moment has come with `data`, which follows `before` in this direction."""
        if self.asked_on is not None:
            return connection == self.asked_on and direction != self.direction
        if direction != self.direction:
            return False
        hits = (before[-len(self.pattern) + 1 :] if len(self.pattern) > 1 else b"") + data
        self.turn -= hits.count(self.pattern)
        if self.turn > 0:
            return False
        if self.answer:
            self.asked_on = connection
        return not self.answer


class WireFault:
    """Listens on one address and forwards to another."""

    def __init__(self, listen: tuple[str, int], target: tuple[str, int]) -> None:
        self.target = target
        self.record: list[Passed] = []
        self.connections = 0
        self._refusing = False
        self._delay_s = 0.0
        self._close_after: dict[str, int] = {}
        self._dropped: set[str] = set()
        self._matches: list[_Match] = []
        self._on_connect: tuple[int, Callable[[], None]] | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wirefault", daemon=True)
        self._thread.start()
        self._server = self._wait(asyncio.start_server(self._accept, *listen))
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()

    # -- faults ---------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """End every fault; connections that were cut stay cut."""

        def act() -> None:
            self._refusing = False
            self._delay_s = 0.0
            self._close_after.clear()
            self._dropped.clear()
            self._matches.clear()
            self._on_connect = None
            self._passing.set()

        self._do(act)

    def hold(self) -> None:
        """Let nothing pass; connections stay open, and what is sent meanwhile is kept."""
        self._do(self._passing.clear)

    def release(self) -> None:
        self._do(self._passing.set)

    def delay(self, seconds: float) -> None:
        """Pass everything that much later, in each direction."""
        self._do(lambda: setattr(self, "_delay_s", seconds))

    def cut(self) -> None:
        """Close every connection in an orderly way."""
        self._do(lambda: self._end_all(_close))

    def reset(self) -> None:
        """End every connection with a RST: what was not read yet is lost."""
        self._do(lambda: self._end_all(_reset))

    def refuse(self) -> None:
        """Reset every new connection at once; present ones go on."""
        self._do(lambda: setattr(self, "_refusing", True))

    def drop(self, direction: str) -> None:
        """Swallow everything in one direction from now on: the half-dead connection that no FIN ends."""
        self._do(lambda: self._dropped.add(direction))

    def close_after(self, count: int, direction: str = TO_SERVER) -> None:
        """Close a connection when it has passed `count` bytes in a direction; the rest is not passed."""
        self._do(lambda: self._close_after.update({direction: count}))

    def on_connect(self, action: Callable[[], None], *, turn: int = 1) -> None:
        """Run `action` once, when the `turn`-th client from now has connected and before the server hears of it."""
        self._do(lambda: setattr(self, "_on_connect", (self.connections + turn, action)))

    def on_match(
        self,
        pattern: bytes,
        action: Callable[[], None],
        direction: str = TO_SERVER,
        *,
        lose: bool = False,
        turn: int = 1,
        cut_after: bool = False,
    ) -> None:
        """Run `action` once, before the piece that completes `pattern` for the `turn`-th time passes in `direction`.

        With `lose` the piece never passes and its connection is closed; with `cut_after` its first half, up to the end
        of the pattern, passes before `action` runs, and the rest afterwards.  Everything waits while `action` runs,
        which must call no method of the proxy: it runs on the loop.  A piece is what one read returned, so only what
        came in earlier pieces is known to have reached the other side.
        """
        match = _Match(pattern, direction, action, turn=turn, lose=lose, cut_after=cut_after)
        self._do(lambda: self._matches.append(match))

    def on_answer(self, pattern: bytes, action: Callable[[], None], *, lose: bool = False, turn: int = 1) -> None:
        """Run `action` once, before the first piece passes that the server says after a command with `pattern`."""
        match = _Match(pattern, TO_SERVER, action, turn=turn, lose=lose, answer=True)
        self._do(lambda: self._matches.append(match))

    # -- the record -----------------------------------------------------------------------------------------------

    def transcript(self, connection: int | None = None, direction: str | None = None) -> bytes:
        """Return the bytes that passed, in order."""
        return b"".join(
            piece.data
            for piece in list(self.record)
            if connection in (None, piece.connection) and direction in (None, piece.direction)
        )

    # -- life -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside: everything below runs on the loop ----------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        try:
            if self._refusing:
                raise ConnectionRefusedError
            if self._on_connect is not None and self.connections + 1 >= self._on_connect[0]:
                (_, action), self._on_connect = self._on_connect, None
                action()
            async with asyncio.timeout(5):
                far_reader, far_writer = await asyncio.open_connection(*self.target)
        except (OSError, TimeoutError):
            self._ends.discard(writer)
            _reset(writer)
            return
        self._ends.add(far_writer)
        self.connections += 1
        number = self.connections
        ends = (writer, far_writer)
        to_server = asyncio.create_task(self._pump(number, reader, ends, TO_SERVER))
        to_client = asyncio.create_task(self._pump(number, far_reader, ends[::-1], TO_CLIENT))
        for task in (to_server, to_client):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.wait({to_server, to_client})
        for end in ends:
            self._ends.discard(end)
            _close(end)

    async def _pump(
        self, number: int, reader: asyncio.StreamReader, ends: tuple[asyncio.StreamWriter, ...], direction: str
    ) -> None:
        """Pass one direction on until its end, which is passed on too; an error ends both directions.

        `ends` are the writers of the two sides: where the bytes come from, where they go to.
        """
        writer = ends[1]
        count = 0
        history = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._passing.wait()
                before, history = history, (history + data)[-65536:]
                for hit in [match for match in self._matches if match.comes(number, direction, data, before)]:
                    self._matches.remove(hit)
                    if hit.cut_after:
                        first, data = _halves(data, hit.pattern)
                        count += len(first)
                        self.record.append(Passed(number, direction, first))
                        writer.write(first)
                        await writer.drain()
                    hit.action()
                    if hit.lose:
                        raise ConnectionAbortedError
                await self._passing.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                if direction in self._dropped:
                    continue
                limit = self._close_after.get(direction)
                if limit is not None:
                    data = data[: max(0, limit - count)]
                count += len(data)
                self.record.append(Passed(number, direction, data))
                writer.write(data)
                await writer.drain()
                if limit is not None and count >= limit:
                    raise ConnectionAbortedError
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
            return
        for end in ends:
            _close(end)

    def _end_all(self, end_one: Callable[[asyncio.StreamWriter], None]) -> None:
        for end in list(self._ends):
            end_one(end)

    async def _close(self) -> None:
        self._server.close()
        self._passing.set()
        self._end_all(_reset)
        if self._tasks:
            _, left = await asyncio.wait(set(self._tasks), timeout=2)
            for task in left:
                task.cancel()
        await asyncio.sleep(0)  # transports that were closed report it on the loop's next turn
        await asyncio.sleep(0)

    def _do(self, act: Callable[[], object]) -> None:
        async def on_loop() -> None:
            act()

        self._wait(on_loop())

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


def _halves(data: bytes, pattern: bytes) -> tuple[bytes, bytes]:
    """Part `data` after `pattern`; where the pattern began in an earlier piece, after the first byte."""
    end = data.find(pattern) + len(pattern) if pattern in data else 1
    return data[:end], data[end:]


def _close(end: asyncio.StreamWriter) -> None:
    if not end.is_closing():
        end.close()


def _reset(end: asyncio.StreamWriter) -> None:
    raw: socket.socket | None = end.get_extra_info("socket")
    if raw is not None and not end.is_closing():
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.transport.abort()
