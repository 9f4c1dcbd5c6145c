"""The client of a node's control socket: requests to the node of this machine, one reply each, in order.

Rule: no call waits longer than its deadline, and a request whose reply did not come is reported as of unknown outcome,
never as failed (repeating it is harmless).  Frames are a 4-byte big-endian length and a msgpack map.
"""

from __future__ import annotations

import os
import pwd
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

import msgspec

from cyrusext import errors
from cyrusext.directory.batch import Applied, Wanted
from cyrusext.errors import CyrusExtError, NodeUnavailable

MAX_FRAME = 16 << 20
"""Longest frame in bytes, either way."""
MAX_BATCH_BYTES = 4 << 20
"""Most bytes of names and ACLs in one request: its reply repeats up to as much again."""


class _Fault(msgspec.Struct):
    code: str = ""
    message: str = "the node gave no reason"


class _Envelope(msgspec.Struct):
    ok: bool = False
    error: _Fault = msgspec.field(default_factory=_Fault)


class _ClaimReply(msgspec.Struct):
    taken_over: int = 0


class Deletes(msgspec.Struct, frozen=True):
    """Deletions that a follower holds back: how many, the first names, and the node that lacks these mailboxes."""

    count: int
    names: list[bytes]
    leader: str


class _StatusReply(msgspec.Struct):
    status: dict[str, Any]


_R = TypeVar("_R")
_HEADER = struct.Struct(">I")
_CODES: dict[str, type[CyrusExtError]] = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CyrusExtError)
}


class Daemon(NamedTuple):
    """Who is asked: its socket in run_dir, and how its command starts it."""

    name: str
    socket: str
    command: str


NODE = Daemon("node", "control", "cyrusext node")
ROUTER = Daemon("router", "router-control", "lmtp-router")


class ControlClient:
    """A connection to the node, or another `daemon`, whose run_dir is `run_dir`.

    Raises NodeUnavailable where none serves it, and its own error, by its code, where it refuses a request.
    """

    def __init__(self, run_dir: Path, *, timeout_s: float = 30.0, daemon: Daemon = NODE) -> None:
        self._path = run_dir / daemon.socket
        self._daemon = daemon
        self._timeout_s = timeout_s
        self._incoming = bytearray()
        self._outgoing: deque[memoryview] = deque()
        self._awaited = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(str(self._path))
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise NodeUnavailable(_why_unreachable(daemon, self._path, error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; replies still awaited are lost."""
        self._socket.close()

    def status(self) -> dict[str, Any]:
        """Return what the node says of itself."""
        self._submit({"op": "status"})
        return self._collect(_StatusReply).status

    def claim(self, server: str, seconds: float) -> int:
        """Let `server` take over for so long, 0 ends it; return what it took over in the window that was open."""
        self._submit({"op": "claim", "server": server, "seconds": float(seconds)})
        return self._collect(_ClaimReply).taken_over

    def deletes(self, *, accept: bool = False) -> Deletes:
        """Return the deletions that the node holds back; with `accept` it makes them."""
        self._submit({"op": "deletes", "accept": accept})
        return self._collect(Deletes)

    def refill(self, action: Literal["begin", "end"], *, force: bool = False) -> None:
        """Have the node begin or end a refill; raises RefillIncomplete where servers are missing."""
        self._submit({"op": "refill", "action": action, "force": force})
        self._collect(_Envelope)

    def apply(self, changes: Sequence[Wanted], *, force: bool = False, dry_run: bool = False) -> Applied:
        """Have the node make `changes` (at most `MAX_CHANGES`) in one transaction; return what came of it."""
        self.submit(changes, force=force, dry_run=dry_run)
        return self.collect()

    def submit(self, changes: Sequence[Wanted], *, force: bool = False, dry_run: bool = False) -> None:
        """Queue a batch without waiting for its reply, which the matching `collect` returns."""
        self._submit({"op": "apply", "changes": changes, "force": force, "dry_run": dry_run, "by": _who()})

    def collect(self) -> Applied:
        """Wait for the reply to the oldest batch that was submitted."""
        return self._collect(Applied)

    def _submit(self, request: dict[str, Any]) -> None:
        frame = self._encoder.encode(request)
        if len(frame) > MAX_FRAME:
            raise errors.LocalProtocolError(f"request of {len(frame)} bytes, at most {MAX_FRAME} are possible")
        self._outgoing.append(memoryview(_HEADER.pack(len(frame)) + frame))
        self._awaited += 1
        self._pump(time.monotonic(), until_reply=False)

    def _collect(self, kind: type[_R]) -> _R:
        if not self._awaited:
            raise errors.LocalProtocolError("no request is waiting for a reply")
        self._pump(time.monotonic() + self._timeout_s, until_reply=True)
        (length,) = _HEADER.unpack_from(self._incoming)
        frame = bytes(memoryview(self._incoming)[_HEADER.size : _HEADER.size + length])
        del self._incoming[: _HEADER.size + length]
        self._awaited -= 1
        try:
            envelope = msgspec.msgpack.decode(frame, type=_Envelope)
            if envelope.ok:
                return msgspec.msgpack.decode(frame, type=kind)
        except msgspec.MsgspecError as error:
            raise self._lost(f"sent a reply that can not be read ({error})") from error
        raise _CODES.get(envelope.error.code, CyrusExtError)(envelope.error.message)

    def _pump(self, deadline: float, *, until_reply: bool) -> None:
        """Send what is queued and read what comes: both at once, else two full socket buffers would wait for ever."""
        while not self._has_reply() if until_reply else bool(self._outgoing):
            left = deadline - time.monotonic()
            wanted = [self._socket] if self._outgoing else []
            readable, writable, _ = select.select([self._socket], wanted, [], max(0.0, left))
            if not readable and not writable:
                if until_reply:
                    raise self._lost(f"did not answer within {self._timeout_s:g} s")
                return
            try:
                if readable:
                    data = self._socket.recv(1 << 18)
                    if not data:
                        raise self._lost("closed the connection")
                    self._incoming += data
                if writable:
                    sent = self._socket.send(self._outgoing[0])
                    self._outgoing[0] = self._outgoing[0][sent:]
                    if not self._outgoing[0]:
                        self._outgoing.popleft()
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._lost(f"broke the connection ({error.strerror})") from error

    def _has_reply(self) -> bool:
        if len(self._incoming) < _HEADER.size:
            return False
        length: int = _HEADER.unpack_from(self._incoming)[0]
        if length > MAX_FRAME:
            raise self._lost(f"announced a reply of {length} bytes")
        return len(self._incoming) >= _HEADER.size + length

    def _lost(self, event: str) -> NodeUnavailable:
        self._socket.close()
        return NodeUnavailable(
            f"the {self._daemon.name} at {self._path} {event};"
            " whether it did what was asked is unknown, and asking again is harmless"
        )


def _why_unreachable(daemon: Daemon, path: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"no right to use {path}: become root or the user or group of the {daemon.name}"
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        start = f"start `{daemon.command}` with the same configuration, or give it with -c"
        return f"no {daemon.name} is running at {path}: {start}"
    return f"the {daemon.name} at {path} can not be reached: {error.strerror or error}"


def _who() -> str:
    """Who asks, for changed_by: the records' last writer."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"cli:{name}"
