"""``cyrusext mailbox history NAME``: what was done to one mailbox, as far back as the change log goes."""

from __future__ import annotations

import os

import click

import cyrusext
from cyrusext.cli.options import complain, config_option, format_option
from cyrusext.cli.output import Cell, print_rows, utc_time
from cyrusext.index import Event
from cyrusext.model import State, check_name
from cyrusext.runtime.config import Config

COLUMNS = ("time", "seq", "what", "state", "server", "partition", "from", "acl", "by")


@click.command("history")
@click.argument("name")
@config_option
@format_option
@click.pass_context
def history_command(ctx: click.Context, config: Config, name: str, form: str) -> None:
    """Show what was done to the mailbox NAME, oldest first: when, what, where it was put, by whom.

    FROM is the server and partition that it had before, where these changed; ACL says whether the ACL changed. The last
    100000 changes of all mailboxes together are remembered. Exit status 1 when none of them was NAME's.
    """
    with cyrusext.open(config.node.state_dir) as index:
        if not index.fresh_within(config.lookup.no_max_age_s):
            complain("no running node confirms that this is current")
        events = index.history(check_name(os.fsencode(name)))
    print_rows(COLUMNS, (_row(event) for event in events), form)
    if not events:
        complain(f"{name}: no change is remembered")
        ctx.exit(1)


def _row(event: Event) -> tuple[Cell, ...]:
    if event.state is None:  # logged by a version that kept no more
        return (None, event.seq, "", "", "", "", "", "", "")
    there = event.state is not State.DELETED
    came = event.before is not None and event.before[1:] != (event.server, event.partition)
    return (
        utc_time(event.changed_at),
        event.seq,
        event.action,
        event.state.name,
        event.server if there else "",
        event.partition if there else "",
        "!".join(event.before[1:]) if event.before is not None and (came or not there) else "",
        "changed" if event.acl_changed else "",
        event.changed_by,
    )
