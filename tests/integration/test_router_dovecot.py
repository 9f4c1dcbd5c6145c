"""Is Dovecot a backend like any other, alone and beside a Cyrus: its verdicts, its extensions, what it keeps?"""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import imap, roots
from tests.harness.cyrus import LMTP_OPEN_PORT
from tests.harness.dovecot import LMTP_PORT, DovecotStore
from tests.harness.lmtp import Lmtp, Reply, message
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.topology import Delivery
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration

DOVECOT, DOVECOT_HOST = "dovecot.lab", 18
CONFIG = {
    "lmtp": {
        "trusted": ["127.0.0.0/8"],
        "received": True,
        "backend_xclient": True,
        "timeouts": {"connect": 2, "greeting": 5, "envelope": 5, "data": 10, "final": 30, "idle": 60},
    }
}
MAIN_CF = ("message_size_limit = 60000000", "lmtp_line_length_limit = 0", "lmtp_send_xforward_command = yes")
BODIES = {
    "8-bit": bytes(range(128, 256)) * 20 + b"\r\n" + bytes(set(range(1, 128)) - {10, 13}) + b"\r\n",
    "dots": b".\r\n..\r\n...\r\n.x\r\n\r\n..\r\n.. \r\n",
    "lines of 100000": (b"x" * 100_000 + b"\r\n") * 3 + b".\r\n" + b"y" * 100_000 + b".\r\n",
    "5 MiB": b"".join(b"%08d " % number + b"x" * 189 + b"\r\n" for number in range(26_300)),
    "empty": b"",
    "blank": b"\r\n" * 3,
}
PASSED_ON = {"8BITMIME", "SMTPUTF8", "DSN"}
"""Extensions that the router offers only where each backend has them."""


class Mixed(Delivery):
    """The group of deliveries with a Dovecot as third backend, whose users an operator has told to the node."""

    def __init__(self, root: Root, state: Path) -> None:
        super().__init__(root, state, config=CONFIG, main_cf=MAIN_CF)
        self.dovecot = DovecotStore(
            DOVECOT, self.network.address(DOVECOT_HOST), state / "dovecot", roots.build(root.suite, "dovecot")
        )
        self.dovecot.configure()
        for own in (self.node, self.router):
            own.config["backends"][DOVECOT] = {"host": self.dovecot.address, "lmtp": LMTP_PORT}
            own.configure()
        self.servers.append(self.dovecot)

    def user_of_dovecot(self, *, exists: bool = True) -> str:
        """A user that the node says is there; Dovecot knows him if `exists`."""
        user = self.user("dove")
        if exists:
            self.dovecot.create(f"{user}@example.org")
            wait_until(lambda: self._is_known(user), f"Dovecot knows {user}")
        self.node.cli("mailbox", "set", f"user.{user}", f"{DOVECOT}!default")
        return user

    def _is_known(self, user: str) -> bool:
        with Lmtp(self.dovecot.address, LMTP_PORT) as client:
            client.command("MAIL FROM:<>")
            return client.command(f"RCPT TO:<{user}@example.org>").code == 250

    def user_of_cyrus(self) -> str:
        user = self.user()
        with self.be1.imap() as admin:
            imap.create(admin, f"user.{user}")
        return user

    def lmtp(self) -> Lmtp:
        return Lmtp(self.router.address, ROUTER_PORT)

    def of_cyrus(self, user: str) -> list[bytes]:
        with self.be1.imap(user) as connection:
            return imap.messages(connection)

    def of_dovecot(self, user: str) -> list[bytes]:
        return self.dovecot.inbox(f"{user}@example.org")


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[Mixed]:
    with Mixed(root, new_state()) as mixed:
        yield mixed


def words(reply: Reply) -> set[str]:
    """The extensions that a reply to LHLO offers."""
    return {line[4:].partition(" ")[0] for line in reply.lines[1:]}


def test_dovecot_alone_takes_mail_and_says_so_in_its_own_words(group: Mixed) -> None:
    user = group.user_of_dovecot()
    with group.lmtp() as client:
        result = client.deliver("a@example.net", [f"{user}@example.org"] * 2, message("alone"))
    assert [reply.code for reply in result.final] == [250, 250]
    assert all("Saved" in reply.text for reply in result.final), "a word of Dovecot's"
    stored = group.of_dovecot(user)
    assert len(stored) >= 1
    assert all(text.endswith(message("alone")) for text in stored)


