"""docs/import-cyrusext.md is true: its Python is run, its C is built with the library as it is installed, and run."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyrusext.model import MailboxRecord, State
from cyrusext.store import Store

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "import-cyrusext.md"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """What the page says of its store."""
    acl = b"anyone\tlrs\t"
    records = [
        MailboxRecord(b"user.alice", State.ACTIVE, "be1", "default", acl, changed_by="import"),
        MailboxRecord(b"user.alice.Sent", State.ACTIVE, "be1", "default", acl, changed_by="import"),
        MailboxRecord(b"user.bob", State.ACTIVE, "be2", "default", acl, changed_by="import"),
        MailboxRecord(b"user.carol", State.RESERVED, "be1", "default", b"", changed_by="import"),
        MailboxRecord(b"shared.dept", State.ACTIVE, "be2", "default", acl, changed_by="import"),
    ]
    with Store.open(tmp_path / "state", run_dir=tmp_path / "run", map_size=1 << 24) as store:
        transaction = store.begin()
        transaction.put_many(records)
        transaction.commit()
        store.build_hot()
        store.beat(fresh=True)
        yield store


def code(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_python(store: Store, tmp_path: Path) -> None:
    examples = doctest.DocTestParser().get_doctest(
        "\n".join(code("python")), {"state_dir": tmp_path / "state"}, PAGE.name, str(PAGE), 0
    )
    assert len(examples.examples) > 15
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    store.beat(fresh=True)
    runner.run(examples, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_the_c(store: Store, tmp_path: Path) -> None:
    """As a stranger would: installed somewhere, found by pkg-config."""
    prefix = tmp_path / "usr"
    subprocess.run(
        ["make", "-s", "-C", ROOT / "csrc", f"OUT={tmp_path / 'build'}", f"PREFIX={prefix}", "install"], check=True
    )
    assert {path.name for path in prefix.rglob("*") if path.is_file()} == {
        *("cyrusext.h", "libcyrusext.so.0", "cyrusext.pc", "cyx")
    } | {"libcyrusext.so"}
    [source] = code("c")
    (tmp_path / "where.c").write_text(source)
    found = {**os.environ, "PKG_CONFIG_PATH": f"{prefix}/lib/pkgconfig"}
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "cyrusext"], env=found, capture_output=True, text=True, check=True
    ).stdout
    command = ["cc", "-Wall", "-Wextra", "-Werror", "where.c", *shlex.split(flags), "-o", "where"]
    subprocess.run(command, cwd=tmp_path, check=True)

    def where(name: str) -> tuple[int, str]:
        done = subprocess.run(
            [tmp_path / "where", tmp_path / "state", name],
            env={**os.environ, "LD_LIBRARY_PATH": f"{prefix}/lib"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    store.beat(fresh=True)
    assert where("user.bob") == (0, "be2!default\n")
    assert where("user.nobody") == (1, "no such mailbox\n")
    store.beat(fresh=False)
    assert where("user.nobody") == (1, "try again later\n")
    status, said = where("")
    assert status == 75 and "name" in said
