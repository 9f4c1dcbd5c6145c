"""What all commands share: the configuration file, the output form, and how an error becomes an exit status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cyrusext.errors import CyrusExtError
from cyrusext.runtime.config import DEFAULT_PATH, Config, load

_F = TypeVar("_F", bound=Callable[..., Any])
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""How output fails on a disk that is full or broken."""


class Commands(click.Group):
    """A group of commands whose errors end in one line each and the exit status of their kind."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CyrusExtError as error:
            for line in str(error).splitlines():
                complain(line)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            # The reader of our output has had enough (`| head`): no fault, and nothing may be written at exit any more.
            _silence()
            ctx.exit(0)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            _silence()
            complain(f"can not be written: {error.strerror}")
            ctx.exit(CyrusExtError.exit_code)


def _silence() -> None:
    """Have what is still buffered for standard output go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _load(_ctx: click.Context, _param: click.Parameter, path: Path | None) -> Config:
    """Load at once: a wrong configuration ends the command before it does anything."""
    return load(path)


def config_option(command: _F) -> _F:
    """Add ``-c FILE``; the command gets the loaded `config`."""
    return click.option(
        "-c",
        "config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        callback=_load,
        help=f"Configuration file [default: {DEFAULT_PATH}].",
    )(command)


def format_option(command: _F) -> _F:
    """Add ``--format table|json|tsv``; the command gets `form`."""
    return click.option(
        "--format", "form", type=click.Choice(["table", "json", "tsv"]), default="table", help="Form of the output."
    )(command)


def dry_run_option(command: _F) -> _F:
    """Add ``--dry-run``: say what would be done and change nothing."""
    return click.option("--dry-run", is_flag=True, help="Say what would be done and change nothing.")(command)


def force_option(command: _F) -> _F:
    """Add ``--force``: change the server of an ACTIVE mailbox."""
    return click.option("--force", is_flag=True, help="Change the server of an ACTIVE mailbox too.")(command)


def complain(line: str) -> None:
    """Tell the operator one line on standard error."""
    click.echo(f"cyrusext: {line}", err=True)
