"""What a process loads of others' packages, and what it leaves out: a daemon keeps for good what was imported once."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """While this lasts, the package `name` can not be imported, as if it were not installed; nothing, if it is loaded
    already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
