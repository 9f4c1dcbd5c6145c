"""The store and its hot table against a dict and a sort: put, get, walk, order, prefix, server, with odd bytes."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cyrusext.index import Index
from cyrusext.model import MAX_NAME, Flag, MailboxRecord, State
from cyrusext.store import Store

BYTES = st.integers(1, 255).filter(lambda byte: byte not in b"\r\n\x1d\x1f").map(lambda byte: bytes([byte]))
PART = st.one_of(st.sampled_from([b".", b"!", b"-", b"user", b"a", b"b", b" ", b"\x1e", b"\x20", b"\xff"]), BYTES)
NAME = st.lists(PART, min_size=1, max_size=8).map(b"".join)
LONG = st.integers(400, 490).flatmap(lambda size: NAME.map(lambda name: (name * size)[:size]))
RECORD = st.builds(
    MailboxRecord,
    name=st.one_of(NAME, NAME, NAME, LONG),
    state=st.sampled_from([State.ACTIVE, State.ACTIVE, State.RESERVED, State.DELETED]),
    server=st.sampled_from(["be1", "be2", "be10", ""]),
    partition=st.sampled_from(["", "default", "fast"]),
    acl=st.binary(max_size=40).map(lambda acl: acl.translate(None, b"\0\r\n")),
    flags=st.integers(0, 7).map(Flag),
    changed_at=st.integers(1, 1 << 52),
    changed_by=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=10),
)


def cyrus_key(name: bytes) -> bytes:
    """The order of Cyrus' database: mboxname_to_dbname, written again in another way than key.c."""
    domain, mark, rest = name.partition(b"!")
    if not mark:
        return name.replace(b".", b"\x1f").replace(b"^", b".")
    return domain + b"\x1d" + rest.replace(b".", b"\x1f").replace(b"^", b".")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batches=st.lists(st.tuples(st.booleans(), st.booleans(), st.lists(RECORD, max_size=12)), max_size=6),
    prefixes=st.lists(NAME, max_size=4),
    limit=st.integers(1, 5),
)
def test_against_a_dict(
    batches: list[tuple[bool, bool, list[MailboxRecord]]], prefixes: list[bytes], limit: int
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        place = Path(directory)
        model: dict[bytes, MailboxRecord] = {}
        with Store.open(place / "state", run_dir=place / "run", map_size=64 << 20) as store:
            for many, keep, records in batches:
                transaction = store.begin()
                if many:
                    transaction.put_many(records)
                else:
                    for record in records:
                        transaction.put(record)
                if not keep:
                    transaction.abort()
                    continue
                transaction.commit()
                model.update({record.name: record for record in records})
            check_against(place, store, model, prefixes, limit)
        with Store.open(place / "state", run_dir=place / "run", map_size=64 << 20) as store:
            check_against(place, store, model, prefixes, limit)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["keep", "keep", "keep", "abort", "build", "restart"]), st.lists(RECORD, max_size=8)),
        min_size=2,
        max_size=10,
    ),
    strangers=st.lists(NAME, max_size=6),
)
def test_hot_table_against_a_dict(steps: list[tuple[str, list[MailboxRecord]]], strangers: list[bytes]) -> None:
    """One reader all the time, whatever the node does: it answers as the committed records are."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, contextlib.ExitStack() as stack:
        place = Path(directory)
        model: dict[bytes, MailboxRecord] = {}
        store = Store.open(place / "state", run_dir=place / "run", map_size=64 << 20)
        stack.callback(lambda: store.close())
        index = stack.enter_context(Index(place / "state"))
        for step, records in steps:
            if step == "build":
                store.build_hot()
                index.refresh()  # else it looks for a new table at its own pace
                assert index.hot_generation
            elif step == "restart":
                store.close()
                store = Store.open(place / "state", run_dir=place / "run", map_size=64 << 20)
            with contextlib.suppress(_Undone), store.begin() as transaction:
                for record in records:
                    transaction.put(record)
                if step == "abort":
                    raise _Undone
                model.update({record.name: record for record in records})
            store.beat(fresh=True)
            check_lookups(index, model, strangers)


class _Undone(Exception):
    """Ends a transaction that is to leave nothing."""


def check_lookups(index: Index, model: dict[bytes, MailboxRecord], strangers: list[bytes]) -> None:
    names = [*model, *strangers, *(name + b"x" for name in model if len(name) < MAX_NAME)]
    for name, found in zip(names, index.lookup_many(names), strict=True):
        assert found == index.lookup(name)
        record = model.get(name)
        if record is None or record.state is State.DELETED:
            assert found is None
        else:
            assert found == (record.server, record.partition, record.state, record.flags)
            assert index.acl(name) == record.acl


def check_against(
    place: Path, store: Store, model: dict[bytes, MailboxRecord], prefixes: list[bytes], limit: int
) -> None:
    ordered = sorted(model.values(), key=lambda record: cyrus_key(record.name))
    live = [record for record in ordered if record.state is not State.DELETED]
    for name, record in model.items():
        stored = store.get(name)
        assert stored is not None
        assert stored._replace(seq=0) == record._replace(seq=0)
    stat = store.stat()
    assert stat.entries == len(live)
    assert stat.tombstones == len(ordered) - len(live)
    assert {server: count for server, count in stat.servers.items() if count} == {
        server: count
        for server in {record.server for record in live}
        if (count := sum(record.server == server for record in live))
    }
    with Index(place / "state") as index:
        assert [record.name for record in index.walk()] == [record.name for record in live]
        for server in ("be1", "be2", "be10"):
            wanted = [record.name for record in live if record.server == server]
            assert [record.name for record in index.walk(server=server)] == wanted
        starts = [*prefixes, *(record.name[:3] for record in ordered[:5]), *(record.name for record in ordered[:5])]
        for prefix in starts:
            wanted = [record.name for record in live if record.name.startswith(prefix)]
            assert [record.name for record in index.walk(prefix=prefix)] == wanted
            wanted = [record.name for record in live if record.name.startswith(prefix) and record.server == "be1"]
            assert [record.name for record in index.walk(prefix=prefix, server="be1")] == wanted
            assert index.lookup(prefix) is None or prefix in model
    seen: list[bytes] = []
    while chunk := store.chunk(after=seen[-1] if seen else b"", limit=limit, tombstones=True):
        seen += [record.name for record in chunk]
        if len(chunk) < limit:
            break
    assert seen == [record.name for record in ordered]
