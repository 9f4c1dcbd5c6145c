"""The closing line of a test run counts what ran, and a job that ran nothing fails."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

import pytest

from tests.plugins.jobs import job_of
from tests.run import Count, close, count, outcomes


def report(path: Path, tests: int, failures: int = 0, errors: int = 0, skipped: int = 0) -> Path:
    counts = f'tests="{tests}" failures="{failures}" errors="{errors}" skipped="{skipped}"'
    path.write_text(f"<testsuites><testsuite {counts}/></testsuites>")
    return path


def test_counts(tmp_path: Path) -> None:
    assert count(report(tmp_path / "a.xml", 10, 1, 2, 3)) == Count(passed=4, failed=3, skipped=3)
    assert count(tmp_path / "absent.xml") == Count()
    (tmp_path / "damaged.xml").write_text("<testsuites>")
    assert count(tmp_path / "damaged.xml") == Count()


def test_outcomes(tmp_path: Path) -> None:
    result = tmp_path / "tox.json"
    result.write_text(json.dumps({"testenvs": {"lint": {"result": {"success": True, "duration": 1.5}}}}))
    assert outcomes(result, ["lint", "unit"]) == {"lint": (True, 1.5), "unit": (False, 0.0)}
    assert outcomes(tmp_path / "absent.json", ["lint"]) == {"lint": (False, 0.0)}


def test_all_well() -> None:
    lines, well = close(["lint", "unit"], {"lint": (True, 1), "unit": (True, 2)}, {"unit": Count(5)})
    assert well
    assert lines[-1] == "6 passed, 0 failed, 0 skipped"


@pytest.mark.parametrize(
    ("ended", "counted", "closing"),
    [
        ((True, 2.0), Count(), "1 passed, 1 failed, 0 skipped"),
        ((False, 2.0), Count(5), "6 passed, 1 failed, 0 skipped"),
        ((False, 2.0), Count(5, 2, 1), "6 passed, 2 failed, 1 skipped"),
    ],
    ids=["ran-nothing", "failed-without-a-test", "failed"],
)
def test_a_failed_job_fails_the_run(ended: tuple[bool, float], counted: Count, closing: str) -> None:
    lines, well = close(["lint", "unit"], {"lint": (True, 1.0), "unit": ended}, {"unit": counted})
    assert not well
    assert lines[-1] == closing


@pytest.mark.parametrize(
    ("path", "markers", "job"),
    [
        ("tests/unit/wire/test_framer.py", [], "unit"),
        ("tests/unit/test_layers.py", [], "layers"),
        ("tests/contract/test_store.py", [], "unit"),
        ("tests/properties/test_names.py", ["slow"], "properties"),
        ("tests/integration/test_murder.py", [], "integration"),
        ("tests/dialogues/test_dialogues.py", ["integration"], "integration"),
        ("tests/integration/test_kill.py", ["faults"], "faults"),
        ("tests/regressions/test_one.py", [], "unit"),
    ],
)
def test_every_test_has_one_job(path: str, markers: list[str], job: str) -> None:
    assert job_of(PurePath(path), markers) == job
