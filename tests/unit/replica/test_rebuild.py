"""A damaged store is built anew from what can be read of it, in steps of which none loses anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cyrusext.errors import StoreCorrupt, StoreError, StoreFull, StoreVersion
from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate.refill import KEY
from cyrusext.replica import rebuild
from cyrusext.replica.copying import FILLING, FOLLOWED, STORE_ID, begin_to_lead, is_complete
from cyrusext.replica.rebuild import REBUILT_FROM, ensure_sound
from cyrusext.store import Store
from tests.harness.damage import damage, flip_behind, key_of, tear_page

COUNT = 500


def record(n: int, state: State = State.ACTIVE) -> MailboxRecord:
    return MailboxRecord(b"user.u%04d" % n, state, f"be{n % 3}", "default", b"u%d\tlrs\t" % n, changed_by="t@be")


def open_store(state: Path) -> Store:
    return Store.open(state, run_dir=state / "run", map_size=64 << 20)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with open_store(tmp_path) as store:
        with store.begin() as transaction:
            transaction.put_many([record(n) for n in range(COUNT)])
        with store.begin() as transaction:
            transaction.put(record(7, State.DELETED))
        store.mode = "unified"
    return tmp_path


def sound(state: Path, *, follows: bool = False) -> rebuild.Rebuilt | None:
    return ensure_sound(state, mode="standard", follows=follows)


def everything(state: Path) -> dict[bytes, MailboxRecord]:
    with open_store(state) as store:
        return {found.name: found for found in store.chunk(limit=10 * COUNT, tombstones=True)}


def test_a_sound_store_stays(state: Path) -> None:
    before = (state / "store/data.mdb").read_bytes()
    assert sound(state) is None
    assert (state / "store/data.mdb").read_bytes() == before
    assert [path.name for path in state.glob("store*")] == ["store"]


def test_no_store_at_all(tmp_path: Path) -> None:
    assert sound(tmp_path) is None


def test_a_torn_page_costs_no_record(state: Path) -> None:
    before = everything(state)
    damage(state / "store/data.mdb", key_of(b"user.u0100"), tear_page)
    broken = (state / "store/data.mdb").read_bytes()
    rebuilt = sound(state)
    assert rebuilt is not None
    assert (rebuilt.records, rebuilt.lost) == (COUNT, 0)
    assert (rebuilt.kept / "data.mdb").read_bytes() == broken
    assert everything(state) == before
    assert sound(state) is None
    with open_store(state) as store:
        assert store.text(KEY) == str(store.seq) == str(max(found.seq for found in before.values()))
        assert store.text(REBUILT_FROM) == rebuilt.kept.name
        assert store.mode == "unified"
        assert store.text(FOLLOWED) == "no more"
        assert len(begin_to_lead(store)) == 16


def test_the_new_store_is_another_one(state: Path) -> None:
    with open_store(state) as store:
        before = store.text(STORE_ID)
    damage(state / "store/data.mdb", key_of(b"user.u0100"), tear_page)
    assert sound(state) is not None
    with open_store(state) as store:
        assert store.text(STORE_ID) not in ("", before)


def test_a_damaged_record_is_all_that_is_lost(state: Path) -> None:
    before = everything(state)
    key = key_of(b"user.u0100")
    damage(state / "store/data.mdb", key, flip_behind(key))
    rebuilt = sound(state)
    assert rebuilt is not None
    assert (rebuilt.records, rebuilt.lost) == (COUNT - 1, 1)
    del before[b"user.u0100"]
    assert everything(state) == before


def test_a_server_whose_name_has_a_changed_bit(state: Path) -> None:
    before = everything(state)
    damage(state / "store/data.mdb", b"s\0\0\0\1", lambda page: page.__setitem__(page.find(b"be1") + 2, ord("3")))
    rebuilt = sound(state)
    assert rebuilt is not None
    assert rebuilt.records == COUNT
    assert everything(state) == before


@pytest.mark.parametrize("left", ["", "x", "not a database " * 9000])
def test_nothing_to_be_read(state: Path, left: str) -> None:
    """The store was complete before: what it has become is no new one, and no reason to say no to anybody."""
    (state / "store/data.mdb").write_text(left)
    rebuilt = sound(state)
    assert rebuilt is not None
    assert (rebuilt.records, rebuilt.lost) == (0, 0)
    with open_store(state) as store:
        assert store.text(KEY) == "0"
        assert store.mode == "standard"


def test_a_store_that_was_never_made(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/data.mdb").touch()
    assert sound(tmp_path) is None


def test_cut_off(state: Path) -> None:
    """What is in front of the cut is kept."""
    data = state / "store/data.mdb"
    with open_store(state) as store:
        used = store.stat().bytes_used
    with data.open("r+b") as file:
        file.truncate(used // 2)
    rebuilt = sound(state)
    assert rebuilt is not None
    assert set(everything(state)) <= {record(n).name for n in range(COUNT)}
    assert sound(state) is None


def test_a_follower_waits_for_a_whole_copy(state: Path) -> None:
    damage(state / "store/data.mdb", key_of(b"user.u0100"), tear_page)
    assert sound(state, follows=True) is not None
    with open_store(state) as store:
        assert (store.text(FOLLOWED), store.text(STORE_ID)) == (FILLING, "")
        assert not is_complete(store)
        assert store.get(b"user.u0100") is not None


def test_an_incomplete_copy_does_not_become_a_leader(state: Path) -> None:
    with open_store(state) as store, store.begin() as transaction:
        transaction.set_text(FOLLOWED, FILLING)
        transaction.set_text(STORE_ID, "")
    damage(state / "store/data.mdb", key_of(b"user.u0100"), tear_page)
    assert sound(state) is not None
    with open_store(state) as store, pytest.raises(StoreError, match="never completed"):
        begin_to_lead(store)


def test_another_format_is_no_damage(state: Path) -> None:
    with open_store(state) as store, store.begin():
        store._writer.set_number(b"format", 77)
    with pytest.raises(StoreVersion, match="format 77"):
        sound(state)
    assert [path.name for path in state.glob("store*")] == ["store"]


@pytest.mark.parametrize("step", range(1, 4))
def test_it_dies_at_each_rename(state: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it dies, the next start has all records and the damaged store."""
    before = everything(state)
    damage(state / "store/data.mdb", key_of(b"user.u0100"), tear_page)
    broken = (state / "store/data.mdb").read_bytes()
    renames = 0
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == step:
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            sound(state)
    sound(state)
    assert sound(state) is None
    assert everything(state) == before
    kept = list(state.glob("store.damaged-*"))
    assert [(path / "data.mdb").read_bytes() for path in kept] == [broken]
    assert sorted(path.name for path in state.glob("store.re*")) == []
    with open_store(state) as store:
        assert store.text(REBUILT_FROM) == kept[0].name


def test_no_room_for_a_second_store(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(state / "store/data.mdb", key_of(b"user.u0100"), tear_page)

    def full(*_: object, **__: object) -> Store:
        raise StoreFull("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("cyrusext.replica.rebuild.Store.open", full)
        with pytest.raises(StoreFull, match="no room to build it anew"):
            sound(state)
    assert (state / "store/data.mdb").exists()
    assert sound(state) is not None


def test_the_file_is_gone(state: Path) -> None:
    """An empty list is not what is left of a store that had mailboxes."""
    (state / "store/data.mdb").unlink()
    with pytest.raises(StoreError, match="refill begin"):
        sound(state)


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo])
def test_something_else_in_its_place(state: Path, put: Callable[[Path], None]) -> None:
    (state / "store/data.mdb").unlink()
    put(state / "store/data.mdb")
    with pytest.raises(StoreError, match="is not a file"):
        sound(state)


def test_store_open_still_refuses_what_it_can_not_check(state: Path) -> None:
    (state / "store/data.mdb").write_bytes(b"not a database " * 1000)
    with pytest.raises(StoreCorrupt):
        open_store(state)
