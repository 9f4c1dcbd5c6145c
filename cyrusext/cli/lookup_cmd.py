"""``cyrusext lookup WORD…``: where a mailbox, a user or an address is, asked of the index on this machine."""

from __future__ import annotations

import os
from typing import NamedTuple

import click

import cyrusext
from cyrusext.cli.options import complain, config_option, format_option
from cyrusext.cli.output import Cell, print_rows
from cyrusext.errors import InvalidName
from cyrusext.index import Index
from cyrusext.lookup import Answer, Lookup, Verdict
from cyrusext.model import check_name
from cyrusext.names import NameRules, from_external, inbox_of_user
from cyrusext.runtime.config import Config

COLUMNS = ("word", "mailbox", "state", "server", "partition", "flags")

_ABSENT, _TEMPORARY = 1, 75


class _Result(NamedTuple):
    row: tuple[Cell, ...] | None
    complaint: str
    exit_code: int


@click.command("lookup")
@click.argument("words", metavar="WORD...", nargs=-1, required=True)
@config_option
@format_option
@click.pass_context
def lookup_command(ctx: click.Context, config: Config, words: tuple[str, ...], form: str) -> None:
    """Show where each WORD is: an address (with @), a mailbox name, or a user of the default domain.

    Exit status 1 when one is not there, 75 when that can not be said now (no running node has confirmed that the index
    is current, or the mailbox is just being made or moved).
    """
    rules = config.names.rules()
    with cyrusext.open(config.node.state_dir) as index:
        lookup = Lookup(config.node.state_dir, rules, no_max_age_s=config.lookup.no_max_age_s)
        try:
            results = [_find(word, os.fsencode(word), index, lookup, rules) for word in words]
        finally:
            lookup.close()
    print_rows(COLUMNS, [result.row for result in results if result.row is not None], form)
    for result in results:
        if result.complaint:
            complain(result.complaint)
    ctx.exit(max(result.exit_code for result in results))


def _find(word: str, raw: bytes, index: Index, lookup: Lookup, rules: NameRules) -> _Result:
    if b"@" in raw:
        return _show(word, lookup.recipient(raw), index)
    candidates = _candidates(raw, rules)
    answers = []
    for name in candidates:
        answer = lookup.mailbox(name)
        if answer.verdict is Verdict.FOUND or index.lookup(name) is not None:
            return _show(word, answer, index)
        answers.append(answer)
    if not answers:
        return _Result(None, f"{word}: no mailbox can have this name", _ABSENT)
    # None is there: if for one of them that is not certain, it is for none.
    return _show(word, next((a for a in answers if a.verdict is Verdict.TEMPORARY), answers[0]), index)


def _candidates(raw: bytes, rules: NameRules) -> list[bytes]:
    """The mailboxes that a word may mean, in order: an internal name, an external one, a user's INBOX."""
    names: list[bytes] = []
    for convert in (_internal, from_external, inbox_of_user):
        try:
            name = convert(raw, rules)
        except InvalidName:
            continue
        if name not in names:
            names.append(name)
    return names


def _internal(name: bytes, _rules: NameRules) -> bytes:
    return check_name(name)


def _show(word: str, answer: Answer, index: Index) -> _Result:
    found = index.lookup(answer.mailbox) if answer.mailbox else None
    row: tuple[Cell, ...] | None = None
    if found is not None:
        flags = ",".join(flag.name.lower() for flag in found.flags if flag.name)
        row = (word, answer.mailbox, found.state.name, found.server, found.partition, flags)
    if answer.verdict is Verdict.FOUND:
        return _Result(row, "", 0)
    reason = answer.reason or "no such mailbox"
    if answer.verdict is Verdict.ABSENT:
        return _Result(row, f"{word}: {reason}", _ABSENT)
    return _Result(row, f"{word}: can not be said now: {reason}", _TEMPORARY)
