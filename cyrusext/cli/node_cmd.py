"""``cyrusext node``: run the node in the foreground."""

from __future__ import annotations

import click

from cyrusext.cli.options import config_option
from cyrusext.runtime.config import Config


@click.command("node")
@config_option
@click.pass_context
def node_command(ctx: click.Context, config: Config) -> None:
    """Run the node until SIGTERM: the MUPDATE server, the store and the control socket."""
    # Imported here, for the other commands should not wait for the server's libraries.
    from cyrusext.node import run

    ctx.exit(run(config))
