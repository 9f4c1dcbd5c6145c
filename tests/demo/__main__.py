"""The demo: one message to two users on two real Cyrus servers, located by our node, delivered by our router.

    python -m tests.demo [--once] [--release SUITE]

Rule: what it prints it has seen.  A line about a recipient is printed after that backend's own IMAP server has shown
the message.  However it ends, no process, mount or directory stays behind.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import smtplib
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

from tests.harness import imap, roots
from tests.harness.cyrus import CyrusBackend
from tests.harness.ours import ROUTER_PORT
from tests.harness.topology import Delivery
from tests.harness.waiting import wait_until

SENDER = "carol@example.net"
MESSAGE_ID = "<demo@example.net>"
MESSAGE = f"""\
From: Carol <{SENDER}>
To: Alice <alice@example.org>, Bob <bob@example.org>
Subject: One message, two servers
Message-ID: {MESSAGE_ID}

Hello both of you.
""".replace("\n", "\r\n")


class Ended(Exception):
    """Somebody asked us to end, by Ctrl-C or SIGTERM."""


def create_users(where: dict[str, CyrusBackend]) -> None:
    """An ordinary IMAP CREATE at each backend: the backend tells the node by itself."""
    for user, backend in where.items():
        with backend.imap() as connection:
            imap.create(connection, f"user.{user}")


def is_located(delivery: Delivery, user: str, backend: CyrusBackend) -> bool:
    """Whether `cyrusext lookup` names the backend, asked as an operator would."""
    found = delivery.node.cli("lookup", f"{user}@example.org", "--format", "tsv", check=False)
    return re.search(rf"\b{re.escape(backend.name)}\b", found.stdout) is not None


def send(delivery: Delivery, recipients: list[str]) -> None:
    """Hand the message to Postfix, all recipients in one SMTP transaction."""
    with smtplib.SMTP(delivery.postfix.address, 25, timeout=30) as client:
        refused = client.sendmail(SENDER, recipients, MESSAGE)
    if refused:
        raise AssertionError(f"Postfix refused {refused}")


def reply_for(delivery: Delivery, recipient: str) -> str:
    """What the router logged as the answer of the backend for `recipient`."""
    pattern = re.compile(
        rf'event=lmtp\.recipient .*\bto="?<?{re.escape(recipient)}>?"? .*\breply=("(?:[^"\\]|\\.)*"|\S+)'
    )
    for line in delivery.router.log_lines():
        if match := pattern.search(line):
            return match[1].strip('"')
    return ""


def copies(backend: CyrusBackend, user: str) -> int:
    """How many copies of the message are in the INBOX of `user` at `backend`; none where there is no such INBOX."""
    with backend.imap() as connection:
        if f"user.{user}" not in imap.listed(connection, f"user.{user}"):
            return 0
    with backend.imap(user) as connection:
        return sum(MESSAGE_ID.encode() in text for text in imap.messages(connection))


def show_delivery(delivery: Delivery, where: dict[str, CyrusBackend]) -> None:
    for user, backend in where.items():
        recipient = f"{user}@example.org"
        wait_until(partial(copies, backend, user), f"{recipient} has it", 30, 0.1)
        reply = wait_until(partial(reply_for, delivery, recipient), f"the router logs {recipient}", 10)
        held = ", ".join(f"{copies(each, user)} on {each.name}" for each in delivery.backends)
        print(f"  {recipient:<18} {backend.name}  {reply}")
        print(f"  {'':<18} copies: {held}")


def show_how_to_look(delivery: Delivery) -> None:
    config = delivery.node.config_file
    print(f"""
Everything stays up until Ctrl-C.  In another terminal, in this directory:

  .venv/bin/cyrusext status -c {config}
  .venv/bin/cyrusext lookup alice -c {config}
  .venv/bin/cyrusext mailbox list -c {config}
  build/bin/cyx get {delivery.node.state}/lib user.alice
  tail -f {delivery.router.log}

Cyrus answers IMAP on {delivery.be1.address} and {delivery.be2.address} port 143 (user cyrus, password cyruspw),
Postfix SMTP on {delivery.postfix.address} port 25, the router LMTP on {delivery.router.address} port {ROUTER_PORT},
and the node MUPDATE on {delivery.node.address} port 3905.""")


def run(state: Path, release: str, once: bool) -> None:
    root = roots.build(release, say=lambda text: print(text, file=sys.stderr))
    delivery = Delivery(root, state)
    where = {"alice": delivery.be1, "bob": delivery.be2}
    print("Starting a node, two Cyrus backends, the router and Postfix ...", flush=True)
    with delivery:
        try:
            show(delivery, where)
        except AssertionError:
            for server in delivery.servers:
                print(server.tail(), file=sys.stderr)
            raise
        if not once:
            show_how_to_look(delivery)
            sys.stdout.flush()
            threading.Event().wait()


def show(delivery: Delivery, where: dict[str, CyrusBackend]) -> None:
    create_users(where)
    print("Created by IMAP, and located by the node:")
    for user, backend in where.items():
        wait_until(partial(is_located, delivery, user, backend), f"{user} is located", 10, 0.1)
        print(f"  user.{user:<13} {backend.name}")
    print("One message to both, by SMTP to Postfix:", flush=True)
    send(delivery, [f"{user}@example.org" for user in where])
    show_delivery(delivery, where)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description="One message to users on two Cyrus servers.")
    parser.add_argument("--once", action="store_true", help="end after the delivery instead of staying up")
    parser.add_argument("--release", choices=roots.SUITES, default=roots.SUITES[0], help="whose Cyrus and Postfix")
    arguments = parser.parse_args(argv)

    def end(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one must not break off the cleaning up
            signal.signal(number, signal.SIG_IGN)
        raise Ended

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    state = Path(tempfile.mkdtemp(prefix="cyx-demo-"))
    try:
        run(state, arguments.release, arguments.once)
    except Ended:
        print("\nStopped.")
    except (roots.RootsError, AssertionError) as error:
        print(f"make demo: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(state, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
