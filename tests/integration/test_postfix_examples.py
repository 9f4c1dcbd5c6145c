"""Do the lines for Postfix in packaging/examples do what docs/operations/postfix.md says, with a real Postfix?"""

from __future__ import annotations

import re
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.cyrus import CyrusBackend
from tests.harness.lmtp import message
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.topology import Delivery
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).resolve().parents[2] / "packaging/examples"
ROUTER = "inet:127.0.0.1:2024"
"""Where the router is in the examples."""
SOONER = {"address_verify_negative_refresh_time": "1s", "address_verify_negative_expire_time": "2s"}
"""Instead of a minute."""
SHORT = {"lmtp": {"timeouts": {"connect": 2, "greeting": 2, "envelope": 5, "data": 5, "final": 10, "idle": 60}}}


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[Delivery]:
    delivery = Delivery(root, new_state(), config=SHORT)
    lines = [*example("main.cf"), *example("main-verify.cf")]
    assert sum(ROUTER in line for line in lines) == 1
    delivery.postfix.extra = tuple(
        line.replace(ROUTER, f"inet:[{delivery.router.address}]:{ROUTER_PORT}") for line in lines
    ) + tuple(f"{key} = {value}" for key, value in SOONER.items())
    delivery.postfix.configure()
    with delivery:
        yield delivery


def example(name: str) -> list[str]:
    """The settings of an example, each on one line."""
    return [line for line in (EXAMPLES / name).read_text().splitlines() if line and not line.startswith("#")]


def new_user(group: Delivery, backend: CyrusBackend) -> str:
    user = group.user()
    with backend.imap() as admin:
        imap.create(admin, f"user.{user}")
    return user


def inbox(backend: CyrusBackend, user: str) -> list[bytes]:
    with backend.imap(user) as connection:
        return imap.messages(connection)


def rcpt(group: Delivery, user: str) -> tuple[int, str]:
    """What Postfix answers to RCPT while the sender is there."""
    with smtplib.SMTP(group.postfix.address, 25, timeout=60) as client:
        client.ehlo("client.lab")
        assert client.mail("")[0] == 250
        code, words = client.rcpt(f"{user}@example.org")
        return code, words.decode()


def test_every_setting_is_one_of_postfix(group: Delivery) -> None:
    for name in ("main.cf", "main-verify.cf"):
        for line in example(name):
            key, _, value = line.partition(" =")
            shown = group.postfix.sandbox.run("postconf", "-c", f"{group.postfix.state}/conf", key)
            assert "unknown" not in shown
            if ROUTER not in line and key not in SOONER:
                assert shown.strip() == f"{key} ={value}".strip(), shown


def test_an_unknown_user_is_refused_while_the_sender_is_there(group: Delivery) -> None:
    known = new_user(group, group.be1)
    assert rcpt(group, known)[0] == 250
    code, words = rcpt(group, group.user("nobody"))
    assert code == 550
    assert "Unknown user" in words
    assert inbox(group.be1, known) == [], "a question is no message"


def test_a_user_who_is_made_later_gets_mail_when_the_no_is_forgotten(group: Delivery) -> None:
    user = group.user()
    assert rcpt(group, user)[0] == 550
    with group.be2.imap() as admin:
        imap.create(admin, f"user.{user}")
    wait_until(lambda: rcpt(group, user)[0] == 250, "Postfix asks again", 20, 0.2)


def test_not_knowing_is_not_a_refusal(group: Delivery) -> None:
    """Without its backend a user is asked about in vain, without the node a "no" is not proved: 450 for both."""
    user = new_user(group, group.be2)
    group.be2.kill()
    try:
        assert rcpt(group, user)[0] == 450
    finally:
        group.be2.start()
    group.node.kill()
    try:
        group.node_is_stale()
        assert rcpt(group, group.user("nobody"))[0] == 450
    finally:
        group.node.start()
    wait_until(lambda: rcpt(group, user)[0] == 250, "the backend is asked again", 20, 0.2)


def test_who_was_verified_gets_mail_while_nobody_can_be_asked(group: Delivery) -> None:
    """A "yes" is kept: mail is taken into the queue while the router is away, and delivered when it is back."""
    user = new_user(group, group.be1)
    assert rcpt(group, user)[0] == 250
    group.router.kill()
    try:
        with smtplib.SMTP(group.postfix.address, 25, timeout=60) as client:
            assert client.sendmail("", [f"{user}@example.org"], message("kept")) == {}
        group.postfix.wait_log(rf"to=<{user}@example.org>.* status=deferred ")
    finally:
        group.router.start()
    group.postfix.wait_empty(40)
    assert len(inbox(group.be1, user)) == 1


def test_many_recipients_are_one_transaction(group: Delivery) -> None:
    """A hundred recipients on two backends: one LMTP transaction, one for each backend, a line for each recipient."""
    users = [(group.user("many"), backend) for backend in group.backends for _ in range(50)]
    for backend in group.backends:
        with backend.imap() as admin:
            for user, where in users:
                if where is backend:
                    imap.create(admin, f"user.{user}")
    # Without the questions: each of a hundred new recipients would cost a second.
    group.postfix.extra = (*group.postfix.extra, "smtpd_recipient_restrictions = reject_unauth_destination")
    group.postfix.stop()
    group.postfix.configure()
    group.postfix.start()
    router, marks = group.router.mark(), [backend.mark() for backend in group.backends]
    with smtplib.SMTP(group.postfix.address, 25, timeout=60) as client:
        assert client.sendmail("", [f"{user}@example.org" for user, _ in users], message("many")) == {}
    group.postfix.wait_empty(40)
    lines = [line for line in group.router.log_lines(router) if 'reply="250 ' in line and " size=0" not in line]
    delivered = [line for line in lines if "event=lmtp.recipient" in line]
    assert len(delivered) == len(users)
    sessions = {re.findall(r"session=(\S+)", line)[0] for line in delivered}
    assert len(sessions) == 1, "Postfix split the recipients"
    for backend, mark in zip(group.backends, marks, strict=True):
        stored = [line for line in backend.log_lines(mark) if re.search("Delivered: .*<many@client.lab>", line)]
        assert len(stored) == 50
        assert len({re.findall(r"lmtpopen\[(\d+)\]", line)[0] for line in stored}) == 1, "one transaction"
