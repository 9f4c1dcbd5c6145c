"""The node built with fail-points: it dies or stops at a named step of a commit, when a test says so.

Rule: the debug build lies beside the real one and is used by these tests only; its Python is that of the checkout.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Literal

from tests.harness.ours import Node
from tests.harness.sandbox import CHECKOUT

BUILT = CHECKOUT / "build" / "failpoints"
Blow = Literal["kill", "stop"]


@functools.cache
def build() -> Path:
    """Return a directory for PYTHONPATH: links to the sources, and extension modules with fail-points."""
    for source in (CHECKOUT / "cyrusext").rglob("*"):
        link = BUILT / source.relative_to(CHECKOUT)
        if source.is_dir() or source.suffix in (".so", ".pyc") or link.is_symlink():
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", BUILT, "--build-temp", BUILT / "objects"],
        cwd=CHECKOUT,
        env={**os.environ, "CYREXT_DEBUG": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return BUILT


class FailingNode(Node):
    """A node of the debug build."""

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "PYTHONPATH": str(BUILT),
            "CYREXT_FAILPOINT_ARM": str(self._order),
            "CYREXT_FAILPOINT_LOG": str(self.state / "points"),
        }

    def arm(self, point: str, blow: Blow) -> None:
        """Have it die or stop when it next passes `point`."""
        fresh = self._order.with_suffix(".new")
        fresh.write_text(f"{point} {blow}")
        fresh.rename(self._order)

    def disarm(self) -> None:
        self._order.unlink(missing_ok=True)

    @property
    def armed(self) -> bool:
        """What was armed has not struck yet."""
        return self._order.exists()

    @property
    def passes(self) -> Counter[str]:
        """How often each fail-point was passed since the beginning."""
        log = self.state / "points"
        return Counter(log.read_text().split()) if log.exists() else Counter()

    @property
    def _order(self) -> Path:
        return self.state / "order"
