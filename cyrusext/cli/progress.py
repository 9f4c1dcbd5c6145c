"""The progress bar of commands that take a while."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from cyrusext.manage.transfer import Progress


@contextlib.contextmanager
def progress_bar(title: str, total: int) -> Iterator[Progress | None]:
    """A progress bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    # Imported here, for it takes longer than most commands run.
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    # Drawn by ourselves, ten times a second at most: the thread that would draw it is not waited for by its library,
    # and a thread that is still there when the interpreter ends can abort it.
    with Bar(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(title, total=total or None)
        drawn = 0.0

        def advance(done: int) -> None:
            nonlocal drawn
            bar.advance(task, done)
            if time.monotonic() - drawn >= 0.1:
                drawn = time.monotonic()
                bar.refresh()

        yield advance
