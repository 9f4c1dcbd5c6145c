"""A MUPDATE client for tests: RFC 3656 by hand, with nothing of the code under test in it.

Rule: it sends what it is told to and shows what comes back; it never helps a server.
"""

from __future__ import annotations

import base64
import re
import socket
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from tests.harness.waiting import NeverHappened

PORT = 3905


class Line(NamedTuple):
    """One response: its words as they are, quoted strings and literals unwrapped."""

    tag: str
    verb: str
    arguments: tuple[bytes, ...]

    @property
    def text(self) -> str:
        return b" ".join(self.arguments).decode(errors="replace")


class Entry(NamedTuple):
    """What MAILBOX or RESERVE said of a name; `acl` is None for RESERVE."""

    name: bytes
    location: bytes
    acl: bytes | None

    @property
    def server(self) -> str:
        return self.location.partition(b"!")[0].decode()


class Mupdate:
    """One connection, logged in unless `user` is empty."""

    def __init__(self, address: str, port: int = PORT, *, user: str = "murder", password: str = "murderpw") -> None:
        self._socket = socket.create_connection((address, port), timeout=10)
        self._buffer = b""
        self._tags = 0
        self.banner: list[bytes] = []
        try:
            self._greet(user, password)
        except BaseException:
            self._socket.close()
            raise

    def _greet(self, user: str, password: str) -> None:
        while not (self.banner and self.banner[-1].startswith(b"* OK")):
            self.banner.append(self._read_line(10))
        if user:
            secret = base64.b64encode(f"\0{user}\0{password}".encode())
            answer = self.command(b'AUTHENTICATE "PLAIN"', secret)[-1]
            assert answer.verb == "OK", answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, raw: bytes) -> None:
        self._socket.sendall(raw)

    def command(self, verb: bytes, *arguments: bytes, timeout_s: float = 10.0) -> list[Line]:
        """Send a command with literal arguments; returns all responses up to the tagged one."""
        self._tags += 1
        tag = f"T{self._tags}"
        self.send(tag.encode() + b" " + b" ".join([verb, *map(literal, arguments)]) + b"\r\n")
        lines = [self.receive(timeout_s)]
        while lines[-1].tag != tag or lines[-1].verb not in ("OK", "NO", "BAD", "BYE"):
            lines.append(self.receive(timeout_s))
        return lines

    def ok(self, verb: bytes, *arguments: bytes) -> list[Line]:
        lines = self.command(verb, *arguments)
        assert lines[-1].verb == "OK", lines[-1]
        return lines[:-1]

    def find(self, name: bytes) -> Entry | None:
        lines = self.ok(b"FIND", name)
        return _entry(lines[0]) if lines else None

    def list(self, prefix: bytes | None = None) -> list[Entry]:
        return [_entry(line) for line in self.ok(b"LIST", *([] if prefix is None else [prefix]))]

    def receive(self, timeout_s: float = 10.0) -> Line:
        """Return the next response; raises NeverHappened, or ConnectionError at the end."""
        line = self._read_line(timeout_s)
        words: list[bytes] = []
        while True:
            match = re.search(rb"\{(\d+)\+?\}$", line)
            head = line[: match.start()] if match else line
            words += [quoted or bare for quoted, bare in re.findall(rb'"((?:[^"\\]|\\.)*)"|(\S+)', head)]
            if not match:
                break
            words.append(self._read_exactly(int(match[1]), timeout_s))
            line = self._read_line(timeout_s)
        tag, verb, *rest = [*words, b"", b""]
        return Line(tag.decode(), verb.decode(), tuple(rest[: len(words) - 2]))

    def _read_line(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            self._fill(deadline)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def _read_exactly(self, count: int, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while len(self._buffer) < count:
            self._fill(deadline)
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _fill(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise NeverHappened("the MUPDATE server says nothing")
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise NeverHappened("the MUPDATE server says nothing") from None
        if not data:
            raise ConnectionError("the MUPDATE server closed the connection")
        self._buffer += data


class UpdateStream(Mupdate):
    """A connection in UPDATE: what the server told so far, as a mirror and as a history."""

    def __init__(self, address: str, port: int = PORT, *, servers: tuple[bytes, ...] = ()) -> None:
        super().__init__(address, port)
        self.mirror: dict[bytes, Entry] = {}
        self.history: list[Line] = []
        for line in self.ok(b"UPDATE", *servers):
            self._apply(line)
        self.first = list(self.history)

    def wait_for(self, condition: Callable[[dict[bytes, Entry]], object], what: str, timeout_s: float = 10.0) -> None:
        """Read on until the mirror satisfies `condition`; raises NeverHappened naming `what`."""
        deadline = time.monotonic() + timeout_s
        while not condition(self.mirror):
            left = deadline - time.monotonic()
            try:
                self._apply(self.receive(max(left, 0.0)))
            except NeverHappened:
                raise NeverHappened(f"not within {timeout_s:g} s on the UPDATE stream: {what}") from None

    def barrier(self) -> None:
        """NOOP: everything that was acknowledged before has been sent when its OK is here."""
        for line in self.ok(b"NOOP"):
            self._apply(line)

    def _apply(self, line: Line) -> None:
        self.history.append(line)
        if line.verb in ("MAILBOX", "RESERVE"):
            entry = _entry(line)
            self.mirror[entry.name] = entry
        elif line.verb == "DELETE":
            self.mirror.pop(line.arguments[0], None)


def literal(value: bytes) -> bytes:
    return b"{%d+}\r\n%s" % (len(value), value)


def _entry(line: Line) -> Entry:
    name, location, *acl = line.arguments
    return Entry(name, location, acl[0] if line.verb == "MAILBOX" and acl else None)
