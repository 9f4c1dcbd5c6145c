r"""Dialogue files: what a client says and a MUPDATE server answers, run against ours, the stock master, or memory.

Rule: one file, every server.  Where the stock master answers otherwise than ours, the file holds both answers in a
``quirk NAME`` block, and NAME is a member of cyrusext.mupdate.quirks.Quirk.

A file is a head of ``key: value`` lines, a blank line, then steps, one a line (``#`` begins a comment):

    open NAME           connect and read the banner; NAME is the connection that the following steps use
    open NAME banner    connect; the banner is left to S lines
    on NAME             go on with a connection that is open
    login               log the connection in
    close               close it
    deflate             both sides compress from here on (COMPRESS has had its OK)
    C: TEXT             send TEXT and CRLF           C> TEXT    send TEXT alone
    S: TEXT             the next line is TEXT        S: [EOF]   the server closed
    S~ REGEX            the next line matches        S? REGEX   it may match, else the next step gets it
    quirk NAME ... stock ... end      steps for ours, then steps for the stock master

Head: ``title`` (required), ``needs: empty`` (no record may be there), ``stock: crashes`` (the stock master dies of it),
``mode`` (``mupdate_config``, else standard; the client is then the server ``me.lab``).
Escapes in TEXT: \t \r \n \0 \xHH \\ (any other backslash stands for itself); a REGEX is left as it is.  ``$ID`` is a
word of 8 letters, new in each run, so that files may share a server; ``$PLAIN`` a correct PLAIN message in base64 and
``$PLAIN_SIZE`` its length, ``$PLAIN_AUTHZID`` and ``$PLAIN_AUTHZID_SIZE`` the same with an authorization name,
``$WRONG`` one with a wrong password; ``$HUGE(n)`` n letters x.
"""

from __future__ import annotations

import base64
import contextlib
import re
import secrets
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from cyrusext.directory.modes import Mode
from cyrusext.mupdate.quirks import Quirk

Flavour = Literal["ours", "stock"]
DIRECTORY = Path(__file__).parent
TIMEOUT_S = 10.0
"""How long an answer may take; the stock master waits 3 s before it refuses a login."""
_SIMPLE = ("open", "on", "login", "close", "deflate", "quirk", "stock", "end")
_LINE = ("C:", "C>", "S:", "S~", "S?")
_ESCAPE = re.compile(r"\\(t|r|n|0|\\|x[0-9A-Fa-f]{2})")
_CONTROLS = {"t": "\t", "r": "\r", "n": "\n", "0": "\0", "\\": "\\"}


class DialogueError(Exception):
    """The file itself is wrong."""


class Mismatch(AssertionError):
    """The server answered something else."""


class Step(NamedTuple):
    """One line of a file; `flavour` is None where it is for every server."""

    number: int
    verb: str
    text: str
    flavour: Flavour | None
    quirk: str


class Dialogue(NamedTuple):
    """A file, read and checked."""

    path: Path
    title: str
    needs_empty: bool
    crashes_stock: bool
    steps: tuple[Step, ...]
    mode: Mode = Mode.STANDARD

    @property
    def quirks(self) -> frozenset[str]:
        """Names of the quirks that the file shows."""
        return frozenset(step.quirk for step in self.steps if step.quirk)


class Wire(Protocol):
    """One connection to a server."""

    def send(self, data: bytes) -> None: ...
    def line(self, deadline: float) -> bytes | None:
        """Return the next line with its end, None where the server closed; raises TimeoutError."""
        ...

    def deflate(self) -> None:
        """Compress what is sent and inflate what comes."""
        ...

    def close(self) -> None: ...


class Deflater:
    """Raw deflate by hand: what a client of COMPRESS does."""

    def __init__(self) -> None:
        self._out = zlib.compressobj(wbits=-15)
        self._in = zlib.decompressobj(wbits=-15)

    def deflate(self, data: bytes) -> bytes:
        return self._out.compress(data) + self._out.flush(zlib.Z_SYNC_FLUSH)

    def inflate(self, data: bytes) -> bytes:
        return self._in.decompress(data)


