"""The command ``lmtp-router``: run the router, show how it is, ask where addresses would go.

Rule: exit statuses are those of ``cyrusext``: 0 done, 1 absent or a finding, 2 usage, 69 unavailable, 75 temporary, 78
configuration.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import click

from cyrusext.cli.options import Commands
from cyrusext.errors import CyrusExtError
from cyrusext.runtime.config import DEFAULT_PATH, load
from lmtp_router.cli.check_cmd import check_command
from lmtp_router.cli.status_cmd import status_command
from lmtp_router.daemon import run


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c", "file", type=click.Path(path_type=Path), metavar="FILE", help=f"Configuration file [default: {DEFAULT_PATH}]."
)
@click.version_option(package_name="cyrusext", prog_name="lmtp-router", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, file: Path | None) -> None:
    """Take mail over LMTP and give each recipient to the right backend."""
    ctx.obj = file
    if ctx.invoked_subcommand is None:
        ctx.exit(run(load(file)))


cli.add_command(check_command)
cli.add_command(status_command)


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        cli(prog_name="lmtp-router")
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except CyrusExtError as error:
        click.echo(f"lmtp-router: {error}", err=True)
        sys.exit(error.exit_code)
