"""`cyx` with bad input: a sentence that helps, and a status that is documented."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from cyrusext.model import MailboxRecord, State
from cyrusext.store import Store
from tests.harness.damage import damage, flip_behind, key_of
from tests.harness.sandbox import CHECKOUT

CYX = CHECKOUT / "build/bin/cyx"
PAGE = CHECKOUT / "docs/operations/cyx.md"
NAMES = (b"user.a", b"user.b", b"example.org!user.c")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run", map_size=64 << 20) as store:
        with store.begin() as transaction:
            transaction.put_many([MailboxRecord(name, State.ACTIVE, "be1", "default", b"a\tlrs\t") for name in NAMES])
        store.build_hot()
        store.beat(fresh=True)
    return tmp_path / "state"


def run(*arguments: str | Path, given: bytes = b"") -> tuple[int, str, str]:
    done = subprocess.run([CYX, *arguments], input=given, capture_output=True, timeout=60, check=False)
    assert f"| {done.returncode} |" in PAGE.read_text()
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_what_is_there(state: Path) -> None:
    code, out, err = run("many", state, given=b"\n".join(NAMES))
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"{name.decode()}\tACTIVE\tbe1!default\t0" for name in NAMES]
    assert run("verify", state) == (0, "", "")
    assert run("get", state, "user.nobody")[0] == 1


@pytest.mark.parametrize("verb", ["many", "walk", "stat", "verify"])
def test_no_store_there(tmp_path: Path, verb: str) -> None:
    code, out, err = run(verb, tmp_path / "nowhere", given=b"user.a\n")
    assert (code, out) == (69, "")
    assert re.fullmatch(r"cyx: .*nowhere/store/data\.mdb: No such file or directory .*state_dir of the node.*\n", err)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read it")
def test_who_may_not_read_it(state: Path) -> None:
    command = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", str(CYX), "stat", str(state)]
    for place in (state, *state.parents):
        if place.stat().st_uid == os.geteuid() and place != Path("/") and str(place).startswith("/tmp/"):
            place.chmod(0o755)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (69, "")
    assert "Permission denied" in done.stderr
    assert "reader_group" in done.stderr


@pytest.mark.parametrize("verb", ["get", "many", "stat", "verify"])
def test_a_newer_store(state: Path, verb: str) -> None:
    with Store.open(state, run_dir=state.parent / "run") as store, store.begin():
        store._writer.set_number(b"format", 99)
    code, out, err = run(verb, state, *(["user.a"] if verb == "get" else []), given=b"user.a\n")
    assert (code, out) == (69, "")
    assert "format 99, this version opens 1 to 2" in err
    assert "came with the node" in err


BAD = {
    "empty": (b"", "is empty"),
    "too long": (b"x" * 491, "491 bytes, at most 490"),
    "far too long": (b"x" * 100_000, "100000 bytes, at most 490"),
    "NUL": (b"user.a\0b", "has a NUL"),
    "CR": (b"user.a\r", "has a NUL, CR"),
}


@pytest.mark.parametrize("what", BAD)
def test_many_with_a_name_that_can_not_be(state: Path, what: str) -> None:
    name, sentence = BAD[what]
    code, out, err = run("many", state, given=b"user.a\n" + name + b"\nuser.b\n")
    assert code == 2
    assert err.startswith("cyx: line 2: ")
    assert sentence in err
    assert out == "user.a\tACTIVE\tbe1!default\t0\n"


@pytest.mark.parametrize("name", ["", "x" * 491, "a\rb"])
def test_get_with_a_name_that_can_not_be(state: Path, name: str) -> None:
    code, out, err = run("get", state, name)
    assert (code, out) == (2, "")
    assert err.startswith("cyx: argument 1: mailbox name ")


@pytest.mark.parametrize(
    "arguments", [(), ("get",), ("get", "x"), ("nonsense", "x"), ("stat", "x", "y"), ("many", "x", "y")]
)
def test_usage(arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: cyx get STATE_DIR NAME...")


def test_a_damaged_record(state: Path) -> None:
    key = key_of(b"user.b")
    damage(state / "store/data.mdb", key, flip_behind(key))
    (state.parent / "run/hot").unlink()
    code, _, err = run("get", state, "user.b")
    assert code == 75
    assert "the record of user.b fails its checksum (cyx verify says more;" in err
    assert run("get", state, "user.a")[0] == 0
    code, out, err = run("verify", state)
    assert (code, err) == (1, "")
    assert "a record that fails its checksum" in out
    assert "start the node" in out


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 8191, 8192])
def test_a_store_that_was_cut_off(state: Path, size: int) -> None:
    os.truncate(state / "store/data.mdb", size)
    for verb in ("verify", "stat"):
        code, out, err = run(verb, state)
        assert code in (1, 69, 75)
        assert out + err != ""


def test_a_hot_table_of_rubbish(state: Path) -> None:
    (state.parent / "run/hot").write_bytes(b"rubbish " * 1000)
    assert run("get", state, "user.a")[0] == 0
    code, out, _ = run("verify", state)
    assert code == 1
    assert out.endswith("run/hot is no hot table\n")
