"""Does a daemon load what it needs, and nothing that it would keep for nothing?"""

from __future__ import annotations

import subprocess
import sys

import pytest

from cyrusext.runtime.imports import without

NOT_NEEDED = ("rich", "pygments", "cyrusext.store", "cyrusext.directory", "cyrusext.manage", "cyrusext.cli.commands")
"""By a router, whose every worker would have them."""


def test_the_router_loads_no_console_and_nothing_of_the_node() -> None:
    program = f"import sys, lmtp_router.cli; print([name for name in {NOT_NEEDED!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_package_is_left_out_for_a_while() -> None:
    with pytest.raises(ImportError), without("this"):
        import this  # noqa: F401
    assert "this" not in sys.modules
    with without("sys"):
        import sys as still

        assert still is sys
