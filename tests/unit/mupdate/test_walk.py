"""LIST and UPDATE in compiled code: the lines are the codec's, the order is Cyrus' or strcmp's, nothing is lost."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate._sorted import Sorted
from cyrusext.mupdate._walk import Walk
from cyrusext.mupdate.codec import encode_records
from cyrusext.mupdate.healing import Repeats
from cyrusext.store import Store

TAG = b"U01"
SERVERS = ("", "be1", "be10", "be2", "be2.example.org")
DOMAINS = (b"", b"", b"d.org!", b"d.org.uk!", b"d-x.org!", b"d.orgs!", b"a.b!", b"a!")
ALPHABET = b"ab0B/.-! ^+\xe9\x01"


def key_of(name: bytes) -> bytes:
    domain, mark, local = name.partition(b"!")
    return (domain + b"\x1d" if mark else b"") + (local if mark else domain).replace(b".", b"\x1f").replace(b"^", b".")


def made_up(rng: random.Random, count: int) -> list[MailboxRecord]:
    """Records of one store: odd names, tombstones, reservations, heavy and empty ACLs."""
    names = {rng.choice(DOMAINS) + bytes(rng.choices(ALPHABET, k=rng.randint(1, 7))) for _ in range(count)}
    return [
        MailboxRecord(
            name,
            rng.choice((State.ACTIVE, State.ACTIVE, State.ACTIVE, State.RESERVED, State.DELETED)),
            rng.choice(SERVERS),
            rng.choice(("", "default", "p2")),
            rng.choice((b"", b"a\tlrs\t", rng.randbytes(300).translate(None, b"\0\r\n"))),
        )
        for name in names
    ]


def put(store: Store, records: Iterable[MailboxRecord]) -> None:
    with store.begin() as transaction:
        transaction.put_many(list(records))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state", run_dir=tmp_path, map_size=1 << 30) as opened:
        yield opened


def everything(walk: Walk, limit: int, rng: random.Random | None = None) -> bytes:
    """All that comes of `walk`; with `rng`, it lets go of its snapshot at some time."""
    if isinstance(walk, Sorted):
        while walk.collect():
            pass
        walk.sort()
    pieces = []
    while not walk.done:
        pieces.append(walk.piece(limit))
        if rng is not None and rng.random() < 0.2:
            walk.be_brief()
    assert walk.piece(limit) == b""
    walk.close()
    return b"".join(pieces)


@pytest.mark.parametrize("seed", range(8))
def test_the_lines_are_those_of_the_codec(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    records = made_up(rng, 400)
    put(store, records)
    live = [record for record in records if record.state is not State.DELETED]
    for servers in ((), (b"be1",), (b"be2", b"be10"), (b"",), (b"nobody",)):
        for prefix in (
            b"",
            b"be",
            b"be1",
            b"be1!",
            b"be2!p",
            b"be2!p2!",
            b"!",
            b"be2.example.org!default",
            b"p",
            b"\xff",
        ):
            wanted = [
                record
                for record in live
                if (not servers or record.server.encode() in servers) and record.location.to_wire().startswith(prefix)
            ]
            for kind, order in ((Walk, lambda record: key_of(record.name)), (Sorted, lambda record: record.name)):
                walk = kind(store.reader, TAG, servers=servers, prefix=prefix)
                said = everything(walk, rng.choice((1, 100, 1000, 1 << 20)), rng)
                assert said == encode_records(TAG, sorted(wanted, key=order)), (kind, servers, prefix)


@pytest.mark.parametrize("seed", range(8))
def test_the_names_repeated_are_those_of_the_specification(store: Store, seed: int) -> None:
    records = made_up(random.Random(seed), 300)
    put(store, records)
    repeats, learning = Repeats(), Repeats()
    names = sorted((record.name for record in records if record.state is not State.DELETED), key=key_of)
    for name in names:
        repeats.learn(name)
    walk = Walk(store.reader, TAG)
    while not walk.done:
        walk.piece(100)
        for domain in walk.domains():
            learning.learn(domain + b"!")
    assert learning.entangled == repeats.entangled
    assert repeats.entangled
    selection = Walk(store.reader, TAG)
    found: list[bytes] = []
    while not selection.done:
        some = selection.odd_names(repeats.entangled, 50)
        assert len(some) <= 50
        found += some
    assert found == [name for name in names if repeats.wants(name)]
    assert selection.literal_dots
    beside = Walk(store.reader, TAG)
    found = []
    while not beside.done:
        found += beside.odd_names(repeats.entangled, 50, beside_dots=True)
    assert found == [name for name in names if repeats.wants_beside_dots(name)]


def many(count: int, server: str = "be1") -> list[MailboxRecord]:
    return [MailboxRecord(b"user.u%05d" % number, State.ACTIVE, server, "p", b"a\tl\t") for number in range(count)]


def test_a_young_walk_is_of_one_moment_and_an_old_one_goes_on_with_what_is_there(store: Store) -> None:
    before = many(3000)
    put(store, before)
    young, old = Walk(store.reader, TAG), Walk(store.reader, TAG)
    begun = {walk: walk.piece(100) for walk in (young, old)}
    put(store, many(3000, "be2"))
    old.be_brief()
    assert begun[young] + everything(young, 1 << 20) == encode_records(TAG, before)
    rest = many(3000, "be2")[begun[old].count(b" MAILBOX ") :]
    assert everything(old, 1000) == encode_records(TAG, rest)


@pytest.mark.parametrize("kind", [Walk, Sorted])
def test_what_is_there_all_the_time_is_told_whatever_comes_and_goes(store: Store, kind: type[Walk]) -> None:
    rng = random.Random(3)
    staying = [record._replace(state=State.ACTIVE) for record in made_up(rng, 500)]
    known = {record.name for record in staying}
    coming = [record for record in made_up(rng, 500) if record.name not in known]
    put(store, staying)
    for brief in (False, True):
        walk = kind(store.reader, TAG)
        if brief:
            walk.be_brief()
        if isinstance(walk, Sorted):
            while walk.collect():
                pass
            walk.sort()
        said = b""
        while not walk.done:
            said += walk.piece(1500)
            put(store, rng.sample(coming, 20))
        for record in staying:
            assert said.count(encode_records(TAG, [record])) == 1


def test_a_walk_left_alone_keeps_the_store_from_growing_once_it_is_brief(store: Store) -> None:
    """What a snapshot costs, and that letting go of it ends that."""
    put(store, many(2000))

    def growth(commits: int) -> int:
        before = store.stat().bytes_used
        for number in range(commits):
            put(store, many(2000, f"be{number % 3}")[::40])
        return store.stat().bytes_used - before

    growth(20)
    walk = Walk(store.reader, TAG)
    walk.piece(100)
    pinned = growth(40)
    assert pinned > 1 << 20, "the walk holds no snapshot: this test says nothing"
    walk.be_brief()
    assert growth(40) < pinned // 4
    walk.piece(100)
    assert growth(40) < pinned // 4
    walk.close()


def test_a_snapshot_is_given_up_after_so_many_commits(store: Store) -> None:
    put(store, many(50))
    walk = Walk(store.reader, TAG)
    said = walk.piece(100)
    for number in range(257):
        put(store, [MailboxRecord(b"user.u00049", State.ACTIVE, f"be{number % 2}", "p")])
    said += walk.piece(100) + walk.piece(1 << 20)
    assert said.endswith(b"U01 MAILBOX {11+}\r\nuser.u00049 {5+}\r\nbe0!p {0+}\r\n\r\n")
    walk.close()


def test_an_end_in_the_middle_and_a_closed_store(store: Store) -> None:
    put(store, many(3000))
    walk = Walk(store.reader, TAG)
    walk.piece(100)
    walk.close()
    walk.close()
    assert walk.done
    assert (walk.piece(100), walk.odd_names(frozenset(), 9)) == (b"", [])
    left = Walk(store.reader, TAG)
    left.piece(100)
    store.close()
    with pytest.raises(Exception, match="wrong time"):
        left.piece(100)
    del left
