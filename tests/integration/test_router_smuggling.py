"""Can the text of a message become a second message, through our router, on a real Cyrus backend?

Every way to write an end of data that is none, and what real backends are known to take for one.  The same octets go to
Cyrus directly: what is smuggled there shows that the test can fail, and what our router has to keep away.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.cyrus import LMTP_OPEN_PORT, CyrusBackend
from tests.harness.lmtp import message
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.topology import Delivery

pytestmark = pytest.mark.integration

EOL = (b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\n", b"\0\r\n", b"\r\0\n", b"\r\n\0", b"\0\n", b"\r\0", b"")
ENDS = sorted({before + b"." + after for before in EOL for after in EOL} - {b"."})
"""Line ends of all kinds around a dot; those that are the real end are left out."""
FALSE_ENDS = {repr(end)[2:-1]: b"one" + end for end in ENDS if b"\r\n.\r\n" not in end}
LONG_LINES = {
    f"{size} and a dot": b"x" * size + b".\r\n"
    for turns in (1, 2, 3)
    for buffer in (998, 1000, 1024, 2048, 4096, 8189, 8192, 16384, 65536)
    for size in range(turns * buffer - 4, turns * buffer + 3)
}
"""A dot where a server that reads into a buffer begins to read again."""
VARIANTS = FALSE_ENDS | LONG_LINES
SMUGGLED_BY_CYRUS = {"\\n.\\n", "\\n.\\r\\n", "\\r\\n.\\n", "8189 and a dot", "16378 and a dot", "24567 and a dot"}
"""Some of what both releases of Cyrus take for the end of a message."""


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[Delivery]:
    with Delivery(root, new_state(), postfix=False) as delivery:
        yield delivery


def new_user(group: Delivery, backend: CyrusBackend) -> str:
    user = group.user()
    with backend.imap() as admin:
        imap.create(admin, f"user.{user}")
    return user


def subjects(backend: CyrusBackend, user: str) -> list[str]:
    with backend.imap(user) as connection:
        texts = imap.messages(connection)
    return [re.findall(rb"^Subject: (.*)\r$", text, re.MULTILINE)[0].decode() for text in texts]


class Attacker:
    """Sends each variant with a second message in its text, to one user, and in the text to the other."""

    def __init__(self, address: str, port: int, user: str, victim: str) -> None:
        self.address, self.port, self.user, self.victim = address, port, user, victim

    def envelope(self, user: str) -> bytes:
        return b"MAIL FROM:<>\r\nRCPT TO:<%b@example.org>\r\nDATA\r\n" % user.encode()

    def send(self, name: str, text: bytes) -> list[bytes]:
        """Return the codes of all replies, up to that of QUIT."""
        evil = self.envelope(self.victim) + message(f"evil {name}")
        with socket.create_connection((self.address, self.port), timeout=20) as sock, sock.makefile("rb") as replies:
            sock.sendall(b"LHLO client.lab\r\n" + self.envelope(self.user))
            for last in (b"220", b"250", b"250", b"250", b"354"):
                while (line := replies.readline())[:4] != last + b" ":
                    assert line.startswith(last), line
            sock.sendall(message(f"host {name}", text + evil) + b".\r\nQUIT\r\n")
            return [line[:3] for line in replies if line[3:4] != b"-"]


@pytest.mark.parametrize("policy", ["reject", "replace"])
def test_nothing_is_smuggled_through_the_router(group: Delivery, policy: str) -> None:
    group.router.config["lmtp"]["bare_newline"] = policy
    group.router.configure()
    group.router.restart()
    mark = group.be1.mark()
    user, victim = new_user(group, group.be1), new_user(group, group.be1)
    attacker = Attacker(group.router.address, ROUTER_PORT, user, victim)
    delivered = []
    for name, text in VARIANTS.items():
        codes = attacker.send(name, text)
        # One message, one answer: what is behind the false end is text.
        assert codes in ([b"250", b"221"], [b"554", b"221"]), f"{policy}, {name}: {codes}"
        if codes[0] == b"250":
            delivered.append(f"host {name}")
    assert subjects(group.be1, victim) == []
    assert sorted(subjects(group.be1, user)) == sorted(delivered), "one message for each 250, none beside"
    if policy == "reject":
        assert not {f"host {name}" for name, text in FALSE_ENDS.items() if is_bare(text)} & set(delivered)
    harmless = {f"host {size} and a dot" for size in (996, 998, 4096, 8188, 8190, 16379)}
    assert harmless <= set(delivered), "long lines as such are no attack"
    assert not group.be1.log_contains("FATAL", since=mark), "the backend was given what ends it"


def is_bare(text: bytes) -> bool:
    return re.search(rb"(?<!\r)\n|\r(?!\n)", text) is not None


def test_the_same_octets_are_smuggled_into_cyrus_directly(group: Delivery) -> None:
    """Else the test above could not fail."""
    # A CR where its buffer ends is put back, and when that fails lmtpd ends itself.
    group.be1.expect(r"FATAL: Trying to unput wrong character", r"lmtpd.* exited, status 70")
    user, victim = new_user(group, group.be1), new_user(group, group.be1)
    attacker = Attacker(group.be1.address, LMTP_OPEN_PORT, user, victim)
    for name, text in VARIANTS.items():
        attacker.send(name, text)
    smuggled = {subject.removeprefix("evil ") for subject in subjects(group.be1, victim)}
    print(f"Cyrus takes for an end: {sorted(smuggled)}")
    assert smuggled >= SMUGGLED_BY_CYRUS
