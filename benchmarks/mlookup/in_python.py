"""The Python rows of benchmarks/lookup.py: our Index, a dict, py-lmdb.  Prints one JSON object.

    in_python.py BASE RECORDS LOOKUPS [dict]

BASE holds the databases that the C programs made.  Every answer is compared with the server that the name has.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import lmdb

import cyrusext
from cyrusext.store import Store

FIRSTS = ["barbara", "david", "elizabeth", "james", "jennifer", "jessica", "john", "joseph",
          "linda", "mary", "michael", "patricia", "richard", "robert", "susan", "william"]  # fmt: skip
LASTS = ["anderson", "brown", "davis", "garcia", "gonzalez", "hernandez", "johnson", "jones",
         "li", "lopez", "martinez", "miller", "rodriguez", "smith", "williams", "wilson"]  # fmt: skip
FOLDERS = ["", ".Archive.2025", ".Archive.2026", ".Drafts", ".Sent", ".Spam", ".Trash"]
DOMAINS = ["example.co.uk", "example.io", "example.net", "example.org",
           "mail.example.com", "staff.example.edu", "students.example.edu", "uni.example.org"]  # fmt: skip
BATCH = 256

T = TypeVar("T")


def name(i: int, absent: str = "") -> bytes:
    """As keys.c makes it."""
    user = i // 7
    who = f"{FIRSTS[user // 8 % 16]}^{LASTS[user // 128 % 16]}{absent}{user // 2048}"
    return f"{DOMAINS[user % 8]}!user.{who}{FOLDERS[i % 7]}".encode()


def timed(lookup: Callable[[T], object], names: Sequence[T]) -> float:
    """Nanoseconds a call, the middle one of three rounds."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        for each in names:
            lookup(each)
        took.append(time.perf_counter() - began)
    return sorted(took)[1] / len(names) * 1e9


def batched(index: cyrusext.Index, names: Sequence[bytes]) -> float:
    batches = [list(names[at : at + BATCH]) for at in range(0, len(names), BATCH)]
    return timed(index.lookup_many, batches) * len(batches) / len(names)


class Names(NamedTuple):
    """What is asked for, and the right answers."""

    there: list[bytes]
    servers: list[str]
    absent: list[bytes]

    def check(self, server_of: Callable[[bytes], object]) -> None:
        if [server_of(each) for each in self.there] != self.servers:
            raise SystemExit("a wrong answer")
        if any(server_of(each) is not None for each in self.absent):
            raise SystemExit("an absent name is there")


def server_name(i: int) -> str:
    return f"be{i // 7 % 200}.example.org"


def ours(base: Path, names: Names) -> dict[str, dict[str, float]]:
    with Store.open(base / "cyx" / "state", run_dir=base / "cyx" / "run") as store:
        store.build_hot()
        store.beat(fresh=True)
        with cyrusext.open(base / "cyx" / "state") as index:
            if not index.hot_generation:
                raise SystemExit("there is no hot table")
            names.check(lambda name: found.server if (found := index.lookup(name)) is not None else None)
            many = index.lookup_many(names.there)
            if [found and found.server for found in many] != names.servers:
                raise SystemExit("a wrong answer of lookup_many")
            store.beat(fresh=True)
            absent = timed(index.lookup, names.absent)
            one = {"ns": timed(index.lookup, names.there), "absent_ns": absent}
            return {
                "cyrusext.Index.lookup": one,
                "cyrusext.Index.lookup_many, 256": {"ns": batched(index, names.there)},
            }


def lmdb_held(base: Path, names: Names) -> dict[str, float]:
    with lmdb.open(str(base / "lmdb"), map_size=64 << 30, readonly=True) as env, env.begin() as transaction:

        def server_of(name: bytes) -> str | None:
            place = transaction.get(name)
            return None if place is None else f"be{int.from_bytes(place, sys.byteorder)}.example.org"

        names.check(server_of)
        return {"ns": timed(transaction.get, names.there), "absent_ns": timed(transaction.get, names.absent)}


def dictionary(records: int, names: Names) -> dict[str, float]:
    servers = [f"be{number}.example.org" for number in range(200)]
    known = {name(i): servers[i // 7 % 200] for i in range(records)}
    names.check(known.get)
    return {"ns": timed(known.get, names.there), "absent_ns": timed(known.get, names.absent)}


def main() -> None:
    base, records, lookups = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    which = random.Random(7).choices(range(records), k=lookups)
    names = Names([name(i) for i in which], [server_name(i) for i in which], [name(i, "-") for i in which])
    found: dict[str, Any] = ours(base, names)
    found["py-lmdb, transaction held"] = lmdb_held(base, names)
    if "dict" in sys.argv[4:]:
        found["dict, in this process"] = dictionary(records, names)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
