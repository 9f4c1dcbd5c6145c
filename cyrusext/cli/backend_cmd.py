"""``cyrusext backend``: the backends as the node knows them, and the operator's window for one that comes back."""

from __future__ import annotations

import click

from cyrusext.cli.options import Commands, complain, config_option, dry_run_option, format_option
from cyrusext.cli.output import Cell, print_rows
from cyrusext.manage.control import ControlClient
from cyrusext.runtime.config import Config

COLUMNS = ("backend", "host", "state", "records", "claim_seconds", "taken_over")

_WINDOW_S = 300.0
_LONGEST_S = 86_400.0


@click.group("backend", cls=Commands)
def backend_group() -> None:
    """Show the backends, and let one take over mailboxes."""


@backend_group.command("list")
@config_option
@format_option
def list_command(config: Config, form: str) -> None:
    """List the backends of the configuration and every server that has records, with how many."""
    print_rows(COLUMNS, _rows(config), form)


@backend_group.command("show")
@click.argument("server")
@config_option
@format_option
@click.pass_context
def show_command(ctx: click.Context, config: Config, server: str, form: str) -> None:
    """Show one backend.

    Exit status 1 when it is neither in the configuration nor in a record.
    """
    rows = [row for row in _rows(config) if row[0] == server]
    print_rows(COLUMNS, rows, form)
    if not rows:
        complain(f"{server}: no such backend")
        ctx.exit(1)


@backend_group.command("claim")
@click.argument("server")
@click.option(
    "--seconds",
    type=click.FloatRange(1, _LONGEST_S),
    default=_WINDOW_S,
    show_default=True,
    help="How long the window is open.",
)
@click.option("--end", is_flag=True, help="Close the window now.")
@config_option
@dry_run_option
def claim_command(config: Config, server: str, seconds: float, end: bool, dry_run: bool) -> None:
    """Let SERVER take over mailboxes that are ACTIVE elsewhere, for a while.

    SERVER is its name in locations. Run `ctl_mboxlist -m -a` there while the window is open: what it has then becomes
    its own. The window ends by itself, or with --end, or with a restart of the node; `cyrusext status` shows it.
    """
    if dry_run:
        what = f"close the window of {server}" if end else f"open a window of {seconds:g} s for {server}"
        click.echo(f"would {what}")
        return
    with ControlClient(config.node.run_dir) as node:
        taken = node.claim(server, 0 if end else seconds)
    if end:
        click.echo(f"{server} took over {taken} mailboxes")


def _rows(config: Config) -> list[tuple[Cell, ...]]:
    with ControlClient(config.node.run_dir) as node:
        status = node.status()
    records, claims = status["servers"], status["claims"]
    rows: list[tuple[Cell, ...]] = []
    for name in sorted({*config.backends, *records, *claims}):
        backend, claim = config.backends.get(name), claims.get(name, {})
        rows.append(
            (
                name,
                config.backends.endpoint(name, "imap")[0],
                backend.state if backend is not None else "",
                records.get(name, 0),
                claim.get("seconds_left"),
                claim.get("taken_over"),
            )
        )
    return rows
