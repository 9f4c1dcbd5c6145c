"""What a developer's process sees of an Index: shared Locations, names in any form, errors that help, a safe close."""

from __future__ import annotations

import ast
import contextlib
import gc
import inspect
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import cyrusext
from cyrusext.errors import IndexCorrupt, IndexUnavailable, IndexVersion, InvalidName
from cyrusext.index import Index, _cyx, _lookup
from cyrusext.model import MAX_NAME, Flag, Location, MailboxRecord, State
from cyrusext.store import Store

NAMES = [b"user.u%d" % number for number in range(10_000)]


def record(name: bytes, server: str = "be1", acl: bytes = b"anyone\tlrs\t") -> MailboxRecord:
    return MailboxRecord(name, State.ACTIVE, server, "default", acl)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run", map_size=64 << 20) as opened:
        yield opened


@pytest.fixture
def index(tmp_path: Path, store: Store) -> Iterator[Index]:
    with cyrusext.open(tmp_path / "state") as opened:
        yield opened


def put(store: Store, *records: MailboxRecord) -> None:
    with store.begin() as transaction:
        transaction.put_many(records)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("hot", [True, False], ids=["table", "store"])
def test_a_hit_makes_nothing(store: Store, index: Index, hot: bool) -> None:
    put(store, *(record(name, f"be{number % 50}") for number, name in enumerate(NAMES)))
    if hot:
        store.build_hot()
        index.refresh()
    assert bool(index.hot_generation) is hot
    texts = [name.decode() for name in NAMES]
    lookup = index.lookup

    def all_hits() -> None:
        for name in NAMES:
            lookup(name)
        for text in texts:
            lookup(text)

    all_hits()  # every place is met
    gc.collect()
    tracemalloc.start()
    try:
        before, blocks = tracemalloc.get_traced_memory()[0], sys.getallocatedblocks()
        tracemalloc.reset_peak()
        all_hits()
        after, peak = tracemalloc.get_traced_memory()
        grown = sys.getallocatedblocks() - blocks
    finally:
        tracemalloc.stop()
    assert after - before < 1024, "it keeps something of 20 000 hits"
    assert peak - before < 1024, "it made something, and threw it away again"
    assert grown < 10
    found = index.lookup_many(NAMES)
    assert {id(each) for each in found} == {id(index.lookup(name)) for name in NAMES}
    assert len({id(each) for each in found}) == 50


def test_one_location_for_each_place(store: Store, index: Index) -> None:
    """However many there are, whoever answers, and also when the store was replaced by one with other numbers."""
    places = [record(b"user.p%d" % number)._replace(partition=f"p{number}") for number in range(3000)]
    put(store, *places, record(b"user.a"), record(b"user.b", acl=b"b\tlrs\t"), record(b"user.c", "be2"))
    first, second, other = index.lookup_many([b"user.a", b"user.b", b"user.c"])
    assert first is second
    assert first is not other
    assert first == Location("be1", "default", State.ACTIVE, Flag.NONE)
    assert first is not None
    assert str(first.location) == "be1!default"
    met = index.lookup_many([each.name for each in places])
    assert len({id(each) for each in met}) == 3000
    store.build_hot()
    index.refresh()
    again = index.lookup_many([each.name for each in places])
    assert all(one is two for one, two in zip(met, again, strict=True))
    assert index.lookup(b"user.b") is first
    assert index.probe(b"user.b")[0] is first


