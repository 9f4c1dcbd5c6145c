"""The control socket: requests of this machine's operator, one reply each, in order.

Rule: a frame is a 4-byte big-endian length (at most 16 MiB) and a msgpack map; who may connect is decided by the mode
of the socket (0660) and its directory.  A client that sends rubbish loses its connection and disturbs nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from cyrusext.errors import CyrusExtError, RemoteProtocolError
from cyrusext.net import address
from cyrusext.runtime import logging

MAX_FRAME = 16 << 20
"""Longest frame in bytes, either way."""
FRAME_S = 30.0
"""How long a frame that has begun may take, either way, in seconds."""
MAX_CONNECTIONS = 64

Handler = Callable[[bytes], Awaitable[object]]
"""Takes a request's msgpack and returns what to encode as the reply; a CyrusExtError becomes an error reply."""

_HEADER = struct.Struct(">I")

log = logging.get()


def error_reply(code: str, message: str) -> dict[str, object]:
    return {"ok": False, "error": {"code": code, "message": message}}


class ControlServer:
    """Serves `handler` at `path`."""

    name = "control"

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path, self._handler = path, handler
        self._tasks: set[asyncio.Task[None]] = set()
        self._encoder = msgspec.msgpack.Encoder()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        (sock,) = address.bind(address.UnixAddress(str(self._path)), mode=0o660)
        self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=1 << 20)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if len(self._tasks) > MAX_CONNECTIONS:
                raise RemoteProtocolError("too many control connections", fatal=True)
            while frame := await self._read(reader):
                await self._reply(writer, await self._answer(frame))
        except RemoteProtocolError as error:
            with contextlib.suppress(ConnectionError, TimeoutError):
                await self._reply(writer, error_reply(error.code, error.public))
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or we stop
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """Return the next frame; empty at the end."""
        header = await reader.read(1)
        if not header:
            return b""
        async with asyncio.timeout(FRAME_S):
            header += await reader.readexactly(3)
            (length,) = _HEADER.unpack(header)
            if not 0 < length <= MAX_FRAME:
                raise RemoteProtocolError(f"a frame of {length} bytes, expected 1 to {MAX_FRAME}", fatal=True)
            return await reader.readexactly(length)

    async def _answer(self, frame: bytes) -> object:
        try:
            return await self._handler(frame)
        except msgspec.MsgspecError as error:
            return error_reply(RemoteProtocolError.code, f"not a request: {error}")
        except CyrusExtError as error:
            return error_reply(error.code, str(error))
        except Exception as error:
            log.error("control.failed", error=error, exc_info=error)
            return error_reply("error", "internal error, see the node's log")

    async def _reply(self, writer: asyncio.StreamWriter, reply: object) -> None:
        frame = self._encoder.encode(reply)
        if len(frame) > MAX_FRAME:
            frame = self._encoder.encode(error_reply("error", "the reply would be too long; send smaller batches"))
        writer.write(_HEADER.pack(len(frame)) + frame)
        async with asyncio.timeout(FRAME_S):
            await writer.drain()
