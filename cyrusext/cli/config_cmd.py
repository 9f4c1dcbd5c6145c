"""``cyrusext config``: what the configuration is, and what is wrong with it."""

from __future__ import annotations

import click

from cyrusext.cli.options import Commands, complain, config_option
from cyrusext.errors import ConfigError
from cyrusext.runtime.config import Config
from cyrusext.runtime.config_check import findings
from cyrusext.runtime.config_doc import to_toml


@click.group("config", cls=Commands)
def config_group() -> None:
    """Show or check the configuration."""


@config_group.command("show")
@config_option
def show_command(config: Config) -> None:
    """Print the effective values, defaults included, as a configuration file."""
    click.echo(to_toml(config), nl=False)


@config_group.command("check")
@config_option
@click.pass_context
def check_command(ctx: click.Context, config: Config) -> None:
    """Say what is wrong with the configuration: exit status 78 for a fault, 1 if there are only notices."""
    found = findings(config)
    for finding in found:
        complain(("" if finding.fatal else "notice: ") + finding.text(config.source))
    if any(finding.fatal for finding in found):
        ctx.exit(ConfigError.exit_code)
    if found:
        ctx.exit(1)