class TcpWire:
    """A connection to a real server."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=TIMEOUT_S)
        self._buffer = b""
        self._deflater: Deflater | None = None

    def deflate(self) -> None:
        self._deflater = Deflater()
        self._buffer = self._deflater.inflate(self._buffer)

    def send(self, data: bytes) -> None:
        data = self._deflater.deflate(data) if self._deflater else data
        # Where the server closed, what it said before that is still to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def line(self, deadline: float) -> bytes | None:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                if self._buffer:
                    raise Mismatch(f"the server closed in the middle of a line: {self._buffer!r}")
                return None
            self._buffer += self._deflater.inflate(data) if self._deflater else data
        line, end, self._buffer = self._buffer.partition(b"\n")
        return line + end

    def close(self) -> None:
        self._socket.close()


def load(path: Path) -> Dialogue:
    """Read a dialogue file; raises DialogueError where it is not one."""
    head, _, body = path.read_text(encoding="utf-8").partition("\n\n")
    keys: dict[str, str] = {}
    for line in head.splitlines():
        key, colon, value = line.partition(":")
        if not colon or key not in ("title", "needs", "stock", "mode"):
            raise DialogueError(f"{path.name}: {line!r} is no line of a head")
        keys[key] = value.strip()
    if not keys.get("title") or keys.get("needs", "empty") != "empty" or keys.get("stock", "crashes") != "crashes":
        raise DialogueError(f"{path.name}: the head is wrong: {keys}")
    try:
        mode = Mode(keys.get("mode", "standard"))
    except ValueError as error:
        raise DialogueError(f"{path.name}: {error}") from None
    steps = tuple(_steps(path, body, head.count("\n") + 3))
    if not any(step.verb in ("S:", "S~") for step in steps):
        raise DialogueError(f"{path.name}: expects nothing")
    return Dialogue(path, keys["title"], "needs" in keys, "stock" in keys, steps, mode)


def _steps(path: Path, body: str, first: int) -> Iterator[Step]:
    flavour: Flavour | None = None
    quirk = ""
    for number, line in enumerate(body.splitlines(), first):
        if not line.strip() or line.startswith("#"):
            continue
        verb, _, text = line.partition(" ")
        if verb not in _SIMPLE and verb not in _LINE:
            raise DialogueError(f"{path.name}:{number}: {line!r} is no step")
        if verb == "quirk":
            if quirk or text not in Quirk.__members__:
                raise DialogueError(f"{path.name}:{number}: {text!r} is no quirk, or stands inside one")
            flavour, quirk = "ours", text
        elif verb == "stock":
            if flavour != "ours":
                raise DialogueError(f"{path.name}:{number}: stock outside of a quirk")
            flavour = "stock"
        elif verb == "end":
            if flavour != "stock":
                raise DialogueError(f"{path.name}:{number}: end without quirk and stock")
            flavour, quirk = None, ""
        else:
            yield Step(number, verb, text, flavour, quirk)
    if quirk:
        raise DialogueError(f"{path.name}: quirk {quirk} has no end")


def dialogues(mode: Mode | None = None) -> list[Dialogue]:
    """Return all dialogue files (of `mode`), in the order of their names."""
    found = [load(path) for path in sorted(DIRECTORY.glob("*.txt"))]
    return [dialogue for dialogue in found if mode in (None, dialogue.mode)]


def run_dialogue(
    path: Path | str,
    host: str,
    port: int,
    flavour: Flavour = "ours",
    *,
    user: str = "murder",
    password: str = "murderpw",
) -> None:
    """Run one file against the server at `host`:`port`.

    Raises Mismatch where the server answers something else, naming file and line.  A name without directory is one of
    the files beside this module.
    """
    dialogue = load(DIRECTORY / path)
    run_on(dialogue, lambda: TcpWire(host, port), flavour, user=user, password=password)


def run_on(
    dialogue: Dialogue,
    connect: Callable[[], Wire],
    flavour: Flavour,
    *,
    user: str = "murder",
    password: str = "murderpw",
) -> int:
    """Run `dialogue` on connections that `connect` makes; returns how many lines of the server's were checked."""
    run = _Run(dialogue, connect, flavour, user, password)
    try:
        if dialogue.needs_empty:
            run.check_empty()
        for step in dialogue.steps:
            if step.flavour in (None, flavour):
                run.step(step)
        run.finish()
    finally:
        run.close()
    return run.checked


