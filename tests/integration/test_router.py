"""Does our router put a message where Cyrus told our node the mailbox is, and answer for each recipient with the truth?

Two real backends, a node that learns of mailboxes from them, the router reading the node's index.  "No such user" is
said only when it is proved; everything else that goes wrong is temporary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.cyrus import CyrusBackend
from tests.harness.lmtp import Lmtp, Reply, Result, message
from tests.harness.mupdate import Mupdate
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.topology import Delivery
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration

SHORT = {"lmtp": {"timeouts": {"connect": 2, "greeting": 2, "envelope": 2, "data": 5, "final": 5, "idle": 60}}}


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[Delivery]:
    with Delivery(root, new_state(), config=SHORT, postfix=False) as delivery:
        yield delivery


def client(group: Delivery) -> Lmtp:
    return Lmtp(group.router.address, ROUTER_PORT)


def deliver(group: Delivery, users: list[str], text: bytes) -> Result:
    with client(group) as connection:
        return connection.deliver("a@example.net", [f"{user}@example.org" for user in users], text)


def new_user(group: Delivery, backend: CyrusBackend) -> str:
    """Create a user at a backend by IMAP; the router knows it when this returns."""
    user = group.user()
    with backend.imap() as admin:
        imap.create(admin, f"user.{user}")
    return user


def inbox(backend: CyrusBackend, user: str, folder: str = "INBOX") -> list[bytes]:
    with backend.imap(user) as connection:
        return imap.messages(connection, folder)


def rcpt(group: Delivery, user: str) -> Reply:
    with client(group) as connection:
        connection.command("MAIL FROM:<a@example.net>")
        return connection.command(f"RCPT TO:<{user}@example.org>")


def without_session(reply: Reply) -> str:
    """A reply of Cyrus without the session it names."""
    return re.sub(r" SESSIONID=<[^>]*>", "", reply.text)


def test_one_message_to_both_backends_arrives_byte_by_byte(group: Delivery) -> None:
    first, second = new_user(group, group.be1), new_user(group, group.be2)
    text = message("both", b"..two dots\r\n.one\r\n\r\n \t\r\n8 bit \xe4\xf6\xfc\xff\r\nlast line\r\n")
    result = deliver(group, [first, second], text)
    assert [reply.code for reply in result.final] == [250, 250], result
    for backend, user in ((group.be1, first), (group.be2, second)):
        stored = inbox(backend, user)
        assert len(stored) == 1
        assert stored[0].endswith(text)


def test_five_megabytes_to_both_backends(group: Delivery) -> None:
    first, second = new_user(group, group.be1), new_user(group, group.be2)
    line = bytes(range(32, 127)) * 4 + b"\r\n"
    text = message("large", b"".join(b"%06d " % number + line for number in range(13000)))
    assert len(text) > 5_000_000
    result = deliver(group, [first, second], text)
    assert [reply.code for reply in result.final] == [250, 250], result
    for backend, user in ((group.be1, first), (group.be2, second)):
        assert inbox(backend, user)[0].endswith(text)


def test_replies_come_in_the_order_of_the_recipients(group: Delivery) -> None:
    one, two, three = (new_user(group, backend) for backend in (group.be1, group.be2, group.be1))
    result = deliver(group, [two, "nobody1", one, three, "nobody2", two], message("mixed"))
    assert [reply.code for reply in result.rcpt] == [250, 550, 250, 250, 550, 250]
    assert [reply.code for reply in result.final] == [250, 550, 250, 250, 550, 250]
    assert len(inbox(group.be1, one)) == len(inbox(group.be1, three)) == 1
    assert len(inbox(group.be2, two)) >= 1


def test_several_messages_on_one_connection(group: Delivery) -> None:
    first, second = new_user(group, group.be1), new_user(group, group.be2)
    with client(group) as connection:
        for number, users in enumerate(([first], [second], [second, first], [first])):
            result = connection.deliver(
                "a@example.net", [f"{user}@example.org" for user in users], message(f"{first}-{number}")
            )
            assert {reply.code for reply in result.final} == {250}
        assert connection.command("NOOP").code == 250
        assert connection.command("QUIT").code == 221
    assert len(inbox(group.be1, first)) == 3
    assert len(inbox(group.be2, second)) == 2


def test_an_unknown_user_is_refused_for_good(group: Delivery) -> None:
    reply = rcpt(group, "nobody-at-all")
    assert reply.code == 550
    assert "5.1.1" in reply.text


def test_a_user_who_was_just_deleted_is_not_bounced(group: Delivery) -> None:
    """A RENAME is a DELETE first: for a minute nobody may say that there is no such user."""
    user = new_user(group, group.be1)
    with group.be1.imap() as admin:
        imap.delete(admin, f"user.{user}")
    reply = rcpt(group, user)
    assert reply.code == 451, reply


def test_a_renamed_user_gets_mail_under_the_new_name(group: Delivery) -> None:
    old, new = new_user(group, group.be2), group.user()
    with group.be2.imap() as admin:
        imap.ok(admin.rename(f"user.{old}", f"user.{new}"))
    assert deliver(group, [new], message("renamed")).final[0].code == 250
    assert rcpt(group, old).code == 451


def test_a_moved_user_gets_mail_at_the_new_backend(group: Delivery) -> None:
    user = new_user(group, group.be1)
    assert deliver(group, [user], message("first")).final[0].code == 250
    with group.be1.imap() as admin:
        imap.xfer(admin, f"user.{user}", "be2.lab")
    assert deliver(group, [user], message("second")).final[0].code == 250
    assert [b"Subject: second" in text for text in inbox(group.be2, user)] == [False, True]


def test_a_reserved_mailbox_is_temporary(group: Delivery) -> None:
    user = group.user()
    with Mupdate(group.node.address) as backend:
        backend.ok(b"RESERVE", f"user.{user}".encode(), b"be1.lab!default")
    reply = rcpt(group, user)
    assert reply.code == 451
    assert "4.2.1" in reply.text


def test_a_backend_that_denies_what_it_told_does_not_bounce_mail(group: Delivery) -> None:
    """The record says be1, be1 says 550: one of them is wrong, so the sender has to keep the message."""
    user = group.user()
    with Mupdate(group.node.address) as backend:
        backend.ok(b"ACTIVATE", f"user.{user}".encode(), b"be1.lab!default", b"")
    final = deliver(group, [user], message("ghost")).final[0]
    assert final.code // 100 == 4, final


def test_the_words_of_a_backend_reach_the_client(group: Delivery) -> None:
    full, fine = new_user(group, group.be1), new_user(group, group.be2)
    with group.be1.imap() as admin:
        imap.ok(admin.setquota(f"user.{full}", "(STORAGE 1)"))
    with Lmtp(group.be1.address, 2004) as direct:
        text = message("quota", b"x" * 70 + b"\r\n")
        filler = message("filler", (b"x" * 70 + b"\r\n") * 30)
        direct.deliver("a@example.net", [f"{full}@example.org"], filler)
        expected = direct.deliver("a@example.net", [f"{full}@example.org"], text).final[0]
    assert expected.code // 100 != 2
    result = deliver(group, [full, fine], text)
    assert without_session(result.final[0]) == without_session(expected)
    assert result.final[1].code == 250
    assert len(inbox(group.be2, fine)) == 1


def test_an_address_extension_reaches_the_folder(group: Delivery) -> None:
    user = new_user(group, group.be2)
    with group.be2.imap() as admin:
        imap.create(admin, f"user.{user}.work")
        imap.ok(admin.setacl(f"user.{user}.work", "anyone", "p"))
    assert deliver(group, [f"{user}+work"], message("folder")).final[0].code == 250
    assert len(inbox(group.be2, user, "INBOX.work")) == 1


def test_a_dead_backend_touches_only_its_own_recipients(group: Delivery) -> None:
    first, second = new_user(group, group.be1), new_user(group, group.be2)
    group.be2.kill()
    try:
        result = deliver(group, [second, first], message("half"))
        assert [reply.code for reply in result.final] == [451, 250], result
    finally:
        group.be2.start()
    assert len(inbox(group.be1, first)) == 1
    assert inbox(group.be2, second) == []
    wait_until(lambda: deliver(group, [second], message("again")).final[0].code == 250, "be2 gets mail again", 15, 0.2)


def test_a_hung_backend_touches_only_its_own_recipients(group: Delivery) -> None:
    first, second = new_user(group, group.be1), new_user(group, group.be2)
    group.be2.hang()
    try:
        result = deliver(group, [first, second], message("hung"))
        assert [reply.code for reply in result.final] == [250, 451], result
    finally:
        group.be2.resume()
    assert len(inbox(group.be1, first)) == 1
    wait_until(lambda: deliver(group, [second], message("woken")).final[0].code == 250, "be2 gets mail again", 20, 0.2)


def test_without_a_node_the_known_get_mail_and_the_unknown_wait(group: Delivery) -> None:
    """The node's heartbeat is the proof that a miss is a "no"; without it a miss is temporary, a hit stays a hit."""
    user = new_user(group, group.be1)
    group.node.kill()
    try:
        group.node_is_stale()
        assert "4.4.3" in rcpt(group, "nobody-at-all").text
        assert deliver(group, [user], message("by the old map")).final[0].code == 250
    finally:
        group.node.start()
    assert len(inbox(group.be1, user)) == 1
    wait_until(lambda: rcpt(group, "nobody-at-all").code == 550, "the unknown are unknown again", 6, 0.2)


