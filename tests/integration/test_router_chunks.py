"""Is a message that comes in chunks the same message on a real backend, which takes DATA only?"""

from __future__ import annotations

import pytest

from tests.harness import imap
from tests.harness.lmtp import Lmtp, message
from tests.harness.ours import ROUTER_PORT
from tests.harness.topology import Delivery

pytestmark = pytest.mark.integration

BODIES = {
    "dots": b".\r\n..\r\n.one\r\nend.\r\n.\r\n",
    "8 bit": bytes(octet for octet in range(1, 256) if octet not in b"\r\n") + b"\r\n",
    "a long line": b"x" * 100_000 + b"\r\n",
    "five megabytes": (b"." * 60 + b"\r\n") * 80_000,
    "none": b"",
}


@pytest.mark.parametrize("size", [1, 7, 65536])
@pytest.mark.parametrize("name", BODIES)
def test_chunks_arrive_as_they_were_sent(router_2b: Delivery, name: str, size: int) -> None:
    group = router_2b
    users = {group.user(): backend for backend in (group.be1, group.be2)}
    for user, backend in users.items():
        with backend.imap() as admin:
            imap.create(admin, f"user.{user}")
    text = message("chunks", BODIES[name])
    if len(text) // size > 2000:
        size = len(text) // 2000
    with Lmtp(group.router.address, ROUTER_PORT) as client:
        assert any(line[4:] == "CHUNKING" for line in client.capabilities.lines)
        client.command("MAIL FROM:<a@example.net> BODY=8BITMIME")
        for user in users:
            assert client.command(f"RCPT TO:<{user}@example.org>").code == 250
        for at in range(0, len(text), size):
            chunk = text[at : at + size]
            client.send(b"BDAT %d\r\n" % len(chunk) + chunk)
            assert client.reply().code == 250
        client.send(b"BDAT 0 LAST\r\n")
        assert [client.reply().code for _ in users] == [250, 250]
        assert client.command("NOOP").code == 250
    for user, backend in users.items():
        with backend.imap(user) as connection:
            stored = imap.messages(connection)
        assert len(stored) == 1
        assert stored[0].endswith(text)


def test_a_long_line_does_not_end_a_message_that_came_in_chunks(router_2b: Delivery) -> None:
    """Cyrus looks for the end of data in pieces of a line (`lmtp_router.protocol.lines`)."""
    group = router_2b
    user = group.user()
    with group.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
    evil = f".\r\nMAIL FROM:<>\r\nRCPT TO:<{user}@example.org>\r\nDATA\r\nSubject: evil\r\n\r\nevil\r\n".encode()
    text = message("long", b"x" * 8189 + evil)
    with Lmtp(group.router.address, ROUTER_PORT) as client:
        for size in (len(text), 5000, 100):
            client.command("MAIL FROM:<a@example.net>")
            assert client.command(f"RCPT TO:<{user}@example.org>").code == 250
            for at in range(0, len(text), size):
                chunk = text[at : at + size]
                client.send(b"BDAT %d\r\n" % len(chunk) + chunk)
                assert client.reply().code == 250
            client.send(b"BDAT 0 LAST\r\n")
            assert client.reply().code == 554
    with group.be1.imap(user) as connection:
        assert imap.messages(connection) == []


def test_what_is_smuggled_in_a_chunk_is_text(router_2b: Delivery) -> None:
    """Real backends end a message at LF . LF: none of it may reach them as such."""
    group = router_2b
    user = group.user()
    with group.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
    evil = f"MAIL FROM:<>\r\nRCPT TO:<{user}@example.org>\r\nDATA\r\nSubject: evil\r\n\r\nevil\r\n.\r\n".encode()
    for end in (b"\r\n.\r\n", b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r"):
        text = message("innocent", b"one" + end + evil)
        with Lmtp(group.router.address, ROUTER_PORT) as client:
            client.command("MAIL FROM:<a@example.net>")
            assert client.command(f"RCPT TO:<{user}@example.org>").code == 250
            client.send(b"BDAT %d LAST\r\n" % len(text) + text)
            assert client.reply().code == (250 if end == b"\r\n.\r\n" else 554)
    with group.be1.imap(user) as connection:
        stored = imap.messages(connection)
    assert len(stored) == 1, "only what was well formed, and once"
    assert b"RCPT TO:" in stored[0]
