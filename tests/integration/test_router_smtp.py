"""Does SMTP through our router lose nothing and claim nothing false: Postfix, PRDR, and real backends?"""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.cyrus import CyrusBackend
from tests.harness.lmtp import Lmtp, message
from tests.harness.ours import ROUTER_PORT, ROUTER_SMTP_PORT
from tests.harness.roots import Root
from tests.harness.topology import Delivery

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[Delivery]:
    """As ever, but Postfix hands over by SMTP."""
    delivery = Delivery(root, new_state())
    delivery.postfix.transport = f"smtp:[{delivery.router.address}]:{ROUTER_SMTP_PORT}"
    delivery.postfix.extra = ("smtp_host_lookup = native", f"smtp_bind_address = {delivery.postfix.address}")
    delivery.postfix.configure()
    with delivery:
        yield delivery


def new_user(group: Delivery, backend: CyrusBackend) -> str:
    user = group.user()
    with backend.imap() as admin:
        imap.create(admin, f"user.{user}")
    return user


def inbox(backend: CyrusBackend, user: str) -> list[bytes]:
    with backend.imap(user) as connection:
        return imap.messages(connection)


def smtp(group: Delivery) -> Lmtp:
    return Lmtp(group.router.address, ROUTER_SMTP_PORT, hello="EHLO")


@pytest.mark.parametrize("limit", [1, 50])
def test_postfix_delivers_one_message_to_three_users_once(group: Delivery, limit: int) -> None:
    """Asked for one at a time, or told 452 for all but one and coming again: each has one copy in the end."""
    users = [new_user(group, backend) for backend in (group.be1, group.be2, group.be1)]
    extra = group.postfix.extra
    group.postfix.extra = (*extra, f"smtp_destination_recipient_limit = {limit}")
    group.postfix.configure()
    group.postfix.extra = extra
    group.postfix.restart()
    text = message(f"limit-{limit}", b"..dots\r\n.\r\nbytes \xe4\xf6\xfc\r\nend\r\n")
    with smtplib.SMTP(group.postfix.address, 25, timeout=30) as client:
        assert client.sendmail("", [f"{user}@example.org" for user in users], text) == {}
    group.postfix.wait_empty(60.0)
    for user, backend in zip(users, (group.be1, group.be2, group.be1), strict=True):
        stored = inbox(backend, user)
        assert len(stored) == 1
        assert stored[0].endswith(text)
        group.postfix.wait_log(rf"to=<{user}@example.org>.* dsn=2\.\S+, status=sent \(250 ")


def test_the_one_reply_is_that_of_the_one_recipient(group: Delivery) -> None:
    first, second = new_user(group, group.be1), new_user(group, group.be2)
    with smtp(group) as client:
        result = client.deliver(
            "a@example.net", [f"{user}@example.org" for user in ("nobody-here", first)], message("1")
        )
        assert [reply.code for reply in result.final] == [550, 250]
        assert client.command("MAIL FROM:<a@example.net>").code == 250
        assert client.command(f"RCPT TO:<{second}@example.org>").code == 250
        assert client.command(f"RCPT TO:<{first}@example.org>").code == 452
        assert client.command("DATA").code == 354
        client.send(message("2") + b".\r\n")
        assert client.reply().code == 250
        assert client.command("QUIT").code == 221
    assert len(inbox(group.be1, first)) == len(inbox(group.be2, second)) == 1


def test_prdr_tells_each_recipients_end(group: Delivery) -> None:
    full, fine = new_user(group, group.be1), new_user(group, group.be2)
    with group.be1.imap() as admin:
        imap.ok(admin.setquota(f"user.{full}", "(STORAGE 1)"))
    with Lmtp(group.router.address, ROUTER_PORT) as client:
        filler = message("filler", (b"x" * 70 + b"\r\n") * 30)
        client.deliver("a@example.net", [f"{full}@example.org"], filler)
    with smtp(group) as client:
        assert any(line[4:] == "PRDR" for line in client.capabilities.lines)
        assert client.command("MAIL FROM:<a@example.net> PRDR").code == 250
        for user in (fine, fine):
            assert client.command(f"RCPT TO:<{user}@example.org>").code == 250
        assert client.command("DATA").code == 354
        client.send(message("prdr-1") + b".\r\n")
        assert [client.reply().code for _ in range(4)] == [353, 250, 250, 250]
        assert client.command("MAIL FROM:<a@example.net> PRDR").code == 250
        codes = [client.command(f"RCPT TO:<{user}@example.org>").code for user in (full, fine)]
        assert codes[1] == 250
        assert client.command("DATA").code == 354
        client.send(message("prdr-2") + b".\r\n")
        replies = [client.reply().code for _ in range(4 if codes[0] == 250 else 1)]
        assert replies in ([353, 452, 250, 250], [353, 552, 250, 250], [250])
        assert client.command("NOOP").code == 250
    assert any(b"Subject: prdr-2" in text for text in inbox(group.be2, fine))
    assert not any(b"Subject: prdr-2" in text for text in inbox(group.be1, full))
