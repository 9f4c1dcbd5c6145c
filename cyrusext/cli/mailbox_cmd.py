"""``cyrusext mailbox``: list records, set and delete one; history, import and export are in modules of their own."""

from __future__ import annotations

import os

import click

import cyrusext
from cyrusext.cli.history_cmd import history_command
from cyrusext.cli.options import Commands, complain, config_option, dry_run_option, force_option, format_option
from cyrusext.cli.output import print_rows, utc_time
from cyrusext.cli.transfer_cmd import compare_command, export_command, import_command
from cyrusext.directory.batch import Applied, Wanted
from cyrusext.directory.modes import RULES, Mode
from cyrusext.errors import InvalidName
from cyrusext.manage.control import ControlClient
from cyrusext.model import Flag, State, check_acl, check_name
from cyrusext.runtime.config import Config

COLUMNS = ("name", "state", "server", "partition", "acl")
SUSPECT_COLUMNS = ("name", "state", "server", "partition", "changed", "by")


@click.group("mailbox", cls=Commands)
def mailbox_group() -> None:
    """List and change mailbox records; names are in internal form (user.alice.Sent)."""


mailbox_group.add_command(import_command)
mailbox_group.add_command(export_command)
mailbox_group.add_command(history_command)
mailbox_group.add_command(compare_command)


@mailbox_group.command("list")
@click.option("--prefix", default="", metavar="P", help="Only mailboxes whose name starts with P.")
@click.option("--server", default="", metavar="S", help="Only mailboxes on server S.")
@click.option("--suspect", is_flag=True, help="Only records that have to be verified; with their last writer.")
@config_option
@format_option
def list_command(config: Config, prefix: str, server: str, suspect: bool, form: str) -> None:
    """List the records of the index in the order of mailboxes.db.

    A record is suspect when its last change ended without a known outcome, or when it stays RESERVED for over a minute.
    Its backend's next command for it settles it (`ctl_mboxlist -m` there, for a reservation); else decide with
    `mailbox set` or `mailbox delete`.
    """
    with cyrusext.open(config.node.state_dir) as index:
        if not index.fresh_within(config.lookup.no_max_age_s):
            complain("no running node confirms that this is current")
        records = index.walk(os.fsencode(prefix), server)
        if suspect:
            found = (r for r in records if r.flags & Flag.SUSPECT)
            rows = ((r.name, r.state.name, r.server, r.partition, utc_time(r.changed_at), r.changed_by) for r in found)
            print_rows(SUSPECT_COLUMNS, rows, form)
            return
        print_rows(COLUMNS, ((r.name, r.state.name, r.server, r.partition, r.acl) for r in records), form)


@mailbox_group.command("set")
@click.argument("name")
@click.argument("location", metavar="SERVER!PARTITION")
@click.argument("acl", required=False)
@config_option
@force_option
@dry_run_option
@click.pass_context
def set_command(
    ctx: click.Context, config: Config, name: str, location: str, acl: str | None, force: bool, dry_run: bool
) -> None:
    """Make NAME an ACTIVE mailbox at SERVER!PARTITION (in mode replicated: at PARTITION).

    ACL is a list "identifier rights identifier rights ..." separated by blanks or TABs; without it a mailbox keeps
    the ACL that it has. The server of an ACTIVE mailbox changes only with --force.
    """
    server, partition = RULES[Mode(config.mupdate.mode)].location(os.fsencode(location))
    raw_name = check_name(os.fsencode(name))
    with ControlClient(config.node.run_dir) as node:
        raw_acl = _parse_acl(os.fsencode(acl)) if acl is not None else _present_acl(config, raw_name)
        change = Wanted(raw_name, int(State.ACTIVE), server, partition, raw_acl)
        applied = node.apply([change], force=force, dry_run=dry_run)
    _settle(ctx, name, applied, dry_run)


@mailbox_group.command("delete")
@click.argument("name")
@config_option
@dry_run_option
@click.pass_context
def delete_command(ctx: click.Context, config: Config, name: str, dry_run: bool) -> None:
    """Delete the record NAME; the mailbox on its backend stays.

    Exit status 1 when there is none.
    """
    change = Wanted(check_name(os.fsencode(name)), int(State.DELETED))
    with ControlClient(config.node.run_dir) as node:
        applied = node.apply([change], dry_run=dry_run)
    _settle(ctx, name, applied, dry_run)


def _settle(ctx: click.Context, name: str, applied: Applied, dry_run: bool) -> None:
    for refusal in applied.refused:
        complain(f"{name}: {refusal.reason}")
    if applied.absent:
        complain(f"{name}: no such mailbox")
    if dry_run:
        for count, word in ((applied.created, "create"), (applied.changed, "change"), (applied.deleted, "delete")):
            if count:
                click.echo(f"would {word} {name}")
        if applied.unchanged:
            click.echo(f"would leave {name} as it is")
    if applied.refused or applied.absent:
        ctx.exit(1)


def _parse_acl(text: bytes) -> bytes:
    """Return an ACL as Cyrus stores it: each identifier and each rights followed by a TAB.

    Raises InvalidName for an identifier without rights.
    """
    fields = text.removesuffix(b"\t").split(b"\t") if b"\t" in text else text.split()
    if len(fields) % 2:
        raise InvalidName("ACL is not a list of identifiers each with its rights")
    return check_acl(b"".join(field + b"\t" for field in fields))


def _present_acl(config: Config, name: bytes) -> bytes:
    with cyrusext.open(config.node.state_dir) as index:
        found = index.get(name)
        return b"" if found is None else found.acl
