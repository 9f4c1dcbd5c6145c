"""All commands of ``cyrusext``, put together."""

from __future__ import annotations

import click

from cyrusext.cli.backend_cmd import backend_group
from cyrusext.cli.backup_cmd import backup_group
from cyrusext.cli.config_cmd import config_group
from cyrusext.cli.lookup_cmd import lookup_command
from cyrusext.cli.mailbox_cmd import mailbox_group
from cyrusext.cli.node_cmd import node_command
from cyrusext.cli.options import Commands
from cyrusext.cli.refill_cmd import refill_group
from cyrusext.cli.replica_cmd import replica_group
from cyrusext.cli.status_cmd import status_command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cyrusext", prog_name="cyrusext", message="%(prog)s %(version)s")
def cli() -> None:
    """Where is this mailbox? The node of a Cyrus cluster, and questions and changes to it."""


_COMMANDS = (
    node_command,
    status_command,
    lookup_command,
    mailbox_group,
    backend_group,
    replica_group,
    backup_group,
    refill_group,
    config_group,
)
for _command in _COMMANDS:
    cli.add_command(_command)
