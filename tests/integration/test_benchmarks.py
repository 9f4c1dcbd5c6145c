"""Do the benchmarks still run, and do they say nothing where they have nothing to say?

Each script runs at toy size, both servers real; its figures mean nothing and go to a temporary page.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.rig.engines import compile_engine, run_here
from benchmarks.rig.generator import LoadFailed, ServerSilent, load
from tests.harness.mupdate import Mupdate
from tests.harness.ours import Node
from tests.harness.roots import Root
from tests.harness.sandbox import CHECKOUT
from tests.harness.topology import lone_node

pytestmark = pytest.mark.integration

OTHERS = {"sasl_cost.py"}
SCRIPTS = sorted(path.name for path in (CHECKOUT / "benchmarks").glob("*.py") if path.name not in OTHERS)
RECORDS = 80


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_runs_and_writes_its_section(script: str, root: Root, tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text(f"# Results\n\n<!-- begin {script} -->\nthe last run\n<!-- end {script} -->\n\nkept\n")
    program = [sys.executable, str(CHECKOUT / "benchmarks" / script)]
    options = ["--toy", "--results", str(page), "--release", root.suite]
    done = subprocess.run([*program, *options], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith(f"# Results\n\n<!-- begin {script} -->\n## ")
    assert text.endswith(f"<!-- end {script} -->\n\nkept\n")
    assert "×" in text and "the last run" not in text
    assert f"({root.suite})" in text


def test_a_missing_peer_leaves_no_table(root: Root, tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    program = f"""
import sys
from benchmarks.rig.results import RATE, Figures, table
from benchmarks.rig.script import run
def measure(bench):
    figures = Figures({{}})
    figures.add("FIND", "node", 1.0)
    return table([figures.row("FIND")], RATE, "per s")
sys.exit(run("alone.py", "Alone", 20, measure, ["--toy", "--results", {str(page)!r}, "--release", {root.suite!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "stock has no figures" in done.stderr
    assert not page.exists()
    assert "×" not in done.stdout


def test_an_engine_fails_on_wrong_answers(tmp_path: Path) -> None:
    program = compile_engine("cdb", ["cdb"])
    run_here("tinycdb", [program, "build", tmp_path, 700])
    assert run_here("tinycdb", [program, "measure", tmp_path, 700, 1000])["loop_ns"] > 0
    with pytest.raises(LoadFailed, match=r"tinycdb: cdb: [0-9]+ wrong answers"):
        run_here("tinycdb", [program, "measure", tmp_path, 1400, 1000])


def test_an_engine_that_fails_leaves_no_table_and_lets_the_others_run(root: Root, tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    program = f"""
import sys
from benchmarks import lookup
broken = lookup.ENGINES[2]._replace(libraries=("cdb", "nosuchlibrary"))
lookup.ENGINES = (broken, *(engine for engine in lookup.ENGINES if engine.program == "cyx"))
sys.exit(lookup.main(["--toy", "--results", {str(page)!r}, "--release", {root.suite!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 1
    assert "3,000 names, tinycdb: cdb can not be built" in done.stderr
    assert "ours, store: {" in done.stderr
    assert not page.exists()
    assert "×" not in done.stdout


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with lone_node(tmp_path_factory.mktemp("s")) as node:
        load("fill", node.address, count=RECORDS, depth=8)
        yield node


def test_the_generator_counts_right_answers(node: Node) -> None:
    assert load("find", node.address, records=RECORDS, count=100, depth=8, miss=50).number("answered") == 100
    assert load("list", node.address, connections=2, expect=RECORDS).number("records") == 2 * RECORDS


def test_the_generator_fails_on_a_wrong_answer(node: Node) -> None:
    with pytest.raises(LoadFailed, match="wrong answer for record"):
        load("find", node.address, records=10 * RECORDS, count=1000, depth=8)
    with pytest.raises(LoadFailed, match="80 records instead of 81"):
        load("update", node.address, expect=RECORDS + 1)
    with Mupdate(node.address) as client:
        client.ok(b"ACTIVATE", b"user.x0000000", b"be1.lab!default", b"x0000000\tlrs\t")
    with pytest.raises(LoadFailed, match="wrong record"):
        load("find", node.address, stem="x", records=1, count=1)


def test_the_generator_fails_on_a_missing_answer(node: Node) -> None:
    node.hang()
    try:
        with pytest.raises(ServerSilent):
            load("find", node.address, records=RECORDS, count=10, patience=1)
        with pytest.raises(ServerSilent):
            load("await", node.address, patience=1)
    finally:
        node.resume()
