"""``cyrusext backup``: copies of the store, taken while the node runs, and put back."""

from __future__ import annotations

from pathlib import Path

import click

from cyrusext.cli.options import Commands, complain, config_option
from cyrusext.manage import backup
from cyrusext.runtime.config import Config


@click.group("backup", cls=Commands)
def backup_group() -> None:
    """Copy the store while the node runs, and put a copy back."""


@backup_group.command("create")
@click.argument("directory", type=click.Path(path_type=Path))
@config_option
def create_command(config: Config, directory: Path) -> None:
    """Write a copy of the store to the new DIRECTORY: all that was acknowledged before the command began.

    The node goes on meanwhile, and need not run. `cyx verify DIRECTORY` checks the copy.
    """
    backup.create(config.node.state_dir, directory)


@backup_group.command("restore")
@click.argument("directory", type=click.Path(path_type=Path))
@config_option
def restore_command(config: Config, directory: Path) -> None:
    """Put the copy in DIRECTORY in the place of the store; the node must not run.

    The store that was there is kept beside it. The node then begins with a refill, since the copy may be out of date:
    it ends with `cyrusext refill end`.
    """
    kept = backup.restore(directory, config.node.state_dir, config.node.run_dir)
    if kept is not None:
        complain(f"the store that was there: {kept}")
