"""``cyrusext replica deletes``: what a node that follows would delete, and the word of an operator that it may."""

from __future__ import annotations

import click

from cyrusext.cli.options import Commands, complain, config_option, dry_run_option, format_option
from cyrusext.cli.output import print_rows
from cyrusext.manage.control import ControlClient, Deletes
from cyrusext.runtime.config import Config


@click.group("replica", cls=Commands)
def replica_group() -> None:
    """The copy that this node has of the one it follows."""


@replica_group.group("deletes", cls=Commands)
def deletes_group() -> None:
    """Deletions that wait for an operator, because the node that is followed lacks suspiciously much."""


@deletes_group.command("show")
@config_option
@format_option
@click.pass_context
def show_command(ctx: click.Context, config: Config, form: str) -> None:
    """List the mailboxes that would be deleted here, the first hundred of them.

    Exit status 1 when there are any.
    """
    with ControlClient(config.node.run_dir) as node:
        held = node.deletes()
    print_rows(("name",), ((name,) for name in held.names), form)
    if held.count:
        complain(_sentence(held))
        ctx.exit(1)


@deletes_group.command("accept")
@config_option
@dry_run_option
def accept_command(config: Config, dry_run: bool) -> None:
    """Let the node make the deletions that wait, should no more than these be missing still."""
    with ControlClient(config.node.run_dir) as node:
        held = node.deletes(accept=not dry_run)
    if not held.count:
        complain("no deletions wait")
    elif dry_run:
        click.echo(f"would delete {held.count} records")


def _sentence(held: Deletes) -> str:
    return f"{held.leader} lacks {held.count} mailboxes that are recorded here"
