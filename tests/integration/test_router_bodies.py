"""Do octets come through unchanged, and verdicts unmixed, from Postfix through our router to two and four real Cyrus?

What Cyrus itself does to a message (it adds headers, and refuses NUL) is seen by giving it the same message directly;
behind that, each backend has the same SHA-256 of what was sent.
"""

from __future__ import annotations

import hashlib
import json
import re
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.cyrus import LMTP_OPEN_PORT, CyrusBackend
from tests.harness.lmtp import Lmtp, Result, message
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.topology import Delivery
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration

SHORT = {"lmtp": {"timeouts": {"connect": 2, "greeting": 2, "envelope": 5, "data": 10, "final": 30, "idle": 60}}}
MAIN_CF = ("message_size_limit = 60000000", "lmtp_line_length_limit = 0")
LARGE_LINE = bytes(range(33, 127)) * 2 + b"\r\n"
BODIES = {
    "8-bit": bytes(range(128, 256)) * 20 + b"\r\n" + bytes(set(range(1, 128)) - {10, 13}) + b"\r\n",
    "dots": b".\r\n..\r\n...\r\n.x\r\n\r\n..\r\n.. \r\n",
    "lines of 100000": (b"x" * 100_000 + b"\r\n") * 3 + b".\r\n" + b"y" * 100_000 + b".\r\n",
    "25 MiB": b"".join(b"%08d " % number + LARGE_LINE for number in range(132_000)),
    "empty": b"",
    "blank": b"\r\n" * 3,
}


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[Delivery]:
    with Delivery(root, new_state(), config=SHORT, four=True, main_cf=MAIN_CF) as delivery:
        yield delivery


def new_users(group: Delivery, count: int) -> list[tuple[CyrusBackend, str]]:
    """One new user on each of the first `count` backends."""
    found = []
    for backend in group.all_backends[:count]:
        found.append((backend, group.user()))
        with backend.imap() as admin:
            imap.create(admin, f"user.{found[-1][1]}")
    return found


def inbox(backend: CyrusBackend, user: str) -> list[bytes]:
    with backend.imap(user) as connection:
        return imap.messages(connection)


def send(group: Delivery, users: list[str], text: bytes, *options: str) -> None:
    """One SMTP transaction; the empty sender keeps Postfix from writing bounces that nobody could get."""
    with smtplib.SMTP(group.postfix.address, 25, timeout=60) as client:
        assert client.sendmail("", [f"{user}@example.org" for user in users], text, options) == {}


def directly(address: str, port: int, users: list[str], text: bytes) -> Result:
    with Lmtp(address, port) as client:
        return client.deliver("a@example.net", [f"{user}@example.org" for user in users], text)


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def end_of(stored: bytes, text: bytes) -> str:
    """The hash of what stands behind the headers that were added on the way."""
    return digest(stored[len(stored) - len(text) :])


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("kind", BODIES)
def test_bodies_are_the_same_at_each_backend(group: Delivery, kind: str, count: int) -> None:
    users = new_users(group, count)
    text = message(f"{kind} {count}".replace(" ", "-"), BODIES[kind])
    send(group, [user for _, user in users], text, "BODY=8BITMIME")
    group.postfix.wait_empty(60)
    for backend, user in users:
        stored = inbox(backend, user)
        assert [end_of(one, text) for one in stored] == [digest(text)], f"{backend.name}, {kind}"


@pytest.mark.parametrize(
    "text", [b"", b"\r\n", b"Subject: no body\r\n", b"Subject: x\r\n\r\n", b"no header at all\r\n"], ids=repr
)
def test_what_is_hardly_a_message_is_what_it_is_to_cyrus(group: Delivery, text: bytes) -> None:
    """Nothing at all, an empty line, headers only: the router adds nothing, and says what the backend says."""
    (backend, user), (_, other) = new_users(group, 1)[0], new_users(group, 1)[0]
    expected = directly(backend.address, LMTP_OPEN_PORT, [user], text)
    said = directly(group.router.address, ROUTER_PORT, [other], text)
    assert said.final[0].code == expected.final[0].code
    bodies = [one.partition(b"\r\n\r\n")[2] for one in inbox(backend, user)]
    assert [one.partition(b"\r\n\r\n")[2] for one in inbox(backend, other)] == bodies
    assert [end_of(one, text) for one in inbox(backend, other)] == [end_of(one, text) for one in inbox(backend, user)]


