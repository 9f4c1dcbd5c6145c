"""A wall clock that a test sets, for our own daemons only: the machine's stays as it is.

Rule: only CLOCK_REALTIME moves, as when an administrator sets the time; what waits and counts is left alone.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


class WallClock:
    """Give `environment` to the daemons that shall go by this clock; `shift` it while they run."""

    def __init__(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        library = place / "wallclock.so"
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
        self._file = place / "shift"
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "WALLCLOCK_SHIFT": str(self._file)}

    def shift(self, seconds: int) -> None:
        """Let the clock show so many seconds more than the machine's."""
        with self._file.open("r+b") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))
