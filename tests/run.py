"""Run every job of tox.ini, then close with one table and one line that counts all tests.

Rule: the line counts only what ran.  A job that failed, or a pytest job that left no report or ran no test, fails the
whole run, whatever the other jobs counted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "build" / "test"
PYTEST_JOBS = frozenset({"layers", "unit", "properties", "integration", "matrix", "faults", "sdist"})


class Count(NamedTuple):
    """Tests of one job, or of all."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def plus(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)


def count(report: Path) -> Count:
    """Count the tests of one JUnit file; a file that is absent or damaged counts none."""
    try:
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return Count()
    total = Count()
    for suite in suites:
        tests, bad, skipped = (int(suite.get(key, "0")) for key in ("tests", "failures", "skipped"))
        bad += int(suite.get("errors", "0"))
        total = total.plus(Count(max(tests - bad - skipped, 0), bad, skipped))
    return total


def outcomes(result: Path, jobs: list[str]) -> dict[str, tuple[bool, float]]:
    """What tox says of each job: succeeded, and the seconds it took; a job that tox does not mention has failed."""
    try:
        environments = json.loads(result.read_text())["testenvs"]
    except (OSError, ValueError, KeyError):
        environments = {}
    found = {}
    for job in jobs:
        ended = environments.get(job, {}).get("result", {})
        found[job] = (bool(ended.get("success")), float(ended.get("duration", 0)))
    return found


def close(jobs: list[str], ended: dict[str, tuple[bool, float]], counts: dict[str, Count]) -> tuple[list[str], bool]:
    """The closing lines and whether everything is well."""
    lines, total, well = ["", f"{'job':<12} {'result':<8} {'seconds':>8} {'passed':>8} {'failed':>8}"], Count(), True
    for job in jobs:
        success, seconds = ended[job]
        ran = counts.get(job, Count())
        if job in PYTEST_JOBS:
            success = success and ran.passed > 0
        elif success:
            ran = Count(passed=1)
        if not success and not ran.failed:
            ran = ran._replace(failed=1)
        well = well and success and not ran.failed
        total = total.plus(ran)
        verdict = "ok" if success and not ran.failed else "FAILED"
        lines.append(f"{job:<12} {verdict:<8} {seconds:>8.1f} {ran.passed:>8} {ran.failed:>8}")
    lines += ["", f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped"]
    return lines, well


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", nargs="*", help="only these jobs (default: all)")
    arguments = parser.parse_args(argv)
    tox = [sys.executable, "-m", "tox"]
    listed = subprocess.run([*tox, "list", "--no-desc", "-q"], cwd=ROOT, capture_output=True, text=True, check=True)
    jobs = arguments.job or listed.stdout.split()
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    result = REPORTS / "tox.json"
    ran = subprocess.run(
        [*tox, "run", "--result-json", str(result), "-e", ",".join(jobs)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    lines, well = close(jobs, outcomes(result, jobs), {job: count(REPORTS / f"{job}.xml") for job in jobs})
    print("\n".join(lines), flush=True)
    return 0 if well and ran.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
