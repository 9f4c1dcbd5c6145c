"""Is every message that Postfix took still there after everything behind it was killed while it flowed?

Postfix -> router -> two Cyrus backends, a node that knows who is where.  Each of them is killed (or hung) again and
again, one at a time, while messages to both backends go in.  At the end each message is in each mailbox: at least once,
for nobody may lose one, and more than once only as often as something was killed, for a sender that saw no reply must
send again.  No recipient is ever bounced.
"""

from __future__ import annotations

import os
import random
import re
import smtplib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.cyrus import LOSES_MASTER
from tests.harness.lmtp import message
from tests.harness.roots import Root
from tests.harness.server import Server
from tests.harness.topology import Delivery
from tests.harness.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow]

MESSAGES = 10_000 if os.environ.get("CYREXT_LONG") else 1000
FAULT_EVERY = 25
"""A fault for each so many messages."""
IN_FLIGHT = 20
"""Deliveries that Postfix has going at most, and so what one fault may make it repeat."""
SHORT = {"lmtp": {"timeouts": {"connect": 2, "greeting": 2, "envelope": 2, "data": 3, "final": 3, "idle": 60}}}


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[Delivery]:
    with Delivery(root, new_state(), config=SHORT) as delivery:
        for backend in delivery.backends:
            backend.expect(*LOSES_MASTER)
        delivery.router.expect(r"event=\S+")  # it complains of what we do to the others
        yield delivery


class Flood:
    """Sends one message after the other to `recipients`, on a thread of its own."""

    def __init__(self, group: Delivery, recipients: list[str]) -> None:
        self.sent = 0
        self._group = group
        self._recipients = recipients
        self._pool = ThreadPoolExecutor(1)
        self._work = self._pool.submit(self._send_all)

    def _send_all(self) -> None:
        for number in range(MESSAGES):
            text = message(f"flood-{number}", b"x" * 200 + b"\r\n")
            with smtplib.SMTP(self._group.postfix.address, 25, timeout=30) as client:
                assert client.sendmail("", self._recipients, text) == {}
            self.sent = number + 1

    def wait_sent(self, count: int) -> None:
        wait_until(lambda: self.sent >= min(count, MESSAGES) or self._work.done(), f"{count} messages are sent", 60)

    def finish(self) -> None:
        self._work.result(MESSAGES)
        self._pool.shutdown()


@pytest.mark.timeout(120 + MESSAGES)
def test_every_message_arrives_whatever_is_killed(group: Delivery) -> None:
    seed = int(os.environ.get("CYREXT_SEED", "20261123"))
    chance = random.Random(seed)
    users = [(group.user(), backend) for backend in group.backends for _ in range(2)]
    for user, backend in users:
        with backend.imap() as admin:
            imap.create(admin, f"user.{user}")
    victims: list[Server] = [group.node, group.router, *group.backends]
    faults: Counter[str] = Counter()
    flood = Flood(group, [f"{user}@example.org" for user, _ in users])
    for number in range(FAULT_EVERY // 2, MESSAGES, FAULT_EVERY):
        flood.wait_sent(number)
        victim, hang = chance.choice(victims), chance.random() < 0.3
        faults[f"{'hang' if hang else 'kill'} {victim.name}"] += 1
        if hang:
            victim.hang()
        else:
            victim.kill()
        flood.wait_sent(number + chance.randint(1, FAULT_EVERY // 2))
        if hang:
            victim.resume()
        else:
            victim.start()
    flood.finish()
    group.postfix.wait_empty(60 + MESSAGES / 20)
    assert not group.postfix.log_contains("status=bounced"), "mail was bounced"
    for user, backend in users:
        with backend.imap(user) as connection:
            copies = Counter(number_of(text) for text in imap.messages(connection))
        missing = [number for number in range(MESSAGES) if not copies[number]]
        assert not missing, f"seed {seed}: {backend.name} {user} lost {missing[:10]} after {faults}"
        again = copies.total() - MESSAGES
        assert again <= faults.total() * IN_FLIGHT, f"seed {seed}: {again} duplicates after {faults}"


def number_of(text: bytes) -> int:
    found = re.search(rb"^Subject: flood-(\d+)\r$", text, re.MULTILINE)
    assert found is not None, text[:200]
    return int(found[1])
