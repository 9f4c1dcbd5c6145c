"""The groups of servers that several files of integration tests share, one of each kind per file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.roots import Root
from tests.harness.topology import Delivery, Murder


@pytest.fixture(scope="module", params=["ours", "stock"])
def murder_1f2b(request: pytest.FixtureRequest, root: Root, new_state: Callable[[], Path]) -> Iterator[Murder]:
    """A frontend and two backends, once with our node as mupdate master and once with Cyrus' own.

    What passes on both is what Cyrus means; a test that passes on ours only says why.
    """
    with Murder(root, new_state(), request.param) as group:
        yield group


@pytest.fixture(scope="module")
def murder_ours(root: Root, new_state: Callable[[], Path]) -> Iterator[Murder]:
    """A frontend and two backends with our node as mupdate master."""
    with Murder(root, new_state(), "ours") as group:
        yield group


@pytest.fixture(scope="module")
def router_2b(root: Root, new_state: Callable[[], Path]) -> Iterator[Delivery]:
    """Two backends, our node, our router, Postfix in front."""
    with Delivery(root, new_state()) as group:
        yield group
