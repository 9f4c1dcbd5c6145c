"""Fuzz the compiled FIND beside the uncompiled one: one case is a stream of commands and a way to cut it.

Rule, in one sentence: whatever is sent and however it is cut, the compiled way answers what the plain one answers.

    python -m fuzz.finds [--seed N] [--cases N]

Without ``--cases`` it runs until interrupted.  A failing case prints its seed; ``--seed N --cases 1`` repeats it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cyrusext.model import MAX_NAME, Flag, MailboxRecord, State
from cyrusext.mupdate._finds import Finds
from cyrusext.mupdate.connection import ServerConnection
from cyrusext.mupdate.types import (
    NEED_DATA,
    PAUSED,
    Authenticate,
    Find,
    GoAhead,
    Logout,
    No,
    Ok,
    ProtocolViolation,
    SaslCancelled,
    SaslResponse,
    Signal,
)
from cyrusext.store import Store

LONGEST = b"user." + b"n" * (MAX_NAME - 5)
NAMES = (
    b"user.a",
    b"user.a.b c",
    b"d.org!user.x",
    b"\xff\x01^",
    LONGEST,
    b"r",
    b"anywhere",
    b"gone",
    b"suspect",
    b"heavy",
    b'q"\\',
    b"back\\slash",
)
RECORDS = (
    *(MailboxRecord(name, State.ACTIVE, "be1", "default", b"a\tlrs\t") for name in NAMES[:5]),
    MailboxRecord(b"r", State.RESERVED, "be2", ""),
    MailboxRecord(b"anywhere", State.ACTIVE, "", "p"),
    MailboxRecord(b"gone", State.DELETED, "be1", "p"),
    MailboxRecord(b"suspect", State.ACTIVE, "be1", "p", b"", flags=Flag.SUSPECT),
    MailboxRecord(b"heavy", State.ACTIVE, "be1.example.org", "p", b"x" * 30_000),
    MailboxRecord(b'q"\\', State.ACTIVE, "be1", "p", b"\xe9\t"),
    MailboxRecord(b"back\\slash", State.ACTIVE, "be1", "p", b"\xe9\t"),
    MailboxRecord(b"replicated", State.ACTIVE, "", "p", b"a\tl\t"),
    MailboxRecord(b"renamed", State.RESERVED, "", ""),
)
ASKED = (
    *NAMES,
    b"replicated",
    b"renamed",
    b"absent",
    b"",
    b"nul\0",
    b"cr\r",
    b"\x1d\x1f",
    LONGEST + b"n",
    b"x" * 999,
    b"x" * 1500,
)
_TAGS = (b"F", b"a1.b-c", b"*", b"+", b"*a", b"t" * 128, b"t" * 129, b"(", b'"', b"\x7f", b"{1+}")
_WORDS = (b"FIND", b"find", b"FiNd", b"FINDS", b"FIN", b"NOOP", b"LIST", b"DELETE")
_GAPS = (b" ", b" ", b" ", b" ", b"  ", b"", b"\t")
_ENDS = (b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b" \r\n", b"\r\r\n")
_JUNK = (b"", b"\r\n", b"{", b"{5+}\r\n", b"F FIND {5", b"F", b"F FIND", b"\0", b"L LOGOUT\r\n", b"S UPDATE\r\n", b'"')


def string(source: random.Random, name: bytes) -> bytes:
    """`name` as some client may write it."""
    size = b"%d" % len(name)
    return source.choice(
        (
            b"{%b+}\r\n%b" % (size, name),
            b"{%b+}\r\n%b" % (size, name),
            b"{%b+}\r\n%b" % (size, name),
            b'"%b"' % name,
            b'"%b"' % name.replace(b"\\", b"\\\\").replace(b'"', b'\\"'),
            b"{%b}\r\n%b" % (size, name),
            b"{00%b+}\r\n%b" % (size, name),
            b"{%d+}\r\n%b" % (len(name) + source.choice((-1, 1)), name),
            b"{+}\r\n%b" % name,
            name,
        )
    )


def command(source: random.Random) -> bytes:
    if source.random() < 0.8:
        return b"F FIND {%d+}\r\n%b\r\n" % (len(name := source.choice(ASKED[:13])), name)
    if source.random() < 0.15:
        return source.choice(_JUNK)
    gap, end = source.choice(_GAPS), source.choice(_ENDS)
    name = string(source, source.choice(ASKED))
    return source.choice(_TAGS) + gap + source.choice(_WORDS) + source.choice(_GAPS) + name + end


def make(seed: int) -> list[bytes]:
    """Return the case of `seed`: the pieces that are received."""
    source = random.Random(seed)
    data = bytearray(b"".join(command(source) for _ in range(source.randint(1, 40))))
    if data and source.random() < 0.2:
        data[source.randrange(len(data))] = source.randrange(256)
    cuts = sorted(source.randint(0, len(data)) for _ in range(source.choice((0, 1, 5, 60))))
    return [bytes(data[start:end]) for start, end in itertools.pairwise((0, *cuts, len(data)))]


def open_store(place: Path) -> Store:
    """A store with `RECORDS`."""
    store = Store.open(place / "state", run_dir=place, map_size=1 << 26)
    with store.begin() as transaction:
        transaction.put_many(RECORDS)
    return store


def answer(connection: ServerConnection, store: Store) -> Iterable[bytes]:
    """Answer all that is there, as a session does; changes and lists are only acknowledged."""
    while not isinstance(event := connection.next_event(), Signal):
        match event:
            case ProtocolViolation(reply=reply) | GoAhead(reply=reply):
                yield reply
            case Find(tag=tag, name=name):
                record = store.get(name) if name else None
                if record is not None and record.state is not State.DELETED:
                    yield connection.send_records(tag, (record,))
                yield connection.send(Ok(tag, "Search completed"))
            case SaslResponse(tag=tag) | SaslCancelled(tag=tag):
                yield connection.send(No(tag, "no"))
            case Logout(tag=tag):
                yield connection.send(Ok(tag, "bye-bye"))
            case _:
                yield connection.send(Ok(event.tag, "yes"))
    assert event in (NEED_DATA, PAUSED)


def converse(pieces: list[bytes], store: Store, finds: Finds | None, limit: int = 1 << 16) -> tuple[bytes, int]:
    """Return what is answered to `pieces` and how many bytes of it `finds` wrote; without it, the plain way."""
    connection = ServerConnection(hostname="fuzz", version="0", mechanisms=["PLAIN"])
    connection.receive_data(b'in AUTHENTICATE "PLAIN" ""\r\n')
    event = connection.next_event()
    assert isinstance(event, Authenticate)
    connection.send(Ok(event.tag, "yes"))
    said: list[bytes] = []
    compiled = 0
    for piece in pieces:
        connection.receive_data(piece)
        more: bool | None = finds is None
        while finds is not None and (answered := connection.answer_finds(lambda framer: finds.answer(framer, limit))):
            answers, more = answered
            said.append(answers)
            compiled += len(answers)
            if more is not None:
                break
        if more:
            said += answer(connection, store)
    if finds is not None:
        said += answer(connection, store)  # nothing was left behind
    return b"".join(said), compiled


def check(pieces: list[bytes], store: Store, finds: Finds) -> int:
    """Run one case; returns how many bytes the compiled way answered.  Raises AssertionError where the two differ."""
    plain, _ = converse(pieces, store, None)
    compiled = 0
    for limit in (1 << 16, 1):
        said, count = converse(pieces, store, finds, limit)
        assert said == plain, f"compiled with limit {limit}: {said!r}\nplain: {plain!r}"
        compiled += count
    return compiled


def run(seed: int, cases: int | None) -> tuple[int, int]:
    """Run cases from `seed` on; returns how many ran and how many bytes were answered the compiled way."""
    done = compiled = 0
    with tempfile.TemporaryDirectory() as place, open_store(Path(place)) as store:
        finds = Finds(store.reader)
        for number in itertools.count(seed) if cases is None else range(seed, seed + cases):
            pieces = make(number)
            try:
                compiled += check(pieces, store, finds)
            except BaseException:
                print(f"case {number}: {pieces}", file=sys.stderr)
                raise
            done += 1
    return done, compiled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int)
    arguments = parser.parse_args()
    done, compiled = run(arguments.seed, arguments.cases)
    print(f"{done} cases, {compiled} bytes answered by compiled code")


if __name__ == "__main__":
    main()
