"""``cyrusext mailbox import``, ``export`` and ``compare``: whole mailbox lists as text."""

from __future__ import annotations

import contextlib
import datetime
import sys
from pathlib import Path

import click

import cyrusext
from cyrusext.cli.options import complain, config_option, dry_run_option, force_option, format_option
from cyrusext.cli.output import Cell, print_rows
from cyrusext.cli.progress import progress_bar
from cyrusext.errors import InputError
from cyrusext.manage.compare import differences
from cyrusext.manage.control import ControlClient
from cyrusext.manage.dump import DumpFormat, write_csv, write_ctl, write_map
from cyrusext.manage.transfer import ImportFile, Totals, apply_all, keep_known
from cyrusext.manage.undo import UndoWriter
from cyrusext.runtime.config import Config


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--server", default="", metavar="S", help="Server of mailboxes that name none (the dump of a backend).")
@click.option("--undo", "undo_file", type=click.Path(path_type=Path), metavar="FILE", help="Where to write what was.")
@config_option
@format_option
@force_option
@dry_run_option
@click.pass_context
def import_command(
    ctx: click.Context,
    config: Config,
    file: Path,
    server: str,
    undo_file: Path | None,
    form: str,
    force: bool,
    dry_run: bool,
) -> None:
    """Import FILE: the text of `ctl_mboxlist -d`, lines user<TAB>server, or an undo file; the form is found out.

    The whole file is checked before anything is changed. Mailboxes that FILE does not name stay. What was there before
    is written to an undo file beside FILE, which is imported to go back. Exit status 1 when a mailbox was refused.
    """
    rules = config.names.rules()
    with contextlib.ExitStack() as stack:
        checking = stack.enter_context(progress_bar("checking", _size(file)))
        source = stack.enter_context(ImportFile(file, rules, server=server, progress=checking))
        node = stack.enter_context(ControlClient(config.node.run_dir, timeout_s=120))
        changes = source.changes()
        if source.form is DumpFormat.MAP:
            index = stack.enter_context(cyrusext.open(config.node.state_dir))
            changes = keep_known(changes, index.get)
        undo = None
        if not dry_run:
            undo = stack.enter_context(UndoWriter(undo_file or _undo_beside(file), str(file)))
        applying = stack.enter_context(progress_bar("importing", source.mailboxes))
        try:
            totals = apply_all(node, changes, force=force, dry_run=dry_run, undo=undo, progress=applying)
        finally:
            # Told also when the import broke off: something may be changed.
            if undo is not None and undo.written:
                complain(f"undo file: {undo.path}")
    print_rows(("what", "mailboxes"), _summary(source, totals), form)
    for refusal in totals.first_refused:
        name = refusal.name.decode("utf-8", "backslashreplace")
        complain(f"refused {name}: {refusal.reason}")
    if totals.refused > len(totals.first_refused):
        complain(f"and {totals.refused - len(totals.first_refused)} more were refused")
    ctx.exit(1 if totals.refused else 0)


@click.command("export")
@click.option("--format", "form", type=click.Choice(["ctl", "map", "csv"]), default="ctl", help="Form of the output.")
@click.option("--prefix", default="", metavar="P", help="Only mailboxes whose name starts with P.")
@click.option("--server", default="", metavar="S", help="Only mailboxes on server S.")
@config_option
def export_command(config: Config, form: str, prefix: str, server: str) -> None:
    """Print all records: as `ctl_mboxlist -d` of Cyrus 3.6 does, as lines user<TAB>server, or as CSV."""
    out = sys.stdout.buffer
    with cyrusext.open(config.node.state_dir) as index:
        if not index.fresh_within(config.lookup.no_max_age_s):
            complain("no running node confirms that this is current")
        records = index.walk(prefix.encode("utf-8", "surrogateescape"), server)
        if form == "ctl":
            lines = write_ctl(records)
        elif form == "map":
            lines = write_map(records, config.names.rules())
        else:
            lines = write_csv(records)
        for line in lines:
            out.write(line)
    out.flush()


@click.command("compare")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--server", default="", metavar="S", help="FILE is the dump of backend S: compare with its mailboxes only."
)
@config_option
@format_option
@click.pass_context
def compare_command(ctx: click.Context, config: Config, file: Path, server: str, form: str) -> None:
    """Show where FILE, a list that `import` reads, and the records here differ.

    FILE is the text of `ctl_mboxlist -d` of another master, of a frontend, or with --server of a backend. Nothing is
    changed. Exit status 1 when there is a difference.
    """
    columns = ("name", "difference", "here", "there")
    with contextlib.ExitStack() as stack:
        checking = stack.enter_context(progress_bar("checking", _size(file)))
        source = stack.enter_context(ImportFile(file, config.names.rules(), server=server, progress=checking))
        if source.is_undo:
            raise InputError(f"{file}: an undo file is no list of mailboxes")
        index = stack.enter_context(cyrusext.open(config.node.state_dir))
        if not index.fresh_within(config.lookup.no_max_age_s):
            complain("no running node confirms that this is current")
        found = print_rows(columns, differences(source, index, server), form)
    ctx.exit(1 if found else 0)


def _summary(source: ImportFile, totals: Totals) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = [
        ("created", totals.created),
        ("changed", totals.changed),
        ("unchanged", totals.unchanged),
        ("deleted", totals.deleted),
        ("absent already", totals.absent),
        ("refused", totals.refused),
        ("skipped lines", source.skipped),
    ]
    shown = [row for row in rows if row[1]]
    return shown + [(f"on {name}", count) for name, count in sorted(source.servers.items()) if name]


def _undo_beside(file: Path) -> Path:
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    place = file if file.is_file() else Path("import")
    return place.with_name(f"{place.name}.undo-{stamp}")


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
