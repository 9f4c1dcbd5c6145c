"""The way of a message with two wires in it: it can be struck at every phase, and all that passed is on record.

Rule: the wires change nothing.  What a recipient was told is read off them, not out of anybody's log: a server that is
killed may not have written what it had done.
"""

from __future__ import annotations

import re
import smtplib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.harness.cyrus import LMTP_OPEN_PORT
from tests.harness.lmtp import message
from tests.harness.ours import ROUTER_PORT, Config
from tests.harness.roots import Root
from tests.harness.topology import Delivery
from tests.harness.waiting import wait_until
from tests.harness.wirefault import TO_CLIENT, TO_SERVER, WireFault

FRONT, BACK = "Postfix and router", "router and be1"
WIRE_HOSTS = {FRONT: 21, BACK: 22}
Arm = Callable[[WireFault, Callable[[], None]], None]
POINTS: dict[str, Arm] = {
    "connected": lambda wire, blow: wire.on_connect(blow),
    "greeting": lambda wire, blow: wire.on_match(b"220 ", blow, TO_CLIENT),
    "LHLO": lambda wire, blow: wire.on_match(b"LHLO ", blow),
    "envelope": lambda wire, blow: wire.on_match(b"MAIL FROM", blow),
    "half the envelope": lambda wire, blow: wire.on_match(b"RCPT TO", blow, cut_after=True),
    "354": lambda wire, blow: wire.on_match(b"354 ", blow, TO_CLIENT),
    "body": lambda wire, blow: wire.on_match(b"\nSubject: flood", blow),
    "half the body": lambda wire, blow: wire.on_match(b"half", blow, cut_after=True),
    "dot": lambda wire, blow: wire.on_match(b"\r\n.\r\n", blow),
    "answered": lambda wire, blow: wire.on_answer(b"\r\n.\r\n", blow),
}
"""Where a blow can fall, by what is about to pass; "answered": the replies to the message are on their way."""


class Wired(Delivery):
    """Postfix, wire, router; router, wire, be1; and be2 without one."""

    def __init__(self, root: Root, state: Path, config: Config) -> None:
        # Cyrus would hide that it was given a message twice.
        super().__init__(root, state, config=config, extra={"duplicatesuppression": "no"})
        front, back = (self.network.address(number) for number in WIRE_HOSTS.values())
        for own in (self.node, self.router):
            own.config["backends"]["be1.lab"]["host"] = back
            own.configure()
        self.postfix.transport = f"lmtp:inet:[{front}]:{ROUTER_PORT}"
        self.postfix.configure()
        self.wires = {
            FRONT: WireFault((front, ROUTER_PORT), (self.router.address, ROUTER_PORT)),
            BACK: WireFault((back, LMTP_OPEN_PORT), (self.be1.address, LMTP_OPEN_PORT)),
        }

    def close(self) -> None:
        try:
            super().close()
        finally:
            for wire in self.wires.values():
                wire.close()

    def worker(self) -> int:
        """The process that has the router's sessions; there is one here."""
        children = Path(f"/proc/{self.router.pid}/task/{self.router.pid}/children").read_text().split()
        return int(children[0])

    def strike(self, where: str, point: str, blow: Callable[[], None], more: Callable[[], None]) -> None:
        """Arm a point, let messages flow by `more`, and return when the blow has fallen."""
        fallen = threading.Event()

        def fall() -> None:
            blow()
            fallen.set()

        wire = self.wires[where]
        if where == BACK and point in ("connected", "greeting", "LHLO"):
            wire.cut()  # the kept connections go, so that there will be a new one
        POINTS[point](wire, fall)
        more()
        wait_until(fallen.is_set, f"a blow at {point!r} between {where}", 30)


class Flood:
    """Sends messages ``flood-N`` by SMTP, as many as are allowed, until they are taken; a thread of its own."""

    def __init__(self, group: Delivery, recipients: list[str], first: int) -> None:
        self.sent = first
        """Number of the next message."""
        self.first = first
        self.again = 0
        """Messages that may have been taken twice: the end of their transaction was not heard."""
        self._group = group
        self._recipients = recipients
        self._allowed = threading.Semaphore(0)
        self._granted = 0
        self._ending = False
        self._thread = threading.Thread(target=self._send_on, name="flood", daemon=True)
        self._thread.start()

    def allow(self, messages: int) -> None:
        self._granted += messages
        self._allowed.release(messages)

    def _send_on(self) -> None:
        while True:
            self._allowed.acquire()
            if self._ending:
                return
            text = message(f"flood-{self.sent}", b"x" * 100 + b"\r\nhalf of it\r\n" + b"y" * 100 + b"\r\n")
            while not self._send(text):
                pass
            self.sent += 1

    def _send(self, text: bytes) -> bool:
        try:
            with smtplib.SMTP(self._group.postfix.address, 25, timeout=30) as client:
                client.sendmail("", self._recipients, text)
        except ConnectionRefusedError:
            wait_until(lambda: self._ending or self._group.postfix.ready(), "Postfix is there again", 60)
            return self._ending
        except (OSError, smtplib.SMTPException):
            self.again += 1
            return self._ending
        return True

    def finish(self, messages: int) -> None:
        """Send on until there are so many; then end."""
        self.allow(messages - self._granted)
        wait_until(lambda: self.sent >= self.first + messages, f"{messages} messages are sent", 60 + messages / 5)
        self._ending = True
        self.allow(1)
        self._thread.join(60)


class Delivered(NamedTuple):
    """A message and a recipient."""

    number: int
    user: str


def told(wire: WireFault) -> Counter[Delivered]:
    """How often the client of a wire was told 250 for a recipient after the message; only what passed whole counts."""
    found: Counter[Delivered] = Counter()
    for connection in sorted({piece.connection for piece in wire.record}):
        found.update(_told_on(wire.transcript(connection, TO_SERVER), wire.transcript(connection, TO_CLIENT)))
    return found


def _told_on(said: bytes, answers: bytes) -> Iterator[Delivered]:
    replies = iter(re.findall(rb"(?:\d{3}-[^\r]*\r\n)*(\d{3}) [^\r]*\r\n", answers))
    next(replies, b"")  # the greeting
    accepted: list[str] = []
    at = 0
    while (end := said.find(b"\r\n", at)) >= 0:
        line, at = said[at:end], end + 2
        code = next(replies, b"")
        if line.startswith((b"MAIL", b"RSET", b"LHLO")):
            accepted = []
        elif line.startswith(b"RCPT") and code == b"250":
            accepted.append(line[9:].partition(b"@")[0].decode())
        elif line == b"DATA" and code == b"354":
            stop = said.find(b"\r\n.\r\n", at)
            if stop < 0:
                return
            number = re.search(rb"^Subject: flood-(\d+)\r$", said[at:stop], re.MULTILINE)
            assert number is not None, said[at:stop][:300]
            at = stop + 5
            for user in accepted:
                if next(replies, b"") == b"250":
                    yield Delivered(int(number[1]), user)
