"""Whether a file is still the one that was read: its stamp, and when that may be believed.

Rule: a stamp tells two contents apart only where the file had been at rest before it was read: two changes within one
tick of the file system's clock have the same times.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

AT_REST_NS = 2_000_000_000
"""How long a file must have been unchanged.  Time stamps are as coarse as 2 s (FAT), mostly 1 to 10 ms."""


class Stamp(NamedTuple):
    """What is different when the content is different; times in nanoseconds since 1970."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def at_rest(self, now_ns: int | None = None) -> bool:
        """Return whether any change from `now_ns` on (None: now) makes a different stamp."""
        now_ns = time.time_ns() if now_ns is None else now_ns
        return max(self.mtime_ns, self.ctime_ns) <= now_ns - AT_REST_NS


def stamp_of(path: Path | str) -> Stamp | None:
    """Return the stamp of the file at `path`, None where there is none or it is no plain file."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path costs more than the system call
    except OSError:
        return None
    return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None
