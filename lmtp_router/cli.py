"""The command ``lmtp-router``: run the router, ask whether it answers, ask where an address would go.

Rule: exit statuses are those of ``cyrusext``: 0 done, 1 absent, 2 usage, 69 unavailable, 75 temporary, 78
configuration.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import time
from pathlib import Path

import click

from cyrusext.cli.options import Commands, format_option
from cyrusext.cli.output import print_rows
from cyrusext.errors import CyrusExtError, RemoteProtocolError
from cyrusext.lookup import Verdict
from cyrusext.net import address
from cyrusext.net.address import Address, TcpAddress
from cyrusext.runtime import config_check, logging, privileges
from cyrusext.runtime.config import DEFAULT_PATH, Config, load
from lmtp_router.protocol import codec
from lmtp_router.protocol.types import Rcpt, Refused
from lmtp_router.routing import Route, Routing
from lmtp_router.settings import settings_of
from lmtp_router.supervisor import Supervisor, bind_workers
from lmtp_router.worker import open_lookup, work

PROBE_S = 5.0

_EXIT = {Verdict.FOUND: 0, Verdict.ABSENT: 1, Verdict.TEMPORARY: 75}

_file_option = click.option(
    "-c", "file", type=click.Path(path_type=Path), metavar="FILE", help=f"Configuration file [default: {DEFAULT_PATH}]."
)


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_file_option
@click.version_option(package_name="cyrusext", prog_name="lmtp-router", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, file: Path | None) -> None:
    """Take mail over LMTP and give each recipient to the right backend."""
    ctx.obj = file
    if ctx.invoked_subcommand is None:
        ctx.exit(run(load(file)))


def run(config: Config) -> int:
    """Run the router in the foreground; return the exit status.  Raises ConfigError."""
    notices = config_check.require(config, "lmtp-router")
    logging.setup(config.log.level)
    log = logging.get()
    for notice in notices:
        log.warning("config.notice", text=notice)
    settings = settings_of(config)
    workers = config.lmtp.workers or len(os.sched_getaffinity(0))
    bound = bind_workers([address.parse(text) for text in config.lmtp.listen], workers)
    privileges.drop(config.node.user, config.node.group)
    return Supervisor(bound, functools.partial(work, config, settings)).run()


@cli.command("check")
@_file_option
@click.argument("recipient", metavar="ADDRESS")
@format_option
@click.pass_context
def check_command(ctx: click.Context, file: Path | None, recipient: str, form: str) -> None:
    """Say where mail for ADDRESS would go now, without sending any."""
    config = load(file or ctx.obj)
    parsed = codec.parse_command(b"RCPT TO:<%b>" % recipient.encode("utf-8", "surrogateescape"))
    if not isinstance(parsed, Rcpt):
        said = parsed.reply.text if isinstance(parsed, Refused) else ""
        raise click.UsageError(f"{recipient!r} is no address that LMTP takes: {said}")
    lookup = open_lookup(config)
    try:
        answer = lookup.recipient(parsed.address)
        route = Routing(lookup, config.backends).route(parsed)
    finally:
        lookup.close()
    endpoint = f"{route.host}:{route.port}" if isinstance(route, Route) else ""
    reply = "" if isinstance(route, Route) else route.text
    row = (recipient, answer.verdict.name.lower(), answer.mailbox, answer.server, endpoint, reply or answer.reason)
    print_rows(("address", "verdict", "mailbox", "server", "endpoint", "says"), [row], form)
    ctx.exit(_EXIT[answer.verdict])


@cli.command("status")
@_file_option
@format_option
@click.pass_context
def status_command(ctx: click.Context, file: Path | None, form: str) -> None:
    """Say whether the router answers on each address of `[lmtp] listen`."""
    config = load(file or ctx.obj)
    rows = [(text, *probe(address.parse(text))) for text in config.lmtp.listen]
    print_rows(("address", "state", "took_ms", "says"), rows, form)
    ctx.exit(0 if all(row[1] == "up" for row in rows) else 69)


def probe(place: Address) -> tuple[str, float, str]:
    """Greet the router at `place`; return ``up`` or ``down``, milliseconds, and what it said or why not."""
    started = time.monotonic()
    parser = codec.ReplyParser()
    said = []
    try:
        with _connect(place) as sock:
            sock.settimeout(PROBE_S)
            for command in (b"", b"LHLO localhost\r\n", b"QUIT\r\n"):
                sock.sendall(command)
                replies = parser.feed(sock.recv(4096))
                while not replies:
                    data = sock.recv(4096)
                    if not data:
                        raise ConnectionResetError("it closed the connection")
                    replies = parser.feed(data)
                said += replies
    except (OSError, RemoteProtocolError) as error:
        return "down", _since(started), str(error)
    good = [answer.code for answer in said] == [220, 250, 221]
    return "up" if good else "down", _since(started), said[0].text


def _connect(place: Address) -> socket.socket:
    if isinstance(place, TcpAddress):
        return socket.create_connection((place.host or "localhost", place.port), PROBE_S)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(PROBE_S)
        sock.connect(place.path)
    except OSError:
        sock.close()
        raise
    return sock


def _since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        cli(prog_name="lmtp-router")
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except CyrusExtError as error:
        click.echo(f"lmtp-router: {error}", err=True)
        sys.exit(error.exit_code)
