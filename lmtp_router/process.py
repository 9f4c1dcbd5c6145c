"""One worker process as its parent sees it: forked, heard about once a second, ended.

Rule: the child keeps nothing of the parent but its sockets and two pipes, by one of which it tells what it counted and
by the other of which it learns that the parent is gone; the parent waits for nothing that a child does.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from cyrusext.runtime import descriptors, logging
from lmtp_router.tally import Snapshot, Tally

MAX_FRAME = 8 << 20
"""Longest snapshot in bytes: far more than a thousand backends take."""
HEADER = 4

Work = Callable[[list[socket.socket], int, int], int]
"""What a worker does with its sockets, where it writes its snapshots, a descriptor that ends with the parent; returns
its exit status."""

log = logging.get()


class _Heard(asyncio.Protocol):
    """Takes the frames of one worker: a 4-byte big-endian length and a Snapshot in msgpack."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= HEADER:
            end = HEADER + int.from_bytes(self._buffer[:HEADER])
            if len(self._buffer) < end:
                return
            self._process.tell(msgspec.msgpack.decode(self._buffer[HEADER:end], type=Snapshot))
            del self._buffer[:end]


class Process:
    """A worker that was forked; ``heard`` is when it last told something, on the loop's clock, which sets `news`."""

    def __init__(self, place: int, sockets: list[socket.socket], work: Work, life: int, news: asyncio.Event) -> None:
        self.place = place
        self.snapshot = Snapshot(Tally())
        self.ready = False
        self.retiring = False
        self.aborted = 0.0
        """When it was struck because it hung."""
        self._news = news
        self._loop = asyncio.get_running_loop()
        self.started = self.heard = self._loop.time()
        self._transport: asyncio.BaseTransport | None = None
        self._reader, writer = os.pipe()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _be_worker(place, sockets, work, writer, life)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(writer)

    async def listen(self) -> None:
        """Hear what it tells."""
        pipe = os.fdopen(self._reader, "rb", buffering=0)
        self._transport, _ = await self._loop.connect_read_pipe(lambda: _Heard(self), pipe)

    def tell(self, snapshot: Snapshot) -> None:
        """Take up what the worker told."""
        self.snapshot = snapshot
        self.heard = self._loop.time()
        self.ready = True
        self._news.set()

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def drain_pipe(self) -> None:
        """Take up what it told last; to be called when it is gone."""
        transport = self._transport
        if transport is None:
            return
        info: Any = transport.get_extra_info("pipe")
        protocol: Any = transport.get_protocol()
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(info.fileno(), 1 << 16):
                protocol.data_received(data)
        transport.close()


def _be_worker(place: int, sockets: list[socket.socket], work: Work, tell: int, life: int) -> None:
    """The child: never returns, for it stands on the stack of the parent's loop."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        asyncio._set_running_loop(None)
        descriptors.blank_others({0, 1, 2, tell, life, *(sock.fileno() for sock in sockets)})
        os.environ.pop("NOTIFY_SOCKET", None)
        os.environ.pop("WATCHDOG_USEC", None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # The parent ends what hangs with SIGABRT, and the stack tells where it hung.
        faulthandler.enable(sys.stderr, all_threads=True)
        code = work(sockets, tell, life)
    except BaseException as error:
        # Whatever it was: the child must not go on as a second parent.
        log.critical("lmtp.worker_failed", worker=place, error=error, exc_info=error)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)
