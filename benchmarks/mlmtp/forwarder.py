"""The yardstick: a byte relay on uvloop, one connection to one server for each client, nothing parsed.

    python forwarder.py ADDRESS:PORT ADDRESS:PORT      listen at the first, forward to the second

Rule: it does what no proxy can leave out and nothing else; a side that does not read stops the other from being read.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop


class Side(asyncio.Protocol):
    """One of the two connections; gives what it reads to the other."""

    def __init__(self, other: Any = None) -> None:
        self.transport: Any = None
        self.other = other
        """The other one's transport, None until it is connected."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.other.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class Client(Side):
    """The accepted one: not read before there is somebody to give it to."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__()
        self._target = target
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self.other, _ = await loop.create_connection(lambda: Side(self.transport), *self._target)
        except OSError:
            self.transport.close()
            return
        if self.transport.is_closing():
            self.other.close()
        else:
            self.transport.resume_reading()


def place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def serve(listen: tuple[str, int], target: tuple[str, int]) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Client(target), *listen, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(place(sys.argv[1]), place(sys.argv[2])))
