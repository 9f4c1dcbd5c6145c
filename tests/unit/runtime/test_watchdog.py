"""A process that hangs ends itself, and leaves behind where it hung."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, sys, time
from cyrusext.runtime.lifecycle import Lifecycle
from cyrusext.runtime.watchdog import Watchdog

def a_call_that_never_ends():
    time.sleep(600)

async def main():
    loop = asyncio.get_running_loop()
    reasons = iter(["", "the store has not answered"] if sys.argv[1] == "part" else [])
    watchdog = Watchdog(lambda: next(reasons, ""), loop_s=1.0)
    lifecycle = Lifecycle([], watchdog=watchdog)
    if sys.argv[1] == "loop":
        loop.call_soon(a_call_that_never_ends)
    if sys.argv[1] == "nothing":
        loop.call_later(0.1, lifecycle.request_stop, "done", 3)
    code = await lifecycle.run()
    time.sleep(1.5)  # nobody watches any more
    sys.exit(code)

asyncio.run(main())
"""


def run(what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, what], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_loop_that_stands_still_ends_the_process() -> None:
    ended = run("loop")
    assert ended.returncode == 1
    assert "a_call_that_never_ends" in ended.stderr


def test_a_part_that_hangs_ends_the_process() -> None:
    ended = run("part")
    assert ended.returncode == 75
    assert 'event=watchdog.hung reason="the store has not answered"' in ended.stderr
    assert "most recent call first" in ended.stderr


def test_nobody_is_watched_after_the_end() -> None:
    ended = run("nothing")
    assert (ended.returncode, "Timeout" in ended.stderr) == (3, False)
