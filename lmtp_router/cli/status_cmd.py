"""``lmtp-router status``: what the router says of itself, and whether it answers where it should."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cyrusext.cli.options import format_option
from cyrusext.cli.output import Cell, print_rows
from cyrusext.errors import NodeUnavailable, RemoteProtocolError
from cyrusext.manage.control import ROUTER, ControlClient
from cyrusext.net import address
from cyrusext.net.address import Address, TcpAddress
from cyrusext.runtime.config import DEFAULT_PATH, load
from lmtp_router.protocol import codec

PROBE_S = 5.0


@click.command("status")
@click.option(
    "-c", "file", type=click.Path(path_type=Path), metavar="FILE", help=f"Configuration file [default: {DEFAULT_PATH}]."
)
@format_option
@click.pass_context
def status_command(ctx: click.Context, file: Path | None, form: str) -> None:
    """Show the router of this machine: sessions, backends, workers, how long things take.

    Exit status 69 when it is down, or does not answer at an address of `[lmtp] listen` or `smtp_listen`.
    """
    config = load(file or ctx.obj)
    answers = {text: probe(address.parse(text)) for text in config.lmtp.listen}
    answers |= {text: probe(address.parse(text), b"EHLO") for text in config.lmtp.smtp_listen}
    status: dict[str, Any] = {
        "answers": {text: {"state": state, "took_ms": ms, "says": says} for text, (state, ms, says) in answers.items()}
    }
    try:
        with ControlClient(config.node.run_dir, timeout_s=PROBE_S, daemon=ROUTER) as router:
            status |= router.status()
    except NodeUnavailable as error:
        status["control"] = str(error)
    if form == "json":
        click.echo(json.dumps(status, ensure_ascii=False, default=str))
    else:
        print_rows(("what", "value"), list(_rows(status)), form)
    up = all(state == "up" for state, _, _ in answers.values())
    ctx.exit(0 if up and "control" not in status else 69)


def _rows(status: dict[str, Any]) -> Iterator[tuple[str, Cell]]:
    for key, value in status.items():
        if key == "workers":
            for worker in value:
                shown = {name: part for name, part in worker.items() if name != "worker"}
                yield f"worker {worker['worker']}", _line(shown)
        elif isinstance(value, dict):
            for name, part in value.items():
                yield f"{_ONE.get(key, key)} {name}", _line(part) if isinstance(part, dict) else part
        elif isinstance(value, list):
            yield key, ", ".join(map(str, value))
        else:
            yield key, round(value, 1) if isinstance(value, float) else value


_ONE = {"backends": "backend", "answers": "at", "phases": "phase"}


def _line(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {'-' if part is None else part}" for name, part in values.items())


def probe(place: Address, hello: bytes = b"LHLO") -> tuple[str, float, str]:
    """Greet the router at `place`; return ``up`` or ``down``, milliseconds, and what it said or why not."""
    started = time.monotonic()
    parser = codec.ReplyParser()
    said = []
    try:
        with _connect(place) as sock:
            sock.settimeout(PROBE_S)
            for command in (b"", hello + b" localhost\r\n", b"QUIT\r\n"):
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
