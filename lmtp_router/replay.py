"""A day's recipients, from the log of a Postfix, asked about one by one: what would bounce if the router had the mail?

Rule: each address is asked about once, and not faster than the rate; what was found out is kept in a file as it is
found, so that a run that is broken off goes on where it was.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from cyrusext.errors import DeliveryTemporary, InputError
from lmtp_router.probe import Accepts, Line, Probe
from lmtp_router.protocol import codec
from lmtp_router.protocol.types import Rcpt

AGENTS = ("lmtp", "local", "pipe", "virtual")
"""Postfix' programs that deliver here; `smtp` sends mail to others."""
LINES = 4
"""Addresses that are asked about at a time: a slow backend does not hold up the rest."""

_DELIVERY = re.compile(r"postfix[^/ ]*/(?:[^/ ]+/)?(\w+)\[\d+\]: .*?\bto=<([^>]*)>,.*?\bstatus=(\w+)")


class Finding(NamedTuple):
    """One address that was asked about."""

    address: str
    accepts: Accepts
    server: str
    says: str


class Recipients(NamedTuple):
    """What a log holds: messages for each address that got some, and how many deliveries had bounced even then."""

    messages: dict[str, int]
    bounced: int


def recipients_of(lines: Iterable[str], agents: Collection[str] = AGENTS) -> Recipients:
    """Return the recipients of deliveries by `agents`; those that bounced then are counted only."""
    messages: Counter[str] = Counter()
    bounced = 0
    for line in lines:
        match = _DELIVERY.search(line)
        if match is None or match[1] not in agents or not match[2]:
            continue
        if match[3] == "bounced":
            bounced += 1
        else:
            messages[match[2]] += 1
    return Recipients(dict(messages), bounced)


def read_log(path: Path, agents: Collection[str] = AGENTS) -> Recipients:
    """Return the recipients in a log, which may be packed by gzip.  Raises InputError."""
    try:
        with _opened(path) as file:
            return recipients_of(file, agents)
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: can not be read: {error}") from error


def _opened(path: Path) -> IO[str]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        return gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape")
    return path.open(encoding="utf-8", errors="surrogateescape")


class Notes:
    """What was found out, in a file of lines ``accepts<TAB>address<TAB>server<TAB>says``; without a path, nowhere."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self.known: dict[str, Finding] = {}
        """What a run before has found; not what it was told to ask again."""

    def __enter__(self) -> Notes:
        if self._path is not None:
            try:
                if self._path.exists():
                    self.known = {one.address: one for one in self._read() if one.accepts is not Accepts.LATER}
                self._file = self._path.open("a", encoding="utf-8", errors="surrogateescape", buffering=1)
            except OSError as error:
                raise InputError(f"{self._path}: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self) -> Iterator[Finding]:
        assert self._path is not None
        text = self._path.read_text("utf-8", errors="surrogateescape")
        # Its last line may be half of one.
        for number, line in enumerate(text.split("\n")[:-1], 1):
            fields = line.split("\t")
            try:
                yield Finding(fields[1], Accepts(fields[0]), fields[2], fields[3])
            except (IndexError, ValueError):
                raise InputError(f"{self._path}:{number}: no line of a replay's notes") from None

    def add(self, finding: Finding) -> None:
        if self._file is not None:
            fields = (finding.accepts.value, finding.address, finding.server, finding.says)
            self._file.write("\t".join(re.sub(r"[\t\r\n]", " ", field) for field in fields) + "\n")


async def replay(
    probe: Probe,
    addresses: Iterable[str],
    *,
    per_s: float,
    found: Callable[[Finding], None],
    stopping: asyncio.Event,
) -> None:
    """Ask about each of `addresses`, at most `per_s` a second, and tell what was found; end early when `stopping`."""
    loop = asyncio.get_running_loop()
    queue = iter(addresses)
    due = loop.time()

    async def ask_on() -> None:
        nonlocal due
        line = probe.line()
        try:
            while not stopping.is_set() and (address := next(queue, None)) is not None:
                due = max(due + 1 / per_s, loop.time())
                await asyncio.sleep(due - loop.time())
                if not stopping.is_set():
                    found(await judged(probe, address, line))
        finally:
            line.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(LINES):
            group.create_task(ask_on())


async def judged(probe: Probe, address: str, line: Line) -> Finding:
    """Ask about one address; what can not be found out now is for later."""
    rcpt = parsed(address)
    if rcpt is None:
        return Finding(address, Accepts.NO, "", "501 no address that LMTP takes")
    try:
        judgement = await probe.judge(rcpt, line)
    except DeliveryTemporary as error:
        return Finding(address, Accepts.LATER, "", str(error))
    return Finding(address, judgement.accepts, judgement.answer.server, judgement.reply)


def parsed(address: str) -> Rcpt | None:
    """Return the RCPT of an address as people write it, None for what is none."""
    command = codec.parse_command(b"RCPT TO:<%b>" % address.encode("utf-8", "surrogateescape"))
    return command if isinstance(command, Rcpt) else None