def test_the_same_place_in_a_new_store_is_the_same_location(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store:
        put(store, record(b"user.x", "other"), record(b"user.a"))
    with Index(tmp_path / "state") as index:
        before = index.lookup(b"user.a")
        for file in (tmp_path / "state" / "store").iterdir():
            file.unlink()
        with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store:
            put(store, record(b"user.a"))
        index.refresh()
        assert index.lookup(b"user.a") is before


def test_the_acl_comes_from_the_store(store: Store, index: Index) -> None:
    long = b"anyone\tlrs\t" * 3000
    put(store, record(b"user.a"), record(b"user.long", acl=long), record(b"user.bare", acl=b""))
    assert index.acl(b"user.a") == index.acl("user.a") == b"anyone\tlrs\t"
    assert index.acl(b"user.long") == long
    assert index.acl(b"user.bare") == b""
    assert index.acl(b"user.nobody") is None
    put(store, record(b"user.a")._replace(state=State.DELETED))
    assert index.acl(b"user.a") is None


# Every method that takes a name or an address, and what it gives for the mailbox user.j\xf6rg (in Latin-1).
ODD = b"user.j\xf6rg"
METHODS: list[tuple[str, Callable[[Index, str | bytes], object]]] = [
    ("lookup", lambda index, name: index.lookup(name)),
    ("lookup_many", lambda index, name: index.lookup_many([b"user.other", name, name])[2]),
    ("get", lambda index, name: index.get(name)),
    ("acl", lambda index, name: index.acl(name)),
    ("probe", lambda index, name: index.probe(name)[0]),
    ("history", lambda index, name: index.history(name) or None),
    ("walk", lambda index, name: next(index.walk(name), None)),
    ("deleted_at", lambda index, name: index.deleted_at(name) is None or None),
]
BY_NAME = pytest.mark.parametrize("method", [method for _, method in METHODS], ids=[name for name, _ in METHODS])


@BY_NAME
def test_a_name_is_bytes_or_str(store: Store, index: Index, method: Callable[[Index, str | bytes], object]) -> None:
    put(store, record(ODD), record("user.jörg".encode()))
    for raw in (ODD, "user.jörg".encode()):
        wanted = method(index, raw)
        assert wanted is not None
        assert method(index, raw.decode("utf-8", "surrogateescape")) == wanted
    assert index.locate("jörg@example.org") is index.locate("jörg@example.org".encode()) is index.lookup("user.jörg")
    assert index.locate("j\udcf6rg") is index.lookup(ODD)


@BY_NAME
@pytest.mark.parametrize(
    ("name", "said"),
    [
        (b"", "is empty"),
        ("", "is empty"),
        (b"x" * (MAX_NAME + 1), "491 bytes, at most 490"),
        ("ä" * 246, "492 bytes, at most 490"),
        (b"user.a\0b", "NUL"),
        ("user.a\nb", "LF"),
        ("user.\ud800", "surrogate"),
    ],
    ids=["no bytes", "no text", "too long", "text too long", "NUL", "LF", "lone surrogate"],
)
def test_no_name_at_all(
    store: Store, index: Index, method: Callable[[Index, str | bytes], object], name: str | bytes, said: str
) -> None:
    put(store, record(b"user.a"))
    if not name and method is dict(METHODS)["walk"]:
        assert method(index, name) is not None  # all there is
        return
    with pytest.raises(InvalidName, match=said):
        method(index, name)
    store.build_hot()
    store.beat(fresh=True)
    index.refresh()
    with pytest.raises(InvalidName, match=said):
        method(index, name)


@BY_NAME
@pytest.mark.parametrize("wrong", [None, 7, bytearray(b"user.a"), memoryview(b"user.a"), ["user.a"]])
def test_wrong_types(index: Index, method: Callable[[Index, object], object], wrong: object) -> None:
    with pytest.raises(TypeError, match="is bytes or str, not"):
        method(index, wrong)


def test_wrong_arguments(index: Index) -> None:
    for call in (
        lambda: index.lookup(),  # type: ignore[call-arg]
        lambda: index.lookup(b"a", b"b"),  # type: ignore[call-arg]
        lambda: index.lookup_many(7),  # type: ignore[arg-type]
        lambda: index.locate(None),  # type: ignore[arg-type]
        lambda: cyrusext.open(7),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()


def test_a_list_may_be_any_iterable(store: Store, index: Index) -> None:
    put(store, record(b"user.a"))
    nothing: tuple[Iterable[bytes], ...] = ([], (), iter(()), {})
    for names in nothing:
        assert index.lookup_many(names) == []
    many: list[str | bytes] = [b"user.a"] * 1000
    for _ in range(100):
        many += ["user.a", b"user.b", "user.ä"]
    for each in (many, tuple(many), iter(many)):
        found = index.lookup_many(each)
        assert len(found) == 1300
        assert found.count(None) == 200


# The index can not be opened


def test_no_index_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        IndexUnavailable, match=f"there is no {tmp_path}/none: give the node's state_dir.*start"
    ) as missing:
        cyrusext.open(tmp_path / "none")
    assert str(tmp_path) not in missing.value.public
    (tmp_path / "empty").mkdir()
    with pytest.raises(IndexUnavailable, match=f"there is no {tmp_path}/empty/store"):
        cyrusext.open(tmp_path / "empty")
    (tmp_path / "file").write_bytes(b"text")
    with pytest.raises(IndexUnavailable, match=f"{tmp_path}/file is not what the node made"):
        cyrusext.open(tmp_path / "file")
    (tmp_path / "empty" / "store").write_bytes(b"text")
    with pytest.raises(IndexUnavailable, match=f"{tmp_path}/empty/store is not what the node made"):
        cyrusext.open(tmp_path / "empty")
    (tmp_path / "text" / "store").mkdir(parents=True)
    (tmp_path / "text" / "store" / "data.mdb").write_bytes(b"text")
    with pytest.raises(IndexCorrupt, match=f"{tmp_path}/text/store/data.mdb is not.*restart the node"):
        cyrusext.open(tmp_path / "text")


def test_an_index_of_a_newer_version(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run") as store, store.begin():
        store._writer.set_number(b"format", 99)
    with pytest.raises(IndexVersion, match=f"format 99.*node that wrote {tmp_path}/state has another version"):
        cyrusext.open(tmp_path / "state")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_an_index_that_this_user_may_not_read(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run", reader_group="nogroup"):
        assert "add it to the group nogroup (the node's reader_group)" in refused(tmp_path / "state")
        (tmp_path / "state").chmod(0o700)
        assert f"user 65534 may not enter {tmp_path}/state" in refused(tmp_path / "state")


def refused(state_dir: Path) -> str:
    """What an IndexUnavailable says to a user in no group."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(12345)
            os.setuid(65534)
            try:
                Index(state_dir)
            except IndexUnavailable as error:
                os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


# close


def test_after_close_everything_says_so(store: Store, index: Index) -> None:
    put(store, *(record(name) for name in NAMES[:1500]))
    found = index.lookup(b"user.u1")
    walk, untouched = index.walk(), index.walk()
    assert next(walk).name == b"user.u0"
    index.close()
    index.close()
    for _, method in METHODS:
        with pytest.raises(ValueError, match="the index is closed"):
            method(index, b"user.u1")
    for question in (
        lambda: index.fresh,
        lambda: index.fresh_within(1),
        lambda: index.hot_generation,
        lambda: index.rules,
        lambda: index.is_empty,
        lambda: index.may_be_old,
        index.refresh,
        lambda: next(untouched),
        lambda: list(walk),
    ):
        with pytest.raises(ValueError, match="the index is closed"):
            question()
    assert found == Location("be1", "default", State.ACTIVE, Flag.NONE)


CLOSERS = """
import gc, os, sys, threading
import cyrusext

def use(index, method, done):
    names = [b"user.u%d" % number for number in range(600)]
    try:
        while True:
            if method == "walk":
                for _ in index.walk():
                    pass
            elif method == "many":
                index.lookup_many(names)
            elif method == "one":
                index.lookup(names[3]); index.acl(names[4]); index.get(names[5]); index.fresh
            else:
                index.history(names[6]); index._reader.stat(); index._reader.changed(0, 100)
    except ValueError as error:
        assert str(error) == "the index is closed", error
        done.append(method)

def turn(state, seconds):
    index = cyrusext.open(state)
    done, begun = [], threading.Barrier(9)
    def run(method):
        begun.wait()
        use(index, method, done)
    threads = [threading.Thread(target=run, args=(method,)) for method in ("walk", "many", "one", "rest") * 2]
    for thread in threads:
        thread.start()
    begun.wait()
    threading.Event().wait(seconds)
    index.close()
    for thread in threads:
        thread.join(60)
    assert len(done) == 8, done

sys.setswitchinterval(1e-5)
gc.set_threshold(50)  # collections, and with them other threads, at every turn
def descriptors():
    return len(os.listdir("/proc/self/fd"))
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = descriptors()
for number in range(5):
    turn(sys.argv[1], 0.002)
memory = resident()
for number in range(int(sys.argv[2])):
    turn(sys.argv[1], 0.001 * (number % 7))
assert descriptors() == before, (descriptors(), before)
assert resident() - memory < 8 << 20, resident() - memory
print("done")
"""


def test_close_beside_lookups_in_other_threads(tmp_path: Path, store: Store) -> None:
    """In a process of its own: what is wrong here is a crash."""
    put(store, *(record(name, acl=b"anyone\tlrs\t" * 20) for name in NAMES[:3000]))
    store.build_hot()
    store.beat(fresh=True)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", CLOSERS, tmp_path / "state", "40"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
    assert store.check_readers() == 0


def test_opening_and_closing_leaves_nothing_behind(tmp_path: Path, store: Store) -> None:
    put(store, *(record(name, f"be{number % 300}") for number, name in enumerate(NAMES[:1000])))

    def turn() -> None:
        with cyrusext.open(tmp_path / "state") as index:
            index.lookup_many(NAMES[:1000])
            with contextlib.suppress(InvalidName):
                index.lookup_many([b"user.a", b""])
            list(index.walk())
        with contextlib.suppress(IndexUnavailable):
            cyrusext.open(tmp_path)

    for _ in range(20):
        turn()
    gc.collect()
    before, files = sys.getallocatedblocks(), descriptors()
    for _ in range(200):
        turn()
    gc.collect()
    assert sys.getallocatedblocks() - before < 200
    assert descriptors() == files


def test_an_abandoned_index_is_closed(tmp_path: Path, store: Store) -> None:
    put(store, record(b"user.a"))
    files = descriptors()
    store.close()
    walk = cyrusext.open(tmp_path / "state").walk()
    assert next(walk).name == b"user.a"
    del walk
    gc.collect()
    assert descriptors() < files


# The stubs


@pytest.mark.parametrize("module", [_cyx, _lookup], ids=lambda module: module.__name__)
def test_the_stub_is_the_class(module: object) -> None:
    """Every method and property of the compiled classes is in the stub, with the same arguments, and nothing else."""
    stub = Path(inspect.getfile(module)).with_name(f"{module.__name__.rpartition('.')[2]}.pyi")  # type: ignore[arg-type, attr-defined]
    tree = ast.parse(stub.read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    compiled = {name: each for name, each in vars(module).items() if isinstance(each, type) and "Cython" not in name}
    compiled = {name: each for name, each in compiled.items() if each.__module__ == module.__name__}  # type: ignore[attr-defined]
    assert classes.keys() == compiled.keys()
    for name, node in classes.items():
        functions = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
        there = {key for key in vars(compiled[name]) if not key.startswith("__")}
        assert functions.keys() - {"__init__"} == there
        for key in there:
            member = vars(compiled[name])[key]
            if callable(member):
                arguments = functions[key].args
                wanted = [arg.arg for arg in (*arguments.posonlyargs, *arguments.args)]
                assert list(inspect.signature(member).parameters) == wanted, key
            else:
                assert functions[key].decorator_list, f"{key} is a property"
