"""The limit of open files: raised to what is needed, never lowered, and what does not fit is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASK = """
import resource, sys
from cyrusext.runtime.descriptors import SPARE, allow
soft, hard, connections = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(allow(connections), resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE)
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "expected"),
    [
        (512, 2048, 1000, "1000 1000"),
        (512, 1024, 4096, "768 768"),
        (1024, 1024, 100, "100 768"),
        (300, 300, 4096, "44 44"),
    ],
)
def test_the_soft_limit_follows_the_connections(soft: int, hard: int, connections: int, expected: str) -> None:
    # a limit belongs to the process, so each case has one of its own
    command = [sys.executable, "-c", ASK, str(soft), str(hard), str(connections)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == expected
