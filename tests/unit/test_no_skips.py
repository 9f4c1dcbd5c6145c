"""On CI a skip fails the run; at a desk it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CASES = {
    "a test": "def test_one():\n    pytest.skip('no server')\n",
    "a fixture": "@pytest.fixture\ndef it():\n    pytest.skip('no server')\n\ndef test_one(it):\n    pass\n",
    "a mark": "@pytest.mark.skip(reason='no server')\ndef test_one():\n    pass\n",
    "a whole file": "pytest.skip('no server', allow_module_level=True)\n",
    "an expected failure": "@pytest.mark.xfail(reason='no server')\ndef test_one():\n    assert False\n",
}


def run(place: Path, body: str, ci: str) -> subprocess.CompletedProcess[str]:
    (place / "test_it.py").write_text(f"import pytest\n\ndef test_other():\n    pass\n\n{body}")
    (place / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.plugins.no_skips", "-p", "no:cacheprovider", str(place)],
        cwd=place,
        env=os.environ | {"CI": ci, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("case", CASES)
def test_a_skip_fails_the_run_on_ci(tmp_path: Path, case: str) -> None:
    ran = run(tmp_path, CASES[case], "true")
    assert ran.returncode == 1, ran.stdout
    assert "skips are failures on CI" in ran.stdout
    assert "test_it.py" in ran.stdout


@pytest.mark.parametrize("ci", ["", "false"])
def test_a_skip_at_a_desk_is_a_skip(tmp_path: Path, ci: str) -> None:
    ran = run(tmp_path, CASES["a test"], ci)
    assert ran.returncode == 0, ran.stdout


def test_without_a_skip_ci_is_content(tmp_path: Path) -> None:
    assert run(tmp_path, "def test_one():\n    pass\n", "true").returncode == 0