class _Run:
    def __init__(
        self, dialogue: Dialogue, connect: Callable[[], Wire], flavour: Flavour, user: str, password: str
    ) -> None:
        self._dialogue = dialogue
        self._connect = connect
        self._flavour = flavour
        self._wires: dict[str, Wire] = {}
        self._peeked: dict[str, bytes | None] = {}
        self._name = ""
        self.checked = 0
        plain = _plain("", user, password)
        self._words: Mapping[str, str] = {
            "$PLAIN_AUTHZID_SIZE": str(len(_plain(user, user, password))),
            "$PLAIN_AUTHZID": _plain(user, user, password),
            "$PLAIN_SIZE": str(len(plain)),
            "$PLAIN": plain,
            "$WRONG": _plain("", user, password + "-not"),
            "$ID": "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(8)),
        }

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()

    def check_empty(self) -> None:
        self.open("(check)", banner=True)
        self.login()
        self._wire.send(b"L LIST\r\n")
        if (line := self._line()) is None or not line.startswith(b"L OK"):
            raise Mismatch(f"{self._dialogue.path.name} needs an empty server, LIST brings {line!r}")
        self._wire.close()
        del self._wires["(check)"]

    @property
    def _wire(self) -> Wire:
        return self._wires[self._name]

    def open(self, name: str, *, banner: bool) -> None:
        self._name = name
        self._wires[name] = self._connect()
        while banner:
            line = self._line()
            if line is None:
                raise Mismatch("the server closed before its banner's end")
            banner = not line.startswith(b"* OK")

    def login(self) -> None:
        self._wire.send(f'A01 AUTHENTICATE "PLAIN" "{self._words["$PLAIN"]}"\r\n'.encode())
        if (line := self._line()) is None or not line.startswith(b"A01 OK"):
            raise Mismatch(f"login: {line!r}")

    def _line(self) -> bytes | None:
        if self._name in self._peeked:
            return self._peeked.pop(self._name)
        return self._wire.line(time.monotonic() + TIMEOUT_S)

    def step(self, step: Step) -> None:
        try:
            self._step(step)
        except TimeoutError:
            raise Mismatch(self._said(step, "nothing")) from None
        except Mismatch as error:
            raise Mismatch(str(error) if ": wanted" in str(error) else self._said(step, str(error))) from None

    def _said(self, step: Step, said: str) -> str:
        place = f"{self._dialogue.path.name}:{step.number} ({self._flavour}, connection {self._name})"
        return f"{place}: wanted {step.verb} {step.text}\ngot {said}"

    def _step(self, step: Step) -> None:
        match step.verb:
            case "open":
                name, _, mode = step.text.partition(" ")
                self.open(name, banner=mode != "banner")
            case "on":
                self._name = step.text
                assert self._name in self._wires, f"{self._dialogue.path.name}: {step.text} is not open"
            case "login":
                self.login()
            case "close":
                self._wires.pop(self._name).close()
                self._peeked.pop(self._name, None)
            case "deflate":
                self._wire.deflate()
            case "C:":
                self._wire.send(_bytes(self._fill(step.text)) + b"\r\n")
            case "C>":
                self._wire.send(_bytes(self._fill(step.text)))
            case _:
                self._expect(step)

    def _fill(self, text: str) -> str:
        for word, value in self._words.items():
            text = text.replace(word, value)
        return re.sub(r"\$HUGE\((\d+)\)", lambda found: "x" * int(found[1]), text)

    def _expect(self, step: Step) -> None:
        line = self._line()
        if step.text == "[EOF]":
            if line is not None:
                raise Mismatch(self._said(step, repr(line)))
            self._peeked[self._name] = None
            self.checked += 1
            return
        text = self._fill(step.text)
        if step.verb == "S:":
            fits = line == _bytes(text) + b"\r\n"
        else:
            fits = line is not None and re.fullmatch(text.encode() + b"\r\n", line) is not None
        if fits:
            self.checked += 1
        elif step.verb == "S?":
            self._peeked[self._name] = line
        else:
            raise Mismatch(self._said(step, "the end" if line is None else repr(line)))

    def finish(self) -> None:
        """A line that no step asked for is a mismatch too, if it is already here."""
        for name, line in self._peeked.items():
            if line is not None:
                raise Mismatch(f"{self._dialogue.path.name}: connection {name}: nobody asked for {line!r}")


def _plain(authzid: str, user: str, password: str) -> str:
    return base64.b64encode(f"{authzid}\0{user}\0{password}".encode()).decode()


def _bytes(text: str) -> bytes:
    def control(found: re.Match[str]) -> str:
        code = found[1]
        return chr(int(code[1:], 16)) if code[0] == "x" else _CONTROLS[code]

    # Latin-1 would mangle what stands in the file in UTF-8; \xHH gives single bytes.
    out = b""
    position = 0
    for found in _ESCAPE.finditer(text):
        out += text[position : found.start()].encode() + control(found).encode("latin-1")
        position = found.end()
    return out + text[position:].encode()
