"""``cyrusext refill``: records that may be out of date are told again by the backends."""

from __future__ import annotations

import click

from cyrusext.cli.options import Commands, complain, config_option
from cyrusext.errors import NodeUnavailable
from cyrusext.manage import backup
from cyrusext.manage.control import ControlClient
from cyrusext.runtime.config import Config


@click.group("refill", cls=Commands)
def refill_group() -> None:
    """Have the backends tell again what they have, because the records may be out of date or lost.

    Until it ends frontends keep what they have, nobody is told that a mailbox does not exist, and no backend is told
    that another one owns what it has.
    """


@refill_group.command("begin")
@config_option
def begin_command(config: Config) -> None:
    """Begin: all present records may be out of date. Where no node runs, the next one begins with it."""
    try:
        with ControlClient(config.node.run_dir) as node:
            node.refill("begin")
    except NodeUnavailable:
        complain(f"no node runs: {backup.mark(config.node.state_dir)} has the next one begin with it")


@refill_group.command("end")
@click.option("--force", is_flag=True, help="End it though servers have not pushed: what only they have is unknown.")
@config_option
def end_command(config: Config, force: bool) -> None:
    """End: every backend has run `ctl_mboxlist -m`. Exit status 1, with their names, when some have not."""
    with ControlClient(config.node.run_dir) as node:
        node.refill("end", force=force)
