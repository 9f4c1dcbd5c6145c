"""kill -9 at each named step of a commit: nothing acknowledged is lost, nothing is half there.

The writer is a C program built with fail-points; a point that is never passed fails the run.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
ROUNDS = 40
POINTS = sorted(
    {
        name
        for source in [*CSRC.glob("libcyrusext/*.c"), CSRC / "tests" / "crash_writer.c"]
        for name in re.findall(r'CYX_FAILPOINT\("([a-z-]+)"\)', source.read_text())
        if not name.startswith("upgrade-")  # test_store_upgrade.py
    }
)
STATES = {"1": "RESERVED", "2": "ACTIVE", "3": "DELETED"}

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    subprocess.run(["make", "-s", "-C", CSRC, f"OUT={out}", "all", "crash_writer"], check=True)
    return out / "bin"


def write(programs: Path, place: Path, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [programs / "crash_writer", place / "state", place / "run", str(ROUNDS)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout


def after_rounds(lines: str, rounds: int) -> dict[str, tuple[str, str]]:
    """What is known of every name when the first `rounds` rounds are applied (purges apart): state and server."""
    known = {}
    for line in lines.splitlines():
        word, *rest = line.split()
        if word == "put" and int(rest[0]) < rounds:
            known[rest[1]] = (STATES[rest[2]], rest[3])
    return known


def alive(known: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {name: value for name, value in known.items() if value[0] != "DELETED"}


def walk(programs: Path, place: Path) -> dict[str, tuple[str, str]]:
    text = subprocess.run(
        [programs / "cyx", "walk", place / "state"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split("\t") for line in text.splitlines()]
    return {name: (state, location.partition("!")[0]) for name, state, location, *_ in rows}


def look_up(programs: Path, place: Path, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """What each name's look-up says: from the hot table where that tells."""
    done = subprocess.run(
        [programs / "cyx", "many", place / "state"],
        input="".join(f"{name}\n" for name in names),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return {row[0]: (row[1], row[2].partition("!")[0]) for row in rows if row[1] != "-"}


def check(programs: Path, place: Path, lines: str) -> None:
    acknowledged = sum(line.startswith("ok ") for line in lines.splitlines())
    begun = len({line.split()[1] for line in lines.splitlines() if line.startswith("put ")})
    assert begun - acknowledged in (0, 1)
    possible = [alive(after_rounds(lines, rounds)) for rounds in range(acknowledged, begun + 1)]
    stored = walk(programs, place)
    assert stored in possible
    verified = subprocess.run(
        [programs / "cyx", "verify", place / "state"], capture_output=True, text=True, check=False
    )
    if stored != possible[0]:  # committed, and the table may lag until the next node retires it
        assert all("the hot table" in line for line in verified.stdout.splitlines()), verified.stdout
    else:
        assert (verified.returncode, verified.stdout) == (0, ""), verified.stderr
    names = after_rounds(lines, begun)
    found = look_up(programs, place, names)
    for name in names:  # a hit may be as old as the last round; a miss is the store's
        assert found.get(name) in [stored.get(name), *(known[name] for known in possible if name in known)]


@pytest.fixture(scope="module")
def hits(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """How often a whole run passes each point."""
    place = tmp_path_factory.mktemp("whole")
    log = place / "points"
    status, lines = write(programs, place, CYREXT_FAILPOINT_LOG=str(log))
    assert status == 0
    assert lines.count("ok ") == ROUNDS
    check(programs, place, lines)
    return Counter(log.read_text().split())


def test_every_point_is_passed(hits: Counter[str]) -> None:
    assert len(POINTS) >= 12
    assert set(hits) == set(POINTS)


@pytest.mark.parametrize("turn", ["first", "middle", "last"])
@pytest.mark.parametrize("point", POINTS)
def test_kill_at(point: str, turn: str, programs: Path, hits: Counter[str], tmp_path: Path) -> None:
    number = {"first": 1, "middle": (hits[point] + 1) // 2, "last": hits[point]}[turn]
    status, lines = write(programs, tmp_path, CYREXT_FAILPOINT=f"{point}:{number}")
    assert status == -9
    if "put " in lines:
        check(programs, tmp_path, lines)
    else:
        assert "ok " not in lines  # it died while opening
    # the next writer takes over what the dead one left
    status, more = write(programs, tmp_path)
    assert status == 0
    assert more.count("ok ") == ROUNDS
    verified = subprocess.run([programs / "cyx", "verify", tmp_path / "state"], capture_output=True, check=False)
    assert verified.returncode == 0
