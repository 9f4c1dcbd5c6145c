"""kill -9 at each step of an upgrade, and a full disk in it: the old store is whole, and the next start upgrades it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.harness.old_store import WALK, unpack

CSRC = Path(__file__).resolve().parents[2] / "csrc"
COMMIT = ["commit-start", "commit-trimmed", "commit-counts", "commit-seq", "commit-before", "commit-after"]
SOURCES = [CSRC / "libcyrusext" / name for name in ("upgrade.c", "rekey.c")]
POINTS = [
    *sorted(
        {point for path in SOURCES for point in re.findall(r'CYX_FAILPOINT\("(upgrade-[a-z]+)"\)', path.read_text())}
    ),
    *COMMIT,
]

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    subprocess.run(["make", "-s", "-C", CSRC, f"OUT={out}", "all", "crash_writer"], check=True)
    return out / "bin"


def start(programs: Path, place: Path, *before: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Open the store as a node does, and close it."""
    return subprocess.run(
        [*before, programs / "crash_writer", place / "state", place / "run", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


def cyx(programs: Path, place: Path, verb: str) -> bytes:
    return subprocess.run([programs / "cyx", verb, place / "state"], capture_output=True, check=True).stdout


def is_whole(programs: Path, place: Path) -> None:
    assert cyx(programs, place, "verify") == b""
    assert cyx(programs, place, "walk") == WALK.read_bytes()


def format_of(programs: Path, place: Path) -> int:
    stat = dict(line.split(b"\t") for line in cyx(programs, place, "stat").splitlines())
    return int(stat[b"format"])


def test_the_points_are_passed_once_in_the_upgrade(programs: Path, tmp_path: Path) -> None:
    unpack(tmp_path / "state")
    log = tmp_path / "points"
    assert start(programs, tmp_path, CYREXT_FAILPOINT_LOG=str(log)).returncode == 0
    passed = log.read_text().split()
    upgrade = passed[passed.index("upgrade-start") : passed.index("upgrade-done") + 1]
    assert sorted(upgrade) == sorted(POINTS)
    assert start(programs, tmp_path, CYREXT_FAILPOINT_LOG=str(tmp_path / "again")).returncode == 0
    assert "upgrade-start" not in (tmp_path / "again").read_text()


@pytest.mark.parametrize("point", POINTS)
def test_kill_at(point: str, programs: Path, tmp_path: Path) -> None:
    unpack(tmp_path / "state")
    assert start(programs, tmp_path, CYREXT_FAILPOINT=point).returncode == -9
    is_whole(programs, tmp_path)
    assert format_of(programs, tmp_path) == (2 if point in ("commit-after", "upgrade-done") else 1)
    assert start(programs, tmp_path).returncode == 0
    is_whole(programs, tmp_path)
    assert format_of(programs, tmp_path) == 2


def test_kill_when_the_records_have_new_keys_and_nothing_else_has(programs: Path, tmp_path: Path) -> None:
    unpack(tmp_path / "state", "carets.mdb.xz")
    assert start(programs, tmp_path, CYREXT_FAILPOINT="upgrade-rekeyed").returncode == -9
    assert format_of(programs, tmp_path) == 1
    assert start(programs, tmp_path).returncode == 0
    assert format_of(programs, tmp_path) == 2
    assert cyx(programs, tmp_path, "verify") == b""
    assert len(cyx(programs, tmp_path, "walk").splitlines()) == 9


FULL = """
set -eu
mount -t tmpfs -o size=1m tmpfs "$1/state"
cp -r --sparse=always "$1/kept" "$1/state/store"
shift
cat /dev/zero > "$PLACE/state/filler" 2>&1 || true
if "$@" 2>&1; then echo opened; fi
rm "$PLACE/state/filler"
"$@" 2>&1 && echo opened later
cp --sparse=always "$PLACE/state/store/data.mdb" "$PLACE/data.mdb"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted, which needs root")
def test_a_full_disk_is_named_and_loses_nothing(programs: Path, tmp_path: Path) -> None:
    unpack(tmp_path / "state")
    (tmp_path / "state/store").rename(tmp_path / "kept")
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", FULL, "sh", str(tmp_path)]
    done = start(programs, tmp_path, *unshare, PLACE=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if "cat:" not in line]
    assert said[-1] == "opened later"
    assert "opened" not in said[:-1]
    assert re.search(r"crash_writer: open: no space left for the store", "\n".join(said)), said
    (tmp_path / "state/store").mkdir()
    (tmp_path / "data.mdb").rename(tmp_path / "state/store/data.mdb")
    is_whole(programs, tmp_path)
    assert format_of(programs, tmp_path) == 2
