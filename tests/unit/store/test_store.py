"""The store's writing side: transactions, sequence, tombstones, counts, limits, one writer."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyrusext.errors import InvalidName, StoreError, StoreFull
from cyrusext.model import MAX_ACL, Flag, MailboxRecord, State
from cyrusext.store import Store


def record(
    name: bytes, server: str = "be1", state: State = State.ACTIVE, acl: bytes = b"anyone\tlrs\t"
) -> MailboxRecord:
    return MailboxRecord(name, state, server, "default", acl)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run", map_size=64 << 20) as opened:
        yield opened


def put(store: Store, *records: MailboxRecord) -> list[MailboxRecord]:
    with store.begin() as transaction:
        return [transaction.put(each) for each in records]


def test_put_returns_what_get_gives(store: Store) -> None:
    wanted = MailboxRecord(
        b"user.alice", State.RESERVED, "be1", "", b"\xff\x01\t lrs\t", 99, Flag.HELD | Flag.SUSPECT, 7, "murder@::1"
    )
    (stored,) = put(store, wanted)
    assert stored == wanted._replace(seq=1)
    assert store.get(b"user.alice") == stored
    assert isinstance(stored, MailboxRecord)


def test_sequence_counts_every_put_and_survives(tmp_path: Path) -> None:
    for expected in (2, 4):
        with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store:
            first, second = put(store, record(b"user.a"), record(b"user.b"))
            assert (first.seq, second.seq, store.seq) == (expected - 1, expected, expected)


def test_time_is_filled_in_where_there_is_none(store: Store) -> None:
    (stored,) = put(store, record(b"user.a"))
    assert stored.changed_at > 1_700_000_000_000_000


def test_exception_aborts(store: Store) -> None:
    put(store, record(b"user.a"))
    with pytest.raises(ZeroDivisionError), store.begin() as transaction:
        transaction.put(record(b"user.a", "be2"))
        transaction.put(record(b"user.b", "a-new-server"))
        raise ZeroDivisionError
    found = store.get(b"user.a")
    assert found is not None
    assert found.server == "be1"
    assert store.get(b"user.b") is None
    assert store.seq == 1
    assert store.stat().servers == {"be1": 1}
    put(store, record(b"user.b", "another"))
    assert store.stat().servers == {"be1": 1, "another": 1}


def test_transaction_sees_its_own_changes_and_nobody_else_does(store: Store) -> None:
    with store.begin() as transaction:
        transaction.put(record(b"user.a"))
        inside = transaction.get(b"user.a")
        assert inside is not None
        assert inside.server == "be1"
        assert store.get(b"user.a") is None
    assert store.get(b"user.a") == inside


def test_second_begin_in_a_thread_is_refused(store: Store) -> None:
    with store.begin(), pytest.raises(StoreError, match="already begun"):
        store.begin()


def test_transaction_belongs_to_its_thread(store: Store) -> None:
    failures: list[BaseException] = []

    def intrude() -> None:
        try:
            transaction.put(record(b"user.a"))
        except StoreError as error:
            failures.append(error)

    with store.begin() as transaction:
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
    assert len(failures) == 1
    assert store.get(b"user.a") is None


def test_transactions_of_threads_queue(store: Store) -> None:
    def work(number: int) -> None:
        for turn in range(20):
            put(store, record(b"user.t%d.%d" % (number, turn)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.seq == 80
    assert store.stat().active == 80


def test_tombstones_leave_walks_and_counts(store: Store) -> None:
    put(store, record(b"user.a"), record(b"user.b", "be2"), record(b"user.c", state=State.RESERVED))
    put(store, record(b"user.a", state=State.DELETED))
    assert [each.name for each in store.chunk()] == [b"user.b", b"user.c"]
    assert [each.name for each in store.chunk(server="be1")] == [b"user.c"]
    assert [each.state for each in store.chunk(tombstones=True)] == [State.DELETED, State.ACTIVE, State.RESERVED]
    stat = store.stat()
    assert (stat.entries, stat.active, stat.reserved, stat.tombstones) == (2, 1, 1, 1)
    assert stat.servers == {"be1": 1, "be2": 1}


def test_purge_by_age_and_limit(store: Store) -> None:
    graves = [record(b"user.%d" % n, state=State.DELETED)._replace(changed_at=1000 + n) for n in range(5)]
    put(store, *graves, record(b"user.x")._replace(changed_at=1))
    assert store.purge_tombstones(1003, 2) == 2
    assert store.purge_tombstones(1003, 10) == 1
    assert store.purge_tombstones(1003, 10) == 0
    assert [each.name for each in store.chunk(tombstones=True)] == [b"user.3", b"user.4", b"user.x"]
    assert store.stat().tombstones == 2


def test_revived_name_is_no_tombstone(store: Store) -> None:
    put(store, record(b"user.a", state=State.DELETED), record(b"user.a"))
    assert store.purge_tombstones(1 << 62, 10) == 0
    assert store.stat().tombstones == 0
    assert [each.name for each in store.chunk()] == [b"user.a"]


def test_put_many_keeps_the_last_of_equal_names(store: Store) -> None:
    with store.begin() as transaction:
        assert transaction.put_many([record(b"user.b"), record(b"user.a"), record(b"user.b", "be2")]) == 3
    assert [(each.name, each.server) for each in store.chunk()] == [(b"user.a", "be1"), (b"user.b", "be2")]
    assert store.stat().servers == {"be1": 1, "be2": 1}


def test_hundred_thousand_and_the_bounded_change_log(tmp_path: Path, store: Store) -> None:
    records = [record(b"user.u%05d.%d" % (n // 3, n % 3), f"be{n % 7}") for n in range(105_000)]
    with store.begin() as transaction:
        transaction.put_many(records)
    assert store.stat().entries == 105_000
    last = b""
    seen = 0
    while chunk := store.chunk(after=last, limit=1000):
        assert len(chunk) == 1000
        last = chunk[-1].name
        seen += len(chunk)
    assert seen == 105_000
    put(store, records[0])
    assert store.seq == 105_001


def test_longest_name_and_acl(store: Store) -> None:
    name = b"user." + b"x" * 485
    put(store, record(name, acl=b"a" * MAX_ACL))
    stored = store.get(name)
    assert stored is not None
    assert len(stored.acl) == MAX_ACL
    put(store, record(name, state=State.DELETED))
    assert store.chunk() == []


@pytest.mark.parametrize("name", [b"", b"x" * 491, b"a\0b", b"a\rb", b"a\nb", b"a\x1db", b"a\x1fb"])
def test_name_no_record_can_have(store: Store, name: bytes) -> None:
    with store.begin() as transaction:
        with pytest.raises(InvalidName):
            transaction.put(record(name))
        transaction.put(record(b"user.good"))  # what was refused leaves the transaction whole
    assert [each.name for each in store.chunk()] == [b"user.good"]
    assert store.get(name) is None


@pytest.mark.parametrize("acl", [b"a\0", b"a\r", b"a\n", b"a" * (MAX_ACL + 1)])
def test_acl_no_record_can_have(store: Store, acl: bytes) -> None:
    with store.begin() as transaction, pytest.raises(InvalidName):
        transaction.put(record(b"user.a", acl=acl))


def test_failed_put_many_spoils_the_transaction(store: Store) -> None:
    with pytest.raises(StoreError), store.begin() as transaction, pytest.raises(InvalidName):
        transaction.put_many([record(b"user.a"), record(b"user.b", acl=b"\0")])
    assert store.chunk() == []
    put(store, record(b"user.c"))
    assert store.seq == 1


def test_second_writer_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(StoreError, match="this process"):
        Store.open(tmp_path / "state", run_dir=tmp_path / "run")
    program = (
        "import sys, pathlib\nfrom cyrusext.store import Store\nfrom cyrusext.errors import StoreError\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "try:\n    Store.open(place / 'state', run_dir=place / 'run')\n"
        "except StoreError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert "another process" in done.stdout
    put(store, record(b"user.a"))  # the attempts took nothing away


def test_map_full_is_refused_and_recovers(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run", map_size=2 << 20) as store:
        put(store, record(b"user.keep", "be0"))
        with pytest.raises(StoreFull) as caught, store.begin() as transaction:
            for number in range(100):
                transaction.put(record(b"user.%d" % number, "be9", acl=b"a" * 100_000))
        assert "/" not in caught.value.public
        assert [each.name for each in store.chunk()] == [b"user.keep"]
        assert store.stat().servers == {"be0": 1}
        put(store, record(b"user.small"))
        assert store.seq == 2
        assert store.stat().entries == 2


FILL = """
import pathlib, sys
from cyrusext.errors import StoreFull
from cyrusext.index import Index
from cyrusext.model import MailboxRecord, State
from cyrusext.store import Store

