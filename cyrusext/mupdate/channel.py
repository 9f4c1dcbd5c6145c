"""The asyncio side of one connection: bytes in and out, TLS and compression on their way, back-pressure both ways.

Rule: nothing is read from a client that does not take its replies, and one that does not for long is cut off.
"""

from __future__ import annotations

import asyncio
from abc import ABC

from cyrusext.model import MailboxRecord
from cyrusext.mupdate.service import Service
from cyrusext.mupdate.state import LOGGED_OUT
from cyrusext.mupdate.types import Reply
from cyrusext.net.sasl import Proved
from cyrusext.runtime import logging
from cyrusext.wire.deflate import Deflate

log = logging.get()

WRITE_AHEAD = 64 << 10
"""Replies collected before they are handed to the transport, in bytes."""
READ_AHEAD = 128 << 10
"""Bytes read and not yet looked at before reading pauses."""


class Channel(asyncio.Protocol, ABC):
    """What carries a session, on a `transport` that is connected to the client at `host`."""

    def __init__(self, service: Service, transport: asyncio.Transport, host: str, peer: str) -> None:
        self._service = service
        self._transport = transport
        self.host = host
        """The client's address; empty on a UNIX socket."""
        self.peer = peer
        self._connection = service.new_connection()
        self._out: list[bytes] = []
        self._out_size = 0
        self._reading = True
        self._ended = False
        self._received = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._proved: Proved | None = None
        self._handshaking = False
        self._deflate: Deflate | None = None
        self._cut: asyncio.TimerHandle | None = None
        self.user = ""

    def reconfigure(self, service: Service) -> None:
        """Go by other settings from now on."""
        self._service = service

    # Reading.

    def answered_at_once(self) -> bool:
        """Whether what has come needs nothing but what was done about it just now."""
        return False

    def data_received(self, data: bytes) -> None:
        if self._deflate is None:
            self._connection.receive_data(data)
            at_once = self.answered_at_once()
            ahead = self._connection.buffered
        else:
            at_once = False
            self._deflate.feed(data)
            ahead = self._deflate.waiting
        if self._reading and ahead > READ_AHEAD:
            self._reading = False
            self._transport.pause_reading()
        if not at_once:
            self._received.set()

    def eof_received(self) -> bool:
        self._ended = True
        self._received.set()
        return self._proved is None  # what came before the end still gets its answer; TLS ends both ways at once

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def read_on(self) -> None:
        """Take more from the client; `_received` tells when something has come."""
        self._received.clear()
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    # Writing.

    def send(self, reply: Reply) -> None:
        """Collect `reply` for the client; `flush` sends what is collected."""
        self._write(self._connection.send(reply))

    def send_records(self, tag: bytes, records: list[MailboxRecord]) -> None:
        """Send the lines that report `records`; once logged out, do nothing."""
        if records and self._connection.state is not LOGGED_OUT:
            self._write(self._connection.send_records(tag, records))
            self.flush()

    def send_lines(self, lines: bytes) -> None:
        """Send encoded lines; once logged out, do nothing."""
        if self._connection.state is not LOGGED_OUT:
            self._write(lines)
            self.flush()

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        self._out_size += len(data)
        if self._out_size > WRITE_AHEAD:
            self.flush()

    def flush(self) -> None:
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            if not self._transport.is_closing():
                self._transport.write(data if self._deflate is None else self._deflate.compress(data))

    async def drain(self) -> None:
        """Send what is collected and wait until the client takes it.

        Raises ConnectionAbortedError when that takes too long; the client is cut off then.
        """
        self.flush()
        if self._writable.is_set():
            return
        try:
            await asyncio.wait_for(self._writable.wait(), self._service.bounds.slow_reader_s)
        except TimeoutError:
            self._service.peer_log.warning("mupdate.too_slow", peer=self.peer, user=self.user)
            self._transport.abort()
            raise ConnectionAbortedError("the client does not take its replies") from None

    def _close(self) -> None:
        self.flush()
        self._transport.close()
        self._cut = asyncio.get_running_loop().call_later(self._service.bounds.close_s, self._transport.abort)

    def stop_closing(self) -> None:
        """The connection is gone: there is nothing left to cut off."""
        if self._cut is not None:
            self._cut.cancel()

    # Between the protocol and the transport.

    async def secure(self) -> None:
        """Send what is collected, then go on under TLS; raises ConnectionError where the handshake fails."""
        assert self._service.tls is not None
        self.flush()
        bounds = self._service.bounds
        self._handshaking = True
        try:
            secured = await self._service.tls.begin(self._transport, self, bounds.handshake_s, bounds.close_s)
        except ConnectionError as error:
            self._service.peer_log.info("mupdate.tls_failed", peer=self.peer, reason=error)
            raise
        self._transport, self._handshaking, self._reading = secured.transport, False, True
        self._proved = Proved(secured.identity, secured.bits)
        log.debug("mupdate.tls", peer=self.peer, identity=secured.identity, cipher=secured.cipher)

    def deflate(self) -> None:
        """Send what is collected, then go on compressed both ways (RFC 4978)."""
        self.flush()
        self._deflate = Deflate()

    @property
    def inflatable(self) -> bool:
        """Compressed bytes have come that were not looked at."""
        return self._deflate is not None and self._deflate.pending

    def inflate(self) -> None:
        """Give the protocol the next piece of them; raises RemoteProtocolError where they are no such data."""
        assert self._deflate is not None
        self._connection.receive_data(self._deflate.take(READ_AHEAD))
