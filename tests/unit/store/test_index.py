"""The reading side: lookups, walks, freshness, many handles, other processes and users."""

from __future__ import annotations

import contextlib
import grp
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cyrusext
from cyrusext.errors import IndexUnavailable
from cyrusext.index import Index
from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.store import Store


def record(name: bytes, server: str = "be1", state: State = State.ACTIVE) -> MailboxRecord:
    return MailboxRecord(name, state, server, "default", b"anyone\tlrs\t", flags=Flag.MOVING)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    with Store.open(place / "state", run_dir=place / "run", map_size=64 << 20, names={"virtdomains": True}) as opened:
        yield opened


@pytest.fixture
def index(place: Path, store: Store) -> Iterator[Index]:
    with cyrusext.open(place / "state") as opened:
        yield opened


def put(store: Store, *records: MailboxRecord) -> None:
    with store.begin() as transaction:
        for each in records:
            transaction.put(each)


def test_lookup(store: Store, index: Index) -> None:
    put(store, record(b"user.alice"), record(b"user.bob", "be2", State.RESERVED))
    found, reserved, absent = index.lookup_many([b"user.alice", b"user.bob", b"user.carol"])
    assert found is not None
    assert (found.server, found.partition, found.state, found.flags) == ("be1", "default", State.ACTIVE, Flag.MOVING)
    assert index.acl(b"user.alice") == b"anyone\tlrs\t"
    assert reserved is not None
    assert reserved.state is State.RESERVED
    assert absent is None


def test_strings_are_interned(store: Store, index: Index) -> None:
    put(store, record(b"user.a"), record(b"user.b"))
    first, second = index.lookup_many([b"user.a", b"user.b"])
    assert first is not None
    assert second is not None
    assert first.server is second.server


def test_tombstone_is_absent_with_a_time(store: Store, index: Index) -> None:
    put(store, record(b"user.a", state=State.DELETED)._replace(changed_at=123))
    assert index.lookup(b"user.a") is None
    assert index.get(b"user.a") is None
    assert index.deleted_at(b"user.a") == 123
    assert index.deleted_at(b"user.b") is None


def test_order_is_that_of_cyrus(store: Store, index: Index) -> None:
    wanted = [
        b"a!user.x",
        b"a-b!user.x",
        b"a.b!user.x",
        b"shared",
        b"user.a",
        b"user.a.b",
        b"user.a b",
        b"user.a-b",
        b"user.a0",
        b"user.b",
        b"user.\xc3\xa4",
    ]
    put(store, *(record(name) for name in reversed(wanted)))
    assert [each.name for each in index.walk()] == wanted
    # a prefix may be the beginning of plain names and of domains
    put(store, record(b"user.a.example!shared"))
    assert [each.name for each in index.walk(prefix=b"user.a.")] == [b"user.a.b", b"user.a.example!shared"]
    assert [each.name for each in index.walk(prefix=b"a")] == wanted[:3]


def test_locate_uses_the_rules_of_the_node(store: Store, index: Index) -> None:
    put(store, record(b"example.org!user.alice"))
    found = index.locate("Alice+box@Example.org")
    assert found is not None
    assert found is index.lookup("example.org!user.alice")
    assert index.locate(b"alice@example.net") is None


def test_fresh_needs_a_young_heartbeat(place: Path, store: Store, index: Index) -> None:
    assert not index.fresh
    store.beat(fresh=False)
    assert not index.fresh
    store.beat(fresh=True)
    deadline = time.monotonic() + 5
    while not index.fresh:  # a handle looks for a new file at most every 50 ms
        assert time.monotonic() < deadline
    while index.fresh_within(0.05):
        assert time.monotonic() < deadline
    assert index.fresh_within(60)
    # the run directory made anew, as systemd does between two runs of the node
    (place / "run" / "heartbeat").unlink()
    store.close()
    with Store.open(place / "state", run_dir=place / "run") as again:
        again.beat(fresh=True)
        while not index.fresh_within(1):
            assert time.monotonic() < deadline


def test_heartbeat_of_another_boot_or_store_is_worth_nothing(place: Path, store: Store, index: Index) -> None:
    store.beat(fresh=True)
    beat = place / "run" / "heartbeat"
    good = beat.read_bytes()
    for offset in (0, 16, 64, 72):
        with beat.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([good[offset] ^ 1]))
        with Index(place / "state") as other:
            assert not other.fresh_within(3600)
        with beat.open("r+b") as file:
            file.write(good)
    with Index(place / "state") as other:
        assert other.fresh_within(3600)


def test_two_opens_and_one_close_harm_nothing(place: Path, store: Store) -> None:
    put(store, record(b"user.a"))
    first, second = Index(place / "state"), Index(place / "state")
    first.close()
    with pytest.raises(ValueError, match="closed"):
        first.lookup(b"user.a")
    assert second.lookup(b"user.a") is not None
    # LMDB's locks are still held: another process does not take this one's reader for dead
    probe = "import sys, cyrusext\ni = cyrusext.open(sys.argv[1])\nprint(i.lookup(b'user.a').server)\ni.close()\n"
    done = subprocess.run([sys.executable, "-c", probe, place / "state"], capture_output=True, text=True, check=True)
    assert done.stdout == "be1\n"
    assert store.check_readers() == 0
    put(store, record(b"user.b"))
    assert second.lookup(b"user.b") is not None
    second.close()


