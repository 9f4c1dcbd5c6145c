"""A backend for the soak: says 250 for a message only when its number is in a file, and may be killed at any moment.

    python -m tests.faults.soak_sink PORT FILE

Rule: one ``write`` to the file for each recipient, before the reply to it: what survives a SIGKILL is at least what was
answered.  It speaks LMTP as Cyrus does, one reply for each recipient.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from typing import cast

import uvloop

_NUMBER = re.compile(rb"^Subject: soak-(\d+)\r$", re.MULTILINE)


class Sink(asyncio.Protocol):
    """One connection; the part of the message that carries its number is kept, the rest is counted."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._buffer = b""
        self._rcpts: list[bytes] = []
        self._body: bytes | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        self._transport.write(b"220 sink LMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._step():
            pass

    def _step(self) -> bool:
        assert self._transport is not None
        if self._body is not None:
            end = (b"\r\n" + self._buffer).find(b"\r\n.\r\n")
            if end < 0:
                return False
            number = _NUMBER.search(self._buffer)
            assert number is not None
            for rcpt in self._rcpts:
                os.write(self._file, b"%b %b\n" % (number[1], rcpt))
                self._transport.write(b"250 2.1.5 %b kept\r\n" % rcpt)
            self._buffer, self._body = self._buffer[end + 3 :], None
            return True
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return False
        self._buffer = rest
        verb = line[:4].upper()
        if verb == b"LHLO":
            self._transport.write(b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n")
        elif verb == b"RCPT":
            self._rcpts.append(line[9:].partition(b"@")[0])
            self._transport.write(b"250 2.1.5 ok\r\n")
        elif verb == b"DATA":
            self._body = b""
            self._transport.write(b"354 go\r\n")
        elif verb == b"QUIT":
            self._transport.write(b"221 bye\r\n")
            self._transport.close()
            return False
        else:
            self._rcpts = []
            self._transport.write(b"250 ok\r\n")
        return True


async def serve(port: int, path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    server = await asyncio.get_running_loop().create_server(lambda: Sink(file), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
