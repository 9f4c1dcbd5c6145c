"""The only way the tests wait: for a condition, with a deadline and a sentence that says what never came."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NeverHappened(AssertionError):
    """A condition did not become true in time."""


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = 10.0, every_s: float = 0.02) -> T:
    """Return the first true value of `condition`.

    Raises NeverHappened, naming `what`, after `timeout_s`.  An AssertionError inside the condition counts as "not yet"
    and is shown when the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        failure: AssertionError | None = None
        try:
            if value := condition():
                return value
        except AssertionError as error:
            failure = error
        if time.monotonic() > deadline:
            raise NeverHappened(f"not within {timeout_s:g} s: {what}") from failure
        time.sleep(every_s)


def accepts(address: str, port: int) -> bool:
    """Say whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((address, port)) == 0
