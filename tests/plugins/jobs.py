"""Which tox job runs which test: ``pytest --job NAME`` keeps the tests of that job only.

Rule: each test belongs to exactly one job, so that none runs twice and none is forgotten.  An explicit marker decides
first, then the directory; what neither names is a unit test.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

import pytest

JOBS = ("faults", "integration", "properties", "layers", "unit")
"""All jobs that run pytest, the one that wins first (`matrix` is `integration` on another release)."""


def job_of(path: PurePath, markers: Iterable[str]) -> str:
    """The job of a test in the file `path`, relative to the checkout, that carries `markers`."""
    given = set(markers)
    by_marker = [job for job in JOBS if job in given]
    by_directory = [job for job in JOBS if job in path.parts[:-1]]
    if path.stem == "test_layers":
        return "layers"
    return (by_marker + by_directory + ["unit"])[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--job", choices=JOBS, help="run only the tests of this tox job")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--job")
    if wanted is None:
        return
    root = config.rootpath
    keep: list[pytest.Item] = []
    drop: list[pytest.Item] = []
    for item in items:
        path = item.path.relative_to(root) if item.path.is_relative_to(root) else item.path
        (keep if job_of(path, (marker.name for marker in item.iter_markers())) == wanted else drop).append(item)
    items[:] = keep
    if drop:
        config.hook.pytest_deselected(items=drop)