def test_nul_is_refused_by_cyrus_in_its_own_words(group: Delivery) -> None:
    """Binary that is no text: passed on as it is, and answered by whom it concerns."""
    users = new_users(group, 2)
    text = message("nul", b"a\0b\r\n" + bytes(range(256)).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n")
    expected = directly(group.be1.address, LMTP_OPEN_PORT, [users[0][1]], text).final[0]
    assert expected.code == 554
    said = directly(group.router.address, ROUTER_PORT, [user for _, user in users], text)
    assert [(reply.code, words(reply.text)) for reply in said.final] == [(554, words(expected.text))] * 2
    mark = group.postfix.mark()
    send(group, [user for _, user in users], text)
    group.postfix.wait_empty()
    for backend, user in users:
        group.postfix.wait_log(rf"to=<{user}@example.org>.* dsn=5\.6\.0, status=bounced .* 554 ", since=mark)
        assert inbox(backend, user) == []


def words(text: str) -> str:
    """A reply of Cyrus without the session it names."""
    return re.sub(r" SESSIONID=<[^>]*>", "", text)


def test_each_of_four_backends_answers_for_its_own(group: Delivery) -> None:
    """One takes it, one is over quota, one is dead, one does not know the user any more; and one user is unknown."""
    (be1, fine), (be2, full), (be3, late), (be4, gone) = new_users(group, 4)
    unknown = group.user("nobody")
    with be2.imap() as admin:
        imap.ok(admin.setquota(f"user.{full}", "(STORAGE 1)"))
    directly(be2.address, LMTP_OPEN_PORT, [full], message("filler", (b"x" * 70 + b"\r\n") * 30))
    had = len(inbox(be2, full))
    with be4.imap() as admin:
        imap.delete(admin, f"user.{gone}")
    be3.kill()
    try:
        mark = group.postfix.mark()
        send(group, [late, gone, unknown, full, fine], message("mixed"))
        for user, verdict in (
            (fine, r"dsn=2\.\S+, status=sent \(250 "),
            (full, r"dsn=4\.2\.2, status=deferred .* 452 "),
            (late, r"dsn=4\.4\.1, status=deferred .* 451 "),
            (gone, r"dsn=4\.4\.3, status=deferred .* 451 "),
            (unknown, r"dsn=5\.1\.1, status=bounced .* 550 "),
        ):
            group.postfix.wait_log(rf"to=<{user}@example.org>.* {verdict}", since=mark)
        assert len(inbox(be2, full)) == had
    finally:
        be3.start()
    with be2.imap() as admin:
        imap.ok(admin.setquota(f"user.{full}", "(STORAGE 1000)"))
    with be4.imap() as admin:
        imap.create(admin, f"user.{gone}")
    group.postfix.wait_empty(60)
    for backend, user, before in ((be1, fine, 0), (be2, full, had), (be3, late, 0), (be4, gone, 0)):
        assert len(inbox(backend, user)) == before + 1, user
    assert len(re.findall("status=bounced", "\n".join(group.postfix.log_lines(mark)))) == 1


def test_duplicate_recipients_have_a_reply_each_as_from_cyrus(group: Delivery) -> None:
    (be1, one), (be2, two) = new_users(group, 2)
    recipients = [one, two, one, one, two]
    said = directly(group.router.address, ROUTER_PORT, recipients, message("twice"))
    assert [reply.code for reply in said.rcpt] == [250] * 5
    assert [reply.code for reply in said.final] == [250] * 5
    expected = directly(be1.address, LMTP_OPEN_PORT, [one, one, one], message("twice directly"))
    assert [reply.code for reply in expected.final] == [250] * 3
    subjects = [re.findall(rb"^Subject: (.*)\r$", text, re.MULTILINE)[0] for text in inbox(be1, one)]
    assert subjects.count(b"twice") == subjects.count(b"twice directly")
    # Through Postfix: it has the recipient once, and so has the mailbox.
    had = len(inbox(be2, two))
    send(group, [two, one, two], message("once"))
    group.postfix.wait_empty()
    assert len(inbox(be2, two)) == had + 1


def test_what_postfix_hands_over_goes_the_short_way(group: Delivery) -> None:
    """It says its envelope in one piece, and QUIT in one piece with the end of the message (_express.pyx)."""
    ((backend, user),) = new_users(group, 1)

    def express() -> int:
        status: dict[str, int] = json.loads(group.router.cli("status", "--format", "json").stdout)
        return status["express"]

    before = express()
    for number in range(4):
        with smtplib.SMTP(group.postfix.address, 25, timeout=60, local_hostname="sender.lab") as client:
            client.sendmail("a@example.net", [f"{user}@example.org"], message(f"short {number}"))
        group.postfix.wait_empty(60)
    wait_until(lambda: express() >= before + 3, "all but one that may have met no free connection", 20)
    with backend.imap(user) as connection:
        assert len(imap.messages(connection)) == 4
