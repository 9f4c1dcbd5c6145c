"""Why an index can not be opened, and what to do about it.

Rule: the library says what went wrong; what is added here is looked up on the file system and never guessed.
"""

from __future__ import annotations

import grp
import os
from pathlib import Path
from typing import TypeVar

from cyrusext.errors import IndexCorrupt, IndexVersion, LookupUnavailable

_Error = TypeVar("_Error", bound=LookupUnavailable)


def explained(error: _Error, state_dir: Path) -> _Error:
    """Return `error` with the remedy in its text; `public` stays as it is."""
    return type(error)(f"{error}; {_remedy(error, state_dir)}", public=error.public)


def _remedy(error: LookupUnavailable, state_dir: Path) -> str:
    if isinstance(error, IndexVersion):
        return f"the node that wrote {state_dir} has another version of cyrusext: bring both to the same"
    if isinstance(error, IndexCorrupt):
        return f"the node takes a damaged store out of the way when it starts: restart the node of {state_dir}"
    return _missing(state_dir) or _closed(state_dir) or "see the log of the node"


def _missing(state_dir: Path) -> str:
    """Say what is not there, or is something else; "" where all is."""
    for directory in (state_dir, state_dir / "store"):
        try:
            if not directory.is_dir():
                return _not_there(directory, directory.exists())
        except PermissionError:
            return ""
    try:
        data = state_dir / "store" / "data.mdb"
        return "" if data.is_file() else _not_there(data, data.exists())
    except PermissionError:
        return ""


def _not_there(path: Path, exists: bool) -> str:
    if exists:
        return f"{path} is not what the node made: give the node's state_dir"
    return f"there is no {path}: give the node's state_dir, and start the node on this machine if it never ran"


def _closed(state_dir: Path) -> str:
    """Say what this user may not read; "" where that is not it."""
    store = state_dir / "store"
    for directory in (*reversed(state_dir.absolute().parents), state_dir):
        if directory.exists() and not os.access(directory, os.X_OK, effective_ids=True):
            return f"user {os.geteuid()} may not enter {directory}"
    for path, mode in ((store, os.X_OK), (store / "data.mdb", os.R_OK), (store / "lock.mdb", os.R_OK | os.W_OK)):
        if not os.access(path, mode, effective_ids=True):
            group = _group(store)
            return f"user {os.geteuid()} may not open {path}: add it to the group {group} (the node's reader_group)"
    return ""


def _group(path: Path) -> str:
    gid = path.stat().st_gid
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
