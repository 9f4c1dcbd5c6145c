"""The command ``lmtp-router``: run the router, show how it is, ask where addresses would go.

Rule: exit statuses are those of ``cyrusext``: 0 done, 1 absent or a finding, 2 usage, 69 unavailable, 75 temporary, 78
configuration.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path

import click

from cyrusext.cli.options import Commands
from cyrusext.errors import CyrusExtError
from cyrusext.runtime.config import DEFAULT_PATH, load
from lmtp_router.daemon import run

_COMMANDS = ("check", "status")


class LateCommands(Commands):
    """Commands that are loaded when they are asked for: the router's workers would keep them in memory."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"lmtp_router.cli.{cmd_name}_cmd")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command


@click.group(cls=LateCommands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
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