def test_offered_is_what_cyrus_and_dovecot_both_have(group: Mixed) -> None:
    users = [group.user_of_cyrus(), group.user_of_dovecot()]
    with group.lmtp() as client:  # the router meets both
        result = client.deliver("a@example.net", [f"{user}@example.org" for user in users], message("meet"))
        assert [reply.code for reply in result.final] == [250, 250]
    with Lmtp(group.dovecot.address, LMTP_PORT) as one, Lmtp(group.be1.address, LMTP_OPEN_PORT) as other:
        dovecot, cyrus = words(one.capabilities), words(other.capabilities)
    assert "XCLIENT" in dovecot, "Dovecot would believe the router"
    assert "CHUNKING" in dovecot
    with group.lmtp() as client:
        offered = words(client.capabilities)
        assert offered & PASSED_ON == dovecot & cyrus & PASSED_ON
        assert {"CHUNKING", "PIPELINING", "SIZE", "ENHANCEDSTATUSCODES"} <= offered, "the router's own"
        assert client.command("MAIL FROM:<a@example.net> RET=HDRS").code == 555


@pytest.mark.parametrize("kind", BODIES)
def test_one_message_for_both_is_the_same_octets_at_both(group: Mixed, kind: str) -> None:
    cyrus, dovecot = group.user_of_cyrus(), group.user_of_dovecot()
    text = message(kind.replace(" ", "-"), BODIES[kind])
    with smtplib.SMTP(group.postfix.address, 25, timeout=60, local_hostname="sender.lab") as client:
        assert client.sendmail("", [f"{user}@example.org" for user in (cyrus, dovecot)], text, ["BODY=8BITMIME"]) == {}
    group.postfix.wait_empty(60)
    for stored in (group.of_cyrus(cyrus), group.of_dovecot(dovecot)):
        assert len(stored) == 1
        assert stored[0].endswith(text), kind
        # Cyrus hears of no client; the router's own field says to both who sent.
        assert b"from sender.lab (" in stored[0][: len(stored[0]) - len(text)]


def test_verdicts_of_both_are_kept_apart(group: Mixed) -> None:
    """Unknown to Dovecot and listed at it is a stale location, and no bounce; a lost Dovecot is not Cyrus' matter."""
    cyrus, dovecot, unknown = group.user_of_cyrus(), group.user_of_dovecot(), group.user_of_dovecot(exists=False)
    paths = [f"{user}@example.org" for user in (dovecot, unknown, cyrus, "nobody-at-all")]
    with group.lmtp() as client:
        result = client.deliver("a@example.net", paths, message("apart"))
        assert [reply.code for reply in result.final] == [250, 451, 250, 550]
        assert result.final[1].text.startswith("451 4.4.3")
    assert len(group.of_dovecot(dovecot)) == len(group.of_cyrus(cyrus)) == 1
    group.dovecot.kill()
    try:
        with group.lmtp() as client:
            result = client.deliver("a@example.net", paths, message("down"))
            assert [reply.code for reply in result.final] == [451, 451, 250, 550]
    finally:
        group.dovecot.start()


def test_dovecot_is_told_of_each_client_on_a_connection_that_is_kept(group: Mixed) -> None:
    """And nobody is taken for the one before: its own field, the first, says whom it was told of."""
    user = group.user_of_dovecot()
    addresses = ["192.0.2.7", "[UNAVAILABLE]", "IPV6:2001:db8::7", "IPV6:2001:db8::7", "192.0.2.8"]
    with group.lmtp() as client:
        for number, address in enumerate(addresses):
            assert client.command(f"XFORWARD ADDR={address} PORT=7777").code == 250
            result = client.deliver("a@example.net", [f"{user}@example.org"], message(f"told-{number}"))
            assert result.final[0].code == 250
    stored = group.of_dovecot(user)
    assert len(stored) == len(addresses)
    for number, address in enumerate(addresses):
        (text,) = [text for text in stored if b"Subject: told-%d" % number in text]
        own = text.split(b"Received: ")[1]
        told = [other for other in set(addresses) if f"([{other.removeprefix('IPV6:')}])".encode() in own]
        assert told == ([address] if address != "[UNAVAILABLE]" else []), own
