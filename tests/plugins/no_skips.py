"""On CI a skipped test fails the run: a test can not pass by not running.

At a desk a skip stays a skip (a machine without root has no private Debian roots), and the end of the run says why.
"""

from __future__ import annotations

import os

import pytest

ON_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


class SkipWatch:
    """Collects what was skipped or expected to fail, and turns it into a failure of the session."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "expected failure"
            self.skipped.append(f"{report.nodeid}: {reason}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.skipped.append(f"{report.nodeid}: whole file")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.skipped and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.skipped:
            terminalreporter.section("skips are failures on CI", red=True)
            for line in self.skipped:
                terminalreporter.line(line)


def pytest_configure(config: pytest.Config) -> None:
    if ON_CI:
        config.pluginmanager.register(SkipWatch(), "skip-watch")