def test_child_of_a_fork_reads_on(store: Store, index: Index) -> None:
    put(store, record(b"user.a"))
    assert index.lookup(b"user.a") is not None
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            if index.lookup(b"user.a") is not None and index.lookup(b"user.b") is None:
                index.close()
                status = 0
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.check_readers() == 0  # the child has not freed the parent's slot
    put(store, record(b"user.b"))
    assert index.lookup(b"user.b") is not None


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_reader_of_another_uid(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.getuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)
    group = grp.getgrnam("nogroup")
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run", reader_group="nogroup") as store:
        put(store, record(b"user.a"))
        store.beat(fresh=True)
        for gid, expected in ((group.gr_gid, 0), (12345, 9)):
            child = os.fork()
            if child == 0:
                status = 1
                with contextlib.suppress(BaseException):
                    os.setgroups([])
                    os.setgid(gid)
                    os.setuid(65534)
                    try:
                        with Index(tmp_path / "state") as index:
                            status = 0 if index.lookup(b"user.a") is not None and index.fresh else 2
                    except IndexUnavailable:
                        status = 9
                os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == expected
        put(store, record(b"user.b"))


def test_missing_and_replaced_store(tmp_path: Path) -> None:
    with pytest.raises(IndexUnavailable):
        Index(tmp_path / "state")
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store:
        put(store, record(b"user.a", "old"))
    with Index(tmp_path / "state") as index:
        entry = index.lookup(b"user.a")
        for file in (tmp_path / "state" / "store").iterdir():
            file.unlink()
        with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store:
            put(store, record(b"user.b", "new"), record(b"user.a", "newer"))
            store.beat(fresh=True)
            assert not index.fresh  # it reads a file that is no more
            index.refresh()
            found = index.lookup(b"user.a")
            assert found is not None
            assert found.server == "newer"
            assert entry is not None
            assert entry.server == "old"


READER = """
import ctypes, os, signal, sys
library = ctypes.CDLL("liblmdb.so.0")
env, txn = ctypes.c_void_p(), ctypes.c_void_p()
library.mdb_env_create(ctypes.byref(env))
library.mdb_env_set_maxreaders(env, 4094)
assert library.mdb_env_open(env, os.fsencode(sys.argv[1]), 0x200000 | 0x20000, 0o600) == 0
assert library.mdb_txn_begin(env, None, 0x20000, ctypes.byref(txn)) == 0
print("holding", flush=True)
signal.pause()
"""


def test_reader_killed_in_mid_transaction(place: Path, store: Store) -> None:
    def churn() -> int:
        for turn in range(100):
            put(store, record(b"user.a")._replace(acl=b"%d" % turn * 9000))
        return store.stat().bytes_used

    churn()
    settled = churn()
    assert churn() <= settled + (1 << 20)  # pages are used again
    with subprocess.Popen(
        [sys.executable, "-c", READER, place / "state" / "store"], stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "holding\n"
        grown = churn()
        assert grown > settled + (1 << 20)  # not while a reader may need them
        reader.send_signal(signal.SIGKILL)
        reader.wait(10)
    assert store.check_readers() == 1
    churn()
    assert churn() <= grown + (1 << 20)


FOLLOWER = """
import sys, cyrusext
with cyrusext.open(sys.argv[1]) as index:
    for line in sys.stdin:
        found = index.lookup(line.strip().encode())
        print(found and found.server, flush=True)
"""


def test_reader_follows_a_larger_map(tmp_path: Path) -> None:
    """The node started again with more room, while others go on reading."""
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run", map_size=1 << 20) as store:
        put(store, record(b"user.a"))
    with subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, tmp_path / "state"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None

        def ask(name: str) -> str:
            assert reader.stdin is not None
            assert reader.stdout is not None
            reader.stdin.write(name + "\n")
            reader.stdin.flush()
            return reader.stdout.readline().strip()

        assert ask("user.a") == "be1"
        with Store.open(tmp_path / "state", run_dir=tmp_path / "run", map_size=64 << 20) as store:
            put(store, *(record(b"user.%d" % n, "be2")._replace(acl=b"x" * 100_000) for n in range(50)))
            put(store, record(b"user.b", "be3"))
            assert ask("user.b") == "be3"
            assert ask("user.a") == "be1"
            assert ask("user.nobody") == "None"
        reader.stdin.close()
        assert reader.wait(10) == 0


def test_the_library_shows_all_that_a_caller_needs_to_name() -> None:
    for name in cyrusext.__all__:
        assert getattr(cyrusext, name).__name__ == name
    with pytest.raises(cyrusext.IndexUnavailable):
        cyrusext.open("/nonexistent")
