"""What every test may use: the release of the roots, groups of servers, and a look at their logs when a test fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import roots
from tests.harness.server import Server

pytest_plugins = ["tests.plugins.jobs", "tests.plugins.no_skips", "tests.plugins.long", "tests.plugins.points"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--release",
        choices=roots.SUITES,
        default=os.environ.get("CYREXT_RELEASE") or roots.SUITES[0],
        help="Debian release whose Cyrus, Postfix, ... the tests run against (also CYREXT_RELEASE)",
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    found = []
    for suite in roots.SUITES:
        root = roots.locate(suite)
        found.append(f"{suite} ({_cyrus(root) if root.ready else 'not built'})")
    return [f"roots: {', '.join(found)} in {roots.cache_dir()}; integration runs on {config.getoption('--release')}"]


def _cyrus(root: roots.Root) -> str:
    return f"cyrus-common {roots.package_version(root, 'cyrus-common')}"


@pytest.fixture(scope="session")
def release(request: pytest.FixtureRequest) -> str:
    """The Debian release the real servers come from."""
    return str(request.config.getoption("--release"))


@pytest.fixture(scope="session")
def root(release: str) -> roots.Root:
    """The private Debian root; built when missing.  Without root it is a skip at a desk and a failure on CI."""
    if os.geteuid() != 0:
        reason = "real servers run in private Debian roots, which need root"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return roots.build(release)


@pytest.fixture(scope="session")
def new_state(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Make directories for servers.  Short ones: the path of a UNIX socket ends at 107 bytes."""
    return lambda: tmp_path_factory.mktemp("s")


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test that starts a server closes it, whatever happens to the test."""
    yield
    assert Server.live == [], "servers that no test closed"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add the ends of the logs of all living servers to the report of a failed test."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        for server in Server.live:
            report.sections.append((f"log of {server.name}", server.tail()))
    return report  # type: ignore[return-value]
