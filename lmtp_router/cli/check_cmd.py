"""``lmtp-router check``: where mail would go, and whether the backend takes it, for one address or a day of them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeVar

import click
import uvloop

from cyrusext.cli.options import complain, format_option
from cyrusext.cli.output import print_rows
from cyrusext.cli.progress import progress_bar
from cyrusext.runtime import logging
from cyrusext.runtime.config import DEFAULT_PATH, Config, load
from lmtp_router.probe import Accepts, Judgement, Probe
from lmtp_router.protocol.types import Rcpt
from lmtp_router.replay import AGENTS, Finding, Notes, parsed, read_log, replay

_R = TypeVar("_R")
_EXIT = {Accepts.YES: 0, Accepts.NO: 1, Accepts.LATER: 75}


@click.command("check")
@click.option(
    "-c", "file", type=click.Path(path_type=Path), metavar="FILE", help=f"Configuration file [default: {DEFAULT_PATH}]."
)
@click.argument("recipient", metavar="[ADDRESS]", required=False)
@click.option("--replay", "log", type=click.Path(path_type=Path), metavar="LOG", help="A Postfix log: check them all.")
@click.option("--rate", default=20.0, type=click.FloatRange(0.01, 10_000), help="Addresses a second [default: 20].")
@click.option("--notes", type=click.Path(path_type=Path), metavar="FILE", help="Keep what was found; go on from there.")
@click.option(
    "--agent", "agents", multiple=True, metavar="NAME", help=f"Postfix program that delivers [{', '.join(AGENTS)}]."
)
@format_option
@click.pass_context
def check_command(
    ctx: click.Context,
    file: Path | None,
    recipient: str | None,
    log: Path | None,
    rate: float,
    notes: Path | None,
    agents: tuple[str, ...],
    form: str,
) -> None:
    """Say where mail for ADDRESS would go now, and whether the backend takes it; nothing is sent.

    The backend is asked with MAIL and RCPT, then RSET. Exit status 0 when it takes the mail, 1 when that would bounce,
    75 when it would have to wait. With --replay all recipients of a Postfix log are asked about, and what would bounce
    or wait is listed; broken off with Ctrl-C it shows what it has found, and with --notes goes on there the next time.
    """
    if (recipient is None) == (log is None):
        raise click.UsageError("expected either ADDRESS or --replay LOG")
    config = load(file or ctx.obj)
    # What is found goes to standard output; a frontend that asks for us has nothing to tell beside that.
    logging.setup("critical")
    if recipient is not None:
        rcpt = parsed(recipient)
        if rcpt is None:
            raise click.UsageError(f"{recipient!r} is no address that LMTP takes")
        judgement = _run(_check(config, rcpt))
        answer = judgement.answer
        columns = ("address", "verdict", "mailbox", "server", "endpoint", "accepts", "says")
        found = (answer.verdict.name.lower(), answer.mailbox, answer.server, judgement.endpoint)
        print_rows(columns, [(recipient, *found, judgement.accepts.value, judgement.reply)], form)
        ctx.exit(_EXIT[judgement.accepts])
    assert log is not None
    ctx.exit(_replay(config, log, rate, notes, agents or AGENTS, form))


def _run(work: Coroutine[None, None, _R]) -> _R:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def _check(config: Config, rcpt: Rcpt) -> Judgement:
    async with Probe(config) as probe:
        line = probe.line()
        try:
            return await probe.judge(rcpt, line)
        finally:
            line.close()


def _replay(config: Config, log: Path, rate: float, path: Path | None, agents: tuple[str, ...], form: str) -> int:
    recipients = read_log(log, agents)
    with Notes(path) as notes:
        findings = {address: notes.known[address] for address in recipients.messages if address in notes.known}
        left = [address for address in recipients.messages if address not in findings]
        with progress_bar("asking", len(left)) as progress:

            def found(finding: Finding) -> None:
                findings[finding.address] = finding
                notes.add(finding)
                if progress is not None:
                    progress(1)

            complete = _run(_ask(config, left, rate, found))
    bad = [findings[address] for address in recipients.messages if address in findings]
    rows = [
        (one.address, recipients.messages[one.address], one.accepts.value, one.server, one.says)
        for one in bad
        if one.accepts is not Accepts.YES
    ]
    print_rows(("address", "messages", "accepts", "server", "says"), rows, form)
    count = {kind: sum(one.accepts is kind for one in findings.values()) for kind in Accepts}
    complain(
        f"{len(findings)} of {len(recipients.messages)} addresses: {count[Accepts.YES]} accepted,"
        f" {count[Accepts.NO]} would bounce, {count[Accepts.LATER]} would wait;"
        f" {recipients.bounced} deliveries of the log had bounced themselves"
    )
    if not complete:
        complain("broken off" + ("; the same command goes on" if path else "; with --notes FILE it could go on"))
    if count[Accepts.NO]:
        return 1
    return 0 if complete and not count[Accepts.LATER] else 75


async def _ask(config: Config, addresses: list[str], rate: float, found: Callable[[Finding], None]) -> bool:
    """Return False when it was broken off."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with Probe(config) as probe:
        await replay(probe, addresses, per_s=rate, found=found, stopping=stopping)
    return not stopping.is_set()
