"""How many files and connections this process may have open.

Rule: a daemon that promises so many connections asks for as many descriptors, and says so when it does not get them.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Set
from pathlib import Path

SPARE = 256
"""Descriptors for everything but connections: store, log, listeners, login threads."""


def allow(connections: int) -> int:
    """Raise the soft limit of open files, where it is lower, to what `connections` need; it is never lowered.

    Returns how many connections fit: fewer than asked for where the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else min(connections, max(1, soft - SPARE))


def blank_others(keep: Set[int]) -> None:
    """Have every open descriptor but those of `keep` lead nowhere, in a child that goes on with its parent's objects.

    They stay open, on /dev/null: an object of the parent's that closes its descriptor later closes no other one's.
    """
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for entry in list(Path("/proc/self/fd").iterdir()):
        fd = int(entry.name)
        if fd not in keep and fd != nowhere:
            try:
                os.fstat(fd)
            except OSError:  # the one of the listing itself
                continue
            os.dup2(nowhere, fd, inheritable=False)
    os.close(nowhere)
