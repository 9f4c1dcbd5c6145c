"""The table of exit statuses and errors, from cyrusext.errors: ``python -m cyrusext.cli.exit_codes`` prints the page.

Rule: no status is written twice; an error class has its code, its status and its meaning in one place.
"""

from __future__ import annotations

import inspect
import sys

from cyrusext import errors
from cyrusext.errors import CyrusExtError

_HEAD = """\
# Exit statuses and errors

| Status | Meaning |
|---|---|
| 0 | Done, found, or nothing wrong. |
| 1 | Absent, or a finding: no such mailbox, a refused change, an unreadable import file, a notice of `config check`. |
| 2 | Usage: an unknown option, a missing argument, a name that no mailbox can have. |
| 69 | Unavailable: no node, no index. |
| 75 | Temporary: the same may succeed later. |
| 78 | Configuration. |

Each error has a stable code, which is in the log and in replies of the control socket. This page is generated:
`python -m cyrusext.cli.exit_codes > docs/exit-codes.md`.

| Code | Status | Class | Meaning |
|---|---|---|---|
"""


def error_kinds() -> list[type[CyrusExtError]]:
    """All errors of cyrusext.errors, in the order in which they are declared."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CyrusExtError)]
    return list(dict.fromkeys(kinds))


def document() -> str:
    """Return the text of docs/exit-codes.md."""
    rows = []
    for kind in error_kinds():
        meaning = " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split())
        rows.append(f"| `{kind.code}` | {kind.exit_code} | `{kind.__name__}` | {meaning} |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(document())
