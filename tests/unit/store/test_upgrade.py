"""A store of the format before is taken as it is, by readers and by the node."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyrusext.errors import IndexVersion
from cyrusext.index import Index
from cyrusext.model import MailboxRecord, State
from cyrusext.store import Store
from tests.harness.old_store import WALK, unpack

MAP = 64 << 20


@pytest.fixture
def state(tmp_path: Path) -> Path:
    unpack(tmp_path / "state")
    return tmp_path / "state"


def everything(store: Index | Store) -> list[MailboxRecord]:
    """All records with all of their fields, tombstones included."""
    if isinstance(store, Store):
        return store.chunk(tombstones=True)
    names = [f"user.u{number:02d}{'.Sent' if number % 3 else ''}".encode() for number in range(60)]
    found = [store._reader.get(name) for name in names]
    return [*store.walk(), *(record for record in found if record is not None)]


def as_walk(records: list[MailboxRecord]) -> bytes:
    return b"".join(
        b"%s\t%s\t%s\t%d\t%d\t%s\n" % (r.name, r.state.name.encode(), r.location.to_wire(), r.flags, r.seq, r.acl)
        for r in records
    )


def test_readers_read_it_before_it_is_upgraded(state: Path) -> None:
    with Index(state) as index:
        assert as_walk(list(index.walk())) == WALK.read_bytes()
        assert index.deleted_at(b"user.u01.Sent") == 1700000003000001
        assert index.rules.default_domain == "example.org"


def test_the_upgrade_changes_no_record(state: Path) -> None:
    with Index(state) as before:
        known = everything(before)
        with Store.open(state, run_dir=state / "run", map_size=MAP) as store:
            assert [store.forget_upgrade(), store.forget_upgrade()] == ["1", ""]
            assert len(store.text("store_id")) == 16
            after = store.chunk(tombstones=True)
            assert sorted(after) == sorted(set(known))
            assert len(after) == 57 + 5
            assert store.seq == 67
            before.refresh()
            assert everything(before) == known
    with Index(state) as index:
        assert as_walk(list(index.walk())) == WALK.read_bytes()
    with Store.open(state, run_dir=state / "run", map_size=MAP) as store, store.begin() as transaction:
        transaction.put(known[0])  # and it is a store like any other


def test_the_identity_is_given_once(state: Path) -> None:
    identities = set()
    for _ in range(3):
        with Store.open(state, run_dir=state / "run", map_size=MAP) as store:
            identities.add(store.text("store_id"))
    assert len(identities) == 1


def test_a_reader_notices_a_store_that_became_too_new_for_it(state: Path) -> None:
    with Store.open(state, run_dir=state / "run", map_size=MAP) as store, Index(state) as index:
        with store.begin():
            store._writer.set_number(b"format", 3)
        with pytest.raises(IndexVersion, match="format 3, this version opens 1 to 2"):
            index.refresh()
        with store.begin():
            store._writer.set_number(b"format", 2)
        index.refresh()
        assert index.get(b"user.u20.Sent") is not None


CARETS = {
    b"user.john": ("be1", State.ACTIVE, 4),
    b"user.john-x": ("be2", State.ACTIVE, 6),
    b"user.john^doe": ("be1", State.ACTIVE, 1),
    b"user.john^doe.Sent": ("be1", State.ACTIVE, 2),
    b"user.john^doe.a^b": ("be2", State.RESERVED, 3),
    b"user.john0": ("be1", State.ACTIVE, 5),
    b"ex^ample.org!user.plain": ("be1", State.ACTIVE, 9),
    b"ex^ample.org!user.x^y": ("be2", State.ACTIVE, 8),
    b"example.org!user.mary^ann": ("be2", State.ACTIVE, 7),
}


def test_names_with_a_caret_get_cyrus_keys(tmp_path: Path) -> None:
    state = tmp_path / "state"
    unpack(state, "carets.mdb.xz")
    with Index(state) as before:
        assert not before.fresh
        with Store.open(state, run_dir=tmp_path / "run", map_size=MAP) as store, Index(state) as index:
            store.build_hot()
            store.beat(fresh=True)
            before.refresh()
            index.refresh()
            for reader in (before, index):
                found = {record.name: (record.server, record.state, record.seq) for record in reader.walk()}
                assert found == CARETS
                for name, (server, record_state, _) in CARETS.items():
                    location = reader.lookup(name)
                    assert location is not None and (location.server, location.state) == (server, record_state)
                assert [record.name for record in reader.walk(server="be2")] == [
                    b"ex^ample.org!user.x^y",
                    b"example.org!user.mary^ann",
                    b"user.john-x",
                    b"user.john^doe.a^b",
                ]
                assert reader.deleted_at(b"user.gone^one") == 1700000000000011
            # a dot counts below every digit and letter, as in Cyrus' own database
            names = [record.name for record in index.walk(prefix=b"user.")]
            assert names == [name for name in CARETS if name.startswith(b"user.")]
            assert [event.seq for event in index.history(b"user.gone^one")] == [10, 11]
            assert store.purge_tombstones(1 << 60, 10) == 1
            with store.begin() as transaction:
                moved = transaction.get(b"user.john^doe")
                assert moved is not None
                transaction.put(moved._replace(server="be2"))
            assert [record.name for record in index.walk(prefix=b"user.john^doe", server="be1")] == [
                b"user.john^doe.Sent"
            ]
