"""cyrusext: where is this mailbox?  A replicated MUPDATE master, a lookup library and an LMTP router for Cyrus.

Rule: what is exported here is the library's face; everything else may move.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cyrusext.errors import IndexCorrupt, IndexUnavailable, IndexVersion, InvalidName
from cyrusext.model import Flag, Location, MailboxRecord, State

if TYPE_CHECKING:
    from cyrusext.index import Index

__all__ = [
    "Flag",
    "Index",
    "IndexCorrupt",
    "IndexUnavailable",
    "IndexVersion",
    "InvalidName",
    "Location",
    "MailboxRecord",
    "State",
    "open",
]


def __getattr__(name: str) -> object:
    # the extension module is loaded when first needed: the pure parts work where it is not built yet (setup, docs)
    if name == "Index":
        from cyrusext.index import Index

        return Index
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open(state_dir: str | os.PathLike[str]) -> Index:  # noqa: A001 - the name the library is known by
    """Open the index that the node on this machine keeps below `state_dir`.

    Raises IndexUnavailable, IndexCorrupt, IndexVersion.
    """
    from cyrusext.index import Index

    return Index(state_dir)
