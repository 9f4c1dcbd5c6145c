"""The table of named points at the end of a run: each with how often the node was killed or stopped there.

Rule: a test counts a point only after the blow has fallen; a point that was announced and never hit fails the run.
"""

from __future__ import annotations

from collections import Counter

import pytest

_ANNOUNCED = pytest.StashKey[Counter[str]]()
_HITS = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ANNOUNCED] = Counter()
    config.stash[_HITS] = Counter()


def announce(config: pytest.Config, point: str) -> None:
    """Say, before the blow, that it is to fall at `point`."""
    config.stash[_ANNOUNCED][point] += 1


def count(config: pytest.Config, point: str) -> None:
    """Say that the node was struck at `point`."""
    config.stash[_HITS][point] += 1


def hits(config: pytest.Config) -> Counter[str]:
    """How often each point was hit in this run."""
    return config.stash[_HITS]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    stash = session.config.stash
    if stash[_ANNOUNCED].keys() - stash[_HITS].keys() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    announced, struck = config.stash[_ANNOUNCED], config.stash[_HITS]
    if announced:
        terminalreporter.section("named points at which the node was struck")
        for point in announced:
            terminalreporter.line(f"{struck[point]:>5}  {point}{'' if struck[point] else '  NEVER HIT'}")
