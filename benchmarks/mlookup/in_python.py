"""The Python rows of benchmarks/lookup.py: our Index, a dict, py-lmdb.  Prints one JSON object.

    in_python.py BASE RECORDS LOOKUPS

BASE holds the databases that the C programs made.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import lmdb

import cyrusext
from cyrusext.store import Store

FIRSTS = ["james", "mary", "robert", "patricia", "john", "jennifer", "michael", "linda",
          "david", "elizabeth", "william", "barbara", "richard", "susan", "joseph", "jessica"]  # fmt: skip
LASTS = ["smith", "johnson", "williams", "brown", "jones", "garcia", "miller", "davis",
         "rodriguez", "martinez", "hernandez", "lopez", "gonzalez", "wilson", "anderson", "li"]  # fmt: skip
FOLDERS = ["", ".Sent", ".Drafts", ".Trash", ".Archive.2025", ".Archive.2026", ".Spam"]
DOMAINS = ["example.org", "mail.example.com", "students.example.edu", "example.net",
           "uni.example.org", "example.co.uk", "staff.example.edu", "example.io"]  # fmt: skip
BATCH = 256


def name(i: int, absent: str = "") -> bytes:
    """As keys.c makes it."""
    user = i // 7
    who = f"{FIRSTS[user // 8 % 16]}^{LASTS[user // 128 % 16]}{absent}{user // 2048}"
    return f"{DOMAINS[user % 8]}!user.{who}{FOLDERS[i % 7]}".encode()


def timed(lookup: Callable[[bytes], object], names: Sequence[bytes], there: bool) -> float:
    """Nanoseconds a look-up, the better of two rounds; all answers are looked at."""
    if any((lookup(each) is not None) is not there for each in names):
        raise SystemExit("a wrong answer")
    took = []
    for _ in range(2):
        began = time.perf_counter()
        for each in names:
            lookup(each)
        took.append(time.perf_counter() - began)
    return min(took) / len(names) * 1e9


def batched(index: cyrusext.Index, names: Sequence[bytes]) -> float:
    batches = [list(names[at : at + BATCH]) for at in range(0, len(names), BATCH)]
    began = time.perf_counter()
    for each in batches:
        index.lookup_many(each)
    return (time.perf_counter() - began) / len(names) * 1e9


def ours(base: Path, there: Sequence[bytes], absent: Sequence[bytes]) -> dict[str, dict[str, float]]:
    with Store.open(base / "cyx" / "state", run_dir=base / "cyx" / "run") as store:
        store.build_hot()
        store.beat(fresh=True)
        with cyrusext.open(base / "cyx" / "state") as index:
            if not index.hot_generation:
                raise SystemExit("there is no hot table")
            one = {"ns": timed(index.lookup, there, True)}
            store.beat(fresh=True)
            one["absent_ns"] = timed(index.lookup, absent, False)
            return {"cyrusext.Index.lookup": one, "cyrusext.Index.lookup_many, 256": {"ns": batched(index, there)}}


def lmdb_held(base: Path, there: Sequence[bytes], absent: Sequence[bytes]) -> dict[str, float]:
    with lmdb.open(str(base / "lmdb"), map_size=64 << 30, readonly=True) as env, env.begin() as transaction:
        return {"ns": timed(transaction.get, there, True), "absent_ns": timed(transaction.get, absent, False)}


def dictionary(records: int, there: Sequence[bytes], absent: Sequence[bytes]) -> dict[str, float]:
    servers = [f"be{number}.example.org" for number in range(200)]
    known = {name(i): servers[i // 7 % 200] for i in range(records)}
    return {"ns": timed(known.get, there, True), "absent_ns": timed(known.get, absent, False)}


def main() -> None:
    base, records, lookups = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    which = random.Random(7).choices(range(records), k=lookups)
    there, absent = [name(i) for i in which], [name(i, "-") for i in which]
    found: dict[str, Any] = ours(base, there, absent)
    found["py-lmdb, transaction held"] = lmdb_held(base, there, absent)
    found["dict, in this process"] = dictionary(records, there, absent)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