def test_a_hung_node_is_no_proof_either(group: Delivery) -> None:
    group.node.hang()
    try:
        group.node_is_stale()
    finally:
        group.node.resume()
    wait_until(lambda: rcpt(group, "nobody-at-all").code == 550, "the unknown are unknown again", 6, 0.2)


def test_a_router_that_is_restarted_serves_at_once(group: Delivery) -> None:
    user = new_user(group, group.be2)
    group.router.restart()
    assert deliver(group, [user], message("fresh")).final[0].code == 250
    assert len(inbox(group.be2, user)) == 1


def test_what_is_common_is_passed_on_as_it_is(group: Delivery) -> None:
    """A client that pipelines, as Postfix does, and Cyrus' own replies: nothing is taken apart, and all arrives."""
    first, second = new_user(group, group.be1), new_user(group, group.be2)

    def express() -> int:
        status: dict[str, int] = json.loads(group.router.cli("status", "--format", "json").stdout)
        return status["express"]

    with client(group) as connection:
        for number in range(3):
            connection.send(
                f"MAIL FROM:<a@example.net>\r\nRCPT TO:<{first}@example.org>\r\nRCPT TO:<{second}@example.org>\r\n"
                "DATA\r\n".encode()
            )
            assert [connection.reply().code for _ in range(4)] == [250, 250, 250, 354]
            connection.send(message(f"common {number}") + b".\r\n")
            assert [connection.reply().code for _ in range(2)] == [250, 250]
    wait_until(lambda: express() >= 2, "the second and the third went the short way", 20)
    for backend, user in ((group.be1, first), (group.be2, second)):
        assert len(inbox(backend, user)) == 3