place = pathlib.Path(sys.argv[1])
put = lambda transaction, name, size: transaction.put(MailboxRecord(name, State.ACTIVE, "be1", "", b"x" * size))
with Store.open(place / "state", run_dir=place / "run") as store, Index(place / "state") as index:
    with store.begin() as transaction:
        put(transaction, b"user.keep", 10)
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    for turn in range(3):
        before = store.seq
        try:
            with store.begin() as transaction:
                for number in range(20):
                    put(transaction, b"user.%d" % number, 50_000)
            print("accepted")
        except StoreFull as error:
            print("full", store.seq == before, len(store.chunk()), index.lookup(b"user.keep").server, error.public)
    ballast.unlink()
    with store.begin() as transaction:
        put(transaction, b"user.more", 50_000)
    print("recovered", [record.name.decode() for record in store.chunk()], store.seq)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_full_disk_is_refused_and_recovers(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=1m tmpfs "$2" && exec "$0" -c "$1" "$2"'
    command = ["unshare", "-m", "sh", "-c", script, sys.executable, FILL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused = "full True 1 be1 no space left for the store"
    assert done.stdout.splitlines() == [refused] * 3 + ["recovered ['user.keep', 'user.more'] 2"]


def test_forked_child_may_not_write(store: Store) -> None:
    child = os.fork()
    if child == 0:
        try:
            store.begin()
        except StoreError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    put(store, record(b"user.a"))


def test_unknown_reader_group(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no group"):
        Store.open(tmp_path / "state", run_dir=tmp_path / "run", reader_group="no-such-group")


def test_modes_let_a_group_read(tmp_path: Path, store: Store) -> None:
    place = tmp_path / "state" / "store"
    assert oct(place.stat().st_mode & 0o7777) == "0o2750"
    assert oct((place / "data.mdb").stat().st_mode & 0o7777) == "0o640"
    assert oct((place / "lock.mdb").stat().st_mode & 0o7777) == "0o660"


def test_closed_store_says_so(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "state", run_dir=tmp_path / "run")
    store.close()
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.get(b"user.a")


def test_the_lock_file_has_no_hole_that_a_full_disk_could_not_fill(tmp_path: Path) -> None:
    lock = tmp_path / "state/store/lock.mdb"
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run"):
        size = lock.stat().st_size
        assert lock.stat().st_blocks * 512 >= size
    lock.unlink()
    lock.touch()
    os.truncate(lock, size)  # as LMDB itself leaves it
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run"):
        assert (lock.stat().st_size, lock.stat().st_blocks * 512 >= size) == (size, True)
