"""``cyrusext status``: what the node says of itself."""

from __future__ import annotations

import json
from typing import Any

import click

from cyrusext.cli.options import config_option, format_option
from cyrusext.cli.output import Cell, print_rows
from cyrusext.manage.control import ControlClient
from cyrusext.runtime.config import Config

_TIMEOUT_S = 5.0


@click.command("status")
@config_option
@format_option
def status_command(config: Config, form: str) -> None:
    """Show the node of this machine; exit status 69 when it is down."""
    with ControlClient(config.node.run_dir, timeout_s=_TIMEOUT_S) as node:
        status = node.status()
    if form == "json":
        click.echo(json.dumps(status, ensure_ascii=False, default=str))
        return
    print_rows(("what", "value"), list(_rows(status)), form)


def _rows(status: dict[str, Any]) -> list[tuple[str, Cell]]:
    rows: list[tuple[str, Cell]] = []
    for key, value in status.items():
        if isinstance(value, dict):
            rows += [(f"{key} {name}", _cell(part)) for name, part in sorted(value.items())]
        else:
            rows.append((key, _cell(value)))
    return rows


def _cell(value: Any) -> Cell:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return round(value, 3)
    if value is None or isinstance(value, int | str | bytes):
        return value
    if isinstance(value, list):
        return ", ".join(str(_cell(part)) for part in value)
    return str(value)
