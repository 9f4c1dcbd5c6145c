"""Damaged stores: the right exception, never a crash.  Each attempt runs in a process of its own."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from cyrusext.errors import IndexCorrupt, IndexUnavailable, IndexVersion, StoreCorrupt, StoreVersion
from cyrusext.index import Index
from cyrusext.model import MailboxRecord, State
from cyrusext.store import Store

READ_ALL = """
import sys
import cyrusext
from cyrusext.errors import LookupUnavailable
try:
    with cyrusext.open(sys.argv[1]) as index:
        for name in (b"user.u0", b"user.u77", b"user.nobody"):
            try:
                index.lookup(name)
            except LookupUnavailable as error:
                print(type(error).__name__)
        for record in index.walk():
            assert record.name.startswith(b"user.u") and record.server == "backend1"
            assert record.acl == b"secret\\tlrs\\t"
except LookupUnavailable as error:
    print(type(error).__name__)
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with (
        Store.open(tmp_path / "state", run_dir=tmp_path / "run", map_size=64 << 20) as store,
        store.begin() as transaction,
    ):
        transaction.put_many(
            [MailboxRecord(b"user.u%d" % n, State.ACTIVE, "backend1", "default", b"secret\tlrs\t") for n in range(2000)]
        )
    return tmp_path / "state"


def read_all(state: Path) -> str:
    command = [sys.executable, "-c", READ_ALL, str(state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


def test_whole_store_reads(state: Path) -> None:
    assert read_all(state) == ""


@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 5000, 8192, 12288, 65536, 0.5, 0.9])
def test_truncated(state: Path, keep: float) -> None:
    data = state / "store" / "data.mdb"
    used = data.stat().st_size
    with Store.open(state, run_dir=state.parent / "run") as store:
        used = store.stat().bytes_used
    with data.open("r+b") as file:
        file.truncate(int(used * keep) if isinstance(keep, float) else keep)
    with pytest.raises((IndexCorrupt, IndexUnavailable)):
        Index(state)
    assert read_all(state) in ("IndexCorrupt\n", "IndexUnavailable\n")
    if keep:
        with pytest.raises(StoreCorrupt):
            Store.open(state, run_dir=state.parent / "run")


@pytest.mark.parametrize("target", [b"secret\tlrs\t", b"backend1"])
def test_flipped_values_are_noticed(state: Path, target: bytes) -> None:
    data = state / "store" / "data.mdb"
    content = bytearray(data.read_bytes())
    at, flipped = content.find(target), 0
    while at >= 0:
        content[at] ^= 0x20
        at, flipped = content.find(target, at + 1), flipped + 1
    assert flipped
    data.write_bytes(content)
    assert "IndexCorrupt" in read_all(state)


def test_one_damaged_record_hides_no_other(state: Path) -> None:
    with Store.open(state, run_dir=state.parent / "run") as store, store.begin() as transaction:
        transaction.put(MailboxRecord(b"user.u77", State.ACTIVE, "backend1", "default", b"unique"))
    data = state / "store" / "data.mdb"
    content = data.read_bytes()
    assert b"unique" in content
    data.write_bytes(content.replace(b"unique", b"Unique"))
    with Index(state) as index:
        with pytest.raises(IndexCorrupt, match="checksum") as caught:
            index.lookup(b"user.u77")
        assert "/" not in caught.value.public
        assert index.lookup(b"user.u78") is not None


def test_random_bytes_in_values(state: Path) -> None:
    """Flips in the bodies of leaf pages, one store after the other; the structure of pages stays."""
    data = state / "store" / "data.mdb"
    whole = data.read_bytes()
    chance = random.Random(7)
    places = [at for at in range(len(whole)) if whole.startswith(b"secret\tlrs\t", at)]
    for _ in range(8):
        content = bytearray(whole)
        for at in chance.sample(places, 40):
            content[at - chance.randrange(44)] ^= 1 << chance.randrange(8)
        data.write_bytes(content)
        assert "IndexCorrupt" in read_all(state)


@pytest.mark.parametrize("version", [0, 3, 1 << 40])
def test_other_format_is_named(state: Path, version: int, tmp_path: Path) -> None:
    with Store.open(state, run_dir=tmp_path / "run") as store, store.begin():
        store._writer.set_number(b"format", version)
    with pytest.raises(IndexVersion, match=f"format {version}, this version opens 1 to 2"):
        Index(state)
    with pytest.raises(StoreVersion, match=f"format {version}, this version opens 1 to 2"):
        Store.open(state, run_dir=tmp_path / "run")


def test_other_lmdb_version(state: Path) -> None:
    data = state / "store" / "data.mdb"
    content = bytearray(data.read_bytes())
    struct.pack_into("<I", content, 20, 999)
    data.write_bytes(content)
    with pytest.raises(IndexVersion, match="999"):
        Index(state)


def test_page_size_zero(state: Path) -> None:
    data = state / "store" / "data.mdb"
    content = bytearray(data.read_bytes())
    struct.pack_into("<I", content, 40, 0)
    data.write_bytes(content)
    assert read_all(state) == "IndexCorrupt\n"


def test_no_lmdb_file_at_all(tmp_path: Path) -> None:
    place = tmp_path / "state" / "store"
    place.mkdir(parents=True)
    (place / "data.mdb").write_bytes(b"not a database " * 1000)
    with pytest.raises(IndexCorrupt):
        Index(tmp_path / "state")
    with pytest.raises(StoreCorrupt):
        Store.open(tmp_path / "state", run_dir=tmp_path / "run")


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(IndexUnavailable):
        Index(tmp_path / "nowhere")
