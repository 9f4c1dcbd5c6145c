"""Fuzz the framer and what stands on it: one case is a stream of bytes and a way to cut it.

Rule, in one sentence: every stream gives messages, refusals or violation events, the same however it is cut, and never
another exception, nor more memory than its limits and one chunk.

    python -m fuzz.framer [--seed N] [--cases N]

Without ``--cases`` it runs until interrupted.  A failing case prints its seed; ``--seed N --cases 1`` repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import sys
from typing import NamedTuple

from cyrusext.errors import RemoteProtocolError
from cyrusext.mupdate.connection import ClientConnection, ServerConnection
from cyrusext.mupdate.types import (
    NEED_DATA,
    PAUSED,
    Authenticate,
    Challenge,
    Logout,
    No,
    Ok,
    ProtocolViolation,
    SaslCancelled,
    SaslResponse,
    Starttls,
    Update,
)
from cyrusext.wire.framer import Framer, Limits, Poisoned
from cyrusext.wire.sasl import Secret
from cyrusext.wire.tokens import tokenize

LIMITS = Limits(line=80, literal=60, message=150, literals=5, drain=300)
_TAGS_AND_ENDS = (b"a1 ", b"A01 ", b"* ", b"+ ", b" ", b"\r\n", b"\r\n", b"\r\n", b"\n")
_MARKS = (b"\r", b"\0", b"\xff", b'"', b"\\", b"=", b"{", b"}", b"{+}", b"x" * 30)
_VERBS = (b"AUTHENTICATE ", b"FIND ", b"LIST", b"UPDATE", b"NOOP", b"RESERVE ", b"ACTIVATE ", b"DELETE ", b"STARTTLS")
_ANSWERS = (b"MAILBOX ", b'OK "x"', b"NO x", b"BAD ")
_STRINGS = (
    b'"PLAIN" ',
    b"AG11cmRlcgBtdXJkZXJwdw==",
    b'"user.a" ',
    b'"be1!d" ',
    b" {0+}\r\n",
    b"{61+}\r\n",
    b"{61}\r\n",
)
_LITERALS = (b"{3+}\r\nabc", b"{3}\r\nabc", b"{6+}\r\nLOGOUT")
_LINES = (
    b'a1 OK "x"\r\n',
    b'a1 FIND "user.a"\r\n',
    b"a3 FIND {6+}\r\nuser.a\r\n",
    b"A02 NOOP\r\n",
    b'A01 AUTHENTICATE "PLAIN"\r\n',
)
WORDS = (*_LINES, *_TAGS_AND_ENDS, *_MARKS, *_VERBS, *_ANSWERS, *_STRINGS, *_LITERALS)
ENDINGS = (b"{5000+}\r\n", b"{99999999999999999999+}\r\n", b"x" * 90, b"a1 LOGOUT\r\n", b"* BYE x\r\n")
"""What ends a stream early: rare, or little else would be seen."""


class Case(NamedTuple):
    """A stream and where it is cut."""

    data: bytes
    cuts: tuple[int, ...]

    def chunks(self) -> list[bytes]:
        edges = [0, *self.cuts, len(self.data)]
        return [self.data[start:end] for start, end in itertools.pairwise(edges)]


def make(seed: int) -> Case:
    """Return the case of `seed`."""
    source = random.Random(seed)
    parts = []
    for _ in range(source.randint(1, 60)):
        chance = source.random()
        if chance < 0.95:
            parts.append(source.choice(WORDS))
        elif chance < 0.99:
            parts.append(source.randbytes(source.randint(1, 20)))
        else:
            parts.append(source.choice(ENDINGS))
    data = b"".join(parts)
    cuts = sorted(source.randint(0, len(data)) for _ in range(source.randint(0, 30)))
    return Case(data, tuple(cuts))


def frame(chunks: list[bytes]) -> list[object]:
    """All that a framer says to `chunks`."""
    framer = Framer(LIMITS)
    out: list[object] = []
    for chunk in chunks:
        framer.feed(chunk)
        while (event := framer.next_message()) is not None:
            out.append(event)
            if isinstance(event, tuple) and not isinstance(event, Poisoned):
                assert sum(map(len, event)) <= LIMITS.message
                with contextlib.suppress(RemoteProtocolError):
                    tokenize(event)
        assert framer.buffered <= max(LIMITS.line + 1, LIMITS.literal) + len(chunk), "memory is not bounded"
    return out


def serve(chunks: list[bytes], login: bool = False) -> list[object]:
    """All events of a server connection that says yes to everything but STARTTLS."""
    server = ServerConnection(hostname="fuzz", version="0", mechanisms=["PLAIN"], starttls=True, limits=LIMITS)
    out: list[object] = []
    if login:
        chunks = [b'in AUTHENTICATE "PLAIN" ""\r\n', *chunks]
    for chunk in chunks:
        server.receive_data(chunk)
        while (event := server.next_event()) not in (NEED_DATA, PAUSED):
            out.append(event)
            match event:
                case ProtocolViolation(reply=reply):
                    assert reply.endswith(b"\r\n")
                case Authenticate(tag=tag, initial=None):
                    server.send(Challenge(Secret(b"")))
                case SaslCancelled(tag=tag):
                    server.send(No(tag, "no"))
                case Authenticate(tag=tag) | SaslResponse(tag=tag) | Update(tag=tag) | Logout(tag=tag):
                    server.send(Ok(tag, "yes"))
                case Starttls(tag=tag):
                    # What is dropped here depends on the cut, as it must: so refuse.
                    server.send(No(tag, "not now"))
    return out


def serve_user(chunks: list[bytes]) -> list[object]:
    """The same after a login."""
    return serve(chunks, login=True)


def listen(chunks: list[bytes]) -> list[object]:
    """All events of a client connection up to the first that is not MUPDATE."""
    client = ClientConnection(limits=LIMITS)
    client.receive_data(b'* OK MUPDATE "a" "b" "c" "d"\r\n')
    client.next_event()
    client.send(Authenticate(b"a1", "PLAIN"))
    out: list[object] = []
    try:
        for chunk in chunks:
            client.receive_data(chunk)
            while (event := client.next_event()) not in (NEED_DATA, PAUSED):
                out.append(event)
    except RemoteProtocolError as error:
        out.append(str(error))
    return out


def check(case: Case) -> int:
    """Run one case; returns how many events it gave.  Raises AssertionError, or whatever should never be raised."""
    whole = [case.data]
    bytewise = [case.data[index : index + 1] for index in range(len(case.data))]
    events = 0
    for run in (frame, serve, serve_user, listen):
        expected = run(whole)
        assert run(case.chunks()) == expected, f"{run.__name__} depends on how its bytes are cut"
        assert run(bytewise) == expected, f"{run.__name__} depends on how its bytes are cut"
        events += len(expected)
    return events


def run(seed: int, cases: int | None) -> tuple[int, int]:
    """Run cases from `seed` on; returns how many ran and how many events they gave."""
    events = 0
    done = 0
    for number in itertools.count(seed) if cases is None else range(seed, seed + cases):
        case = make(number)
        try:
            events += check(case)
        except BaseException:
            print(f"case {number}: {case}", file=sys.stderr)
            raise
        done += 1
    return done, events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int)
    arguments = parser.parse_args()
    done, events = run(arguments.seed, arguments.cases)
    print(f"{done} cases, {events} events")


if __name__ == "__main__":
    main()
