"""Is mail ever bounced because its mailbox is just being moved or renamed, between real backends, under load?

While messages to a user flow, one after the other by several clients, she is moved to the other backend and back, and
renamed and renamed back.  No reply is a 5xx; and every message that got 250 is in her mailbox at the end, once.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.cyrus import LOSES_MASTER, CyrusBackend
from tests.harness.lmtp import Lmtp, Reply, message
from tests.harness.mupdate import Mupdate
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.topology import Delivery
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.faults

CLIENTS = 3
MOVES = 200 if os.environ.get("CYREXT_LONG") else 10
BETWEEN = 15
"""Messages delivered between two moves."""
GONE_MEANWHILE = (r"couldn't find stage directory for mbox", r"append_check.*Mailbox does not exist")
"""What a backend logs of a mailbox that left between RCPT and delivery."""


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[Delivery]:
    with Delivery(root, new_state(), postfix=False) as delivery:
        for backend in delivery.backends:
            backend.expect(*GONE_MEANWHILE)
        yield delivery


def new_user(group: Delivery, backend: CyrusBackend) -> str:
    user = group.user()
    with backend.imap() as admin:
        imap.create(admin, f"user.{user}")
    return user


class Load:
    """Clients that deliver to one user until told to stop; every reply is kept."""

    def __init__(self, group: Delivery, user: str) -> None:
        self.user = user
        self.delivered: list[str] = []
        """Subjects that were answered 250."""
        self.replies: list[Reply] = []
        """Every other reply."""
        self._group = group
        self._stopping = threading.Event()
        self._numbers = itertools.count()
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._work = [self._pool.submit(self._send_on) for _ in range(CLIENTS)]

    def _send_on(self) -> None:
        with Lmtp(self._group.router.address, ROUTER_PORT) as client:
            while not self._stopping.is_set():
                subject = f"{self.user}-{next(self._numbers)}"
                final = client.deliver("a@example.net", [f"{self.user}@example.org"], message(subject)).final[0]
                if final.code == 250:
                    self.delivered.append(subject)
                else:
                    self.replies.append(final)

    def reach(self, more: int) -> None:
        """Wait for so many deliveries more."""
        wanted = len(self.delivered) + more
        wait_until(
            lambda: len(self.delivered) >= wanted or any(work.done() for work in self._work),
            f"{wanted} deliveries; the last other replies were {self.replies[-2:]}",
            40,
        )

    def stop(self) -> None:
        self._stopping.set()
        for work in self._work:
            work.result(60)
        self._pool.shutdown()


def subjects(backend: CyrusBackend, user: str) -> Counter[str]:
    with backend.imap(user) as connection:
        texts = imap.messages(connection)
    return Counter(re.findall(rb"^Subject: (.*)\r$", text, re.MULTILINE)[0].decode() for text in texts)


def rcpt(group: Delivery, user: str) -> Reply:
    with Lmtp(group.router.address, ROUTER_PORT) as client:
        client.command("MAIL FROM:<a@example.net>")
        return client.command(f"RCPT TO:<{user}@example.org>")


def test_a_user_who_is_moved_under_load_bounces_nothing(group: Delivery) -> None:
    user = new_user(group, group.be1)
    load = Load(group, user)
    try:
        here, there = group.be1, group.be2
        for _ in range(MOVES):
            load.reach(BETWEEN)
            with here.imap() as admin:
                imap.xfer(admin, f"user.{user}", there.name)
            here, there = there, here
        load.reach(BETWEEN)
    finally:
        load.stop()
    refused = [reply for reply in load.replies if reply.code // 100 != 4]
    assert refused == [], f"bounced: {refused}"
    kept = subjects(here, user)
    assert set(load.delivered) - kept.keys() == set(), "250, and not in the mailbox"
    print(f"{MOVES} moves, {len(load.delivered)} delivered, {len(load.replies)} deferred, 0 bounced, 0 lost")


def test_a_user_who_is_renamed_under_load_bounces_nothing(group: Delivery) -> None:
    """Under the old name mail is deferred while it is away: a RENAME is a DELETE first, and she may come back."""
    user = new_user(group, group.be1)
    load = Load(group, user)
    try:
        for _ in range(MOVES):
            load.reach(BETWEEN)
            away = group.user("away")
            with group.be1.imap() as admin:
                imap.ok(admin.rename(f"user.{user}", f"user.{away}"))
                had = len(load.replies)
                wait_until(lambda had=had: len(load.replies) > had, "mail comes while she is away", 20)  # type: ignore[misc]
                imap.ok(admin.rename(f"user.{away}", f"user.{user}"))
        load.reach(BETWEEN)
    finally:
        load.stop()
    assert [reply for reply in load.replies if reply.code // 100 != 4] == []
    assert set(load.delivered) - subjects(group.be1, user).keys() == set()


def test_a_record_that_lies_sends_mail_after_its_mailbox(group: Delivery) -> None:
    """The index says be1, the mailbox is at be2: deferred, never bounced; and delivered when the index is right."""
    user = new_user(group, group.be2)
    with Mupdate(group.node.address) as backend:
        backend.ok(b"DEACTIVATE", f"user.{user}".encode(), b"be2.lab!default")
        backend.ok(b"ACTIVATE", f"user.{user}".encode(), b"be1.lab!default", b"")
    assert rcpt(group, user).code == 451
    load = Load(group, user)
    try:
        wait_until(lambda: len(load.replies) > BETWEEN, "mail comes", 20)
        with Mupdate(group.node.address) as backend:
            backend.ok(b"DEACTIVATE", f"user.{user}".encode(), b"be1.lab!default")
            backend.ok(b"ACTIVATE", f"user.{user}".encode(), b"be2.lab!default", b"")
        load.reach(BETWEEN)
    finally:
        load.stop()
    assert [reply for reply in load.replies if reply.code // 100 != 4] == []
    assert set(load.delivered) == subjects(group.be2, user).keys()


def test_a_torn_rename_bounces_nothing(group: Delivery) -> None:
    """The backend has renamed nothing, the node has seen the DELETE and no more; a push makes it good.

    Neither name may be refused meanwhile: the old one is the mailbox, and the new one may have been done.
    """
    user = new_user(group, group.be1)
    group.be1.expect(*LOSES_MASTER)
    with Mupdate(group.node.address) as torn:
        torn.ok(b"DELETE", f"user.{user}".encode())
    load = Load(group, user)
    try:
        wait_until(lambda: len(load.replies) > BETWEEN, "mail comes", 20)
        assert load.delivered == []
        group.be1.tool("ctl_mboxlist", "-m")
        load.reach(BETWEEN)
    finally:
        load.stop()
    assert [reply for reply in load.replies if reply.code // 100 != 4] == []
    assert set(load.delivered) == subjects(group.be1, user).keys()
