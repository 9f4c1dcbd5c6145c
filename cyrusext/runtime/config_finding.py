"""One thing that is wrong with a configuration, and what can be wrong with a file of secrets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that is wrong: the section and key it is about, what it is, and whether a daemon may not start."""

    section: str
    key: str
    message: str
    fatal: bool

    def text(self, source: str) -> str:
        where = f"[{self.section}] {self.key}".rstrip()
        return f"{source}: {where}: {self.message}"


def secret(section: str, key: str, place: str) -> Iterator[Finding]:
    """Find what is wrong with a file of secrets: absent, unreadable, or readable by everybody."""
    path = Path(place)
    try:
        mode = path.stat().st_mode
        with path.open("rb"):
            pass
    except OSError as error:
        yield Finding(section, key, f"{place} can not be read: {error.strerror}", True)
        return
    if mode & 0o004:
        yield Finding(section, key, f"{place} can be read by every user of this machine", False)


def open_secret(section: str, key: str, place: str) -> Iterator[Finding]:
    """The notice alone, for a file whose absence is found elsewhere."""
    yield from (finding for finding in secret(section, key, place) if not finding.fatal)
