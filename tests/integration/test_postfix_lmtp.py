"""Does mail that a real Postfix takes by SMTP arrive, through our router, on the right real Cyrus backend, once?"""

from __future__ import annotations

import smtplib

import pytest

from tests.harness import imap
from tests.harness.cyrus import CyrusBackend
from tests.harness.lmtp import message
from tests.harness.topology import Delivery

pytestmark = pytest.mark.integration


def new_user(group: Delivery, backend: CyrusBackend) -> str:
    user = group.user()
    with backend.imap() as admin:
        imap.create(admin, f"user.{user}")
    return user


def send(group: Delivery, users: list[str], text: bytes, sender: str = "") -> None:
    """One SMTP transaction.  The empty sender keeps Postfix from writing bounces that nobody could get."""
    with smtplib.SMTP(group.postfix.address, 25, timeout=30) as client:
        assert client.sendmail(sender, [f"{user}@example.org" for user in users], text) == {}


def inbox(backend: CyrusBackend, user: str) -> list[bytes]:
    with backend.imap(user) as connection:
        return imap.messages(connection)


def test_one_message_to_both_backends(router_2b: Delivery) -> None:
    group = router_2b
    first, second = new_user(group, group.be1), new_user(group, group.be2)
    text = message("both", b"..dots\r\n.\r\n\r\nbytes \xe4\xf6\xfc\r\nend\r\n")
    send(group, [first, second], text)
    group.postfix.wait_empty()
    for backend, user in ((group.be1, first), (group.be2, second)):
        stored = inbox(backend, user)
        assert len(stored) == 1
        assert stored[0].endswith(text)
        group.postfix.wait_log(rf"to=<{user}@example.org>.* dsn=2\.\S+, status=sent \(250 ")


def test_each_recipient_has_an_end_of_its_own(router_2b: Delivery) -> None:
    group = router_2b
    first, second = new_user(group, group.be1), new_user(group, group.be2)
    unknown = group.user("nobody")
    send(group, [first, unknown, second], message("mixed"))
    group.postfix.wait_empty()
    assert len(inbox(group.be1, first)) == len(inbox(group.be2, second)) == 1
    group.postfix.wait_log(rf"to=<{unknown}@example.org>.* dsn=5\.1\.1, status=bounced .* 550 ")


def test_postfix_keeps_what_a_dead_backend_did_not_take(router_2b: Delivery) -> None:
    group = router_2b
    first, second = new_user(group, group.be1), new_user(group, group.be2)
    group.be2.kill()
    try:
        send(group, [first, second], message("later"))
        group.postfix.wait_log(rf"to=<{first}@example.org>.* status=sent ")
        group.postfix.wait_log(rf"to=<{second}@example.org>.* dsn=4\.\S+, status=deferred .* 451 ")
    finally:
        group.be2.start()
    group.postfix.wait_empty(40)
    assert len(inbox(group.be1, first)) == 1
    assert len(inbox(group.be2, second)) == 1


def test_without_a_node_nobody_is_bounced(router_2b: Delivery) -> None:
    group = router_2b
    known, unknown = new_user(group, group.be1), group.user("nobody")
    group.node.kill()
    try:
        # Up to 2 s after its death the node's last heartbeat still proves a "no".
        group.node_is_stale()
        send(group, [known, unknown], message("no-node"))
        group.postfix.wait_log(rf"to=<{known}@example.org>.* status=sent ")
        group.postfix.wait_log(rf"to=<{unknown}@example.org>.* dsn=4\.4\.3, status=deferred .* 451 ")
    finally:
        group.node.start()
    group.postfix.wait_empty(40)
    group.postfix.wait_log(rf"to=<{unknown}@example.org>.* status=bounced ")
    assert len(inbox(group.be1, known)) == 1


def test_without_a_router_postfix_keeps_everything(router_2b: Delivery) -> None:
    group = router_2b
    user = new_user(group, group.be2)
    group.router.kill()
    try:
        send(group, [user], message("no-router"))
        group.postfix.wait_log(rf"to=<{user}@example.org>.* status=deferred ")
    finally:
        group.router.start()
    group.postfix.wait_empty(40)
    assert len(inbox(group.be2, user)) == 1
