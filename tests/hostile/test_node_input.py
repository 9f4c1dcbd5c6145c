"""What a running node does with bad input: a clear answer or a closed connection, bounded memory, others unaffected."""

from __future__ import annotations

import base64
import errno
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.mupdate import PORT, Mupdate, literal
from tests.harness.network import Network
from tests.harness.ours import Config, Node
from tests.harness.topology import lone_node

LOGIN = b'L AUTHENTICATE "PLAIN" "%s"\r\n' % base64.b64encode(b"\0murder\0murderpw")
ENOUGH = b"N NOOP\r\nQ LOGOUT\r\n"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the node runs in a namespace of its own, which needs root")


@pytest.fixture(scope="module")
def node(new_state: Callable[[], Path]) -> Iterator[Node]:
    with lone_node(new_state()) as node:
        yield node


@pytest.fixture
def member(node: Node) -> Iterator[Mupdate]:
    """A client that does nothing wrong; it has to be served before and after."""
    with Mupdate(node.address) as client:
        client.ok(b"ACTIVATE", b"user.member", b"be1!default", b"member\tlrs\t")
        yield client
        entry = client.find(b"user.member")
        assert entry is not None
        assert entry.acl == b"member\tlrs\t"


def say(node: Node, raw: bytes, *, login: bool = True, finish: bool = True) -> bytes:
    """Send `raw` (after a login), then leave or wait for the server to close; return what it answered."""
    with socket.create_connection((node.address, PORT), timeout=10) as client:
        heard = b""
        try:
            client.sendall((LOGIN if login else b"") + raw)
            if finish:
                client.shutdown(socket.SHUT_WR)
            while data := client.recv(65536):
                heard += data
        except OSError as error:
            # reset, broken pipe or not connected any more: the server has closed, perhaps before it had read all
            assert error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN), error
    return heard.partition(b'L OK "Authenticated"\r\n')[2] if login else heard


def rss_kib(node: Node) -> int:
    status = Path(f"/proc/{node.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


ANSWERED = {
    # what is sent -> what is answered, after which the connection is of use
    "empty line": (b"\r\n", b"* BAD"),
    "no command": (b"A\r\n", b"* BAD"),
    "unknown command": (b"A JUNK\r\n", b"A BAD"),
    "no argument": (b"A FIND\r\n", b"A BAD"),
    "too many arguments": (b'A FIND "a" "b"\r\n', b"A BAD"),
    "an atom": (b"A FIND user.a\r\n", b"A BAD"),
    "two blanks": (b'A  FIND "a"\r\n', b"BAD"),
    "open quote": (b'A FIND "a\r\n', b"A BAD"),
    "empty name": (b'A RESERVE "" "be1!default"\r\n', b"A NO"),
    "long name": (b"A RESERVE %s %s\r\n" % (literal(b"x" * 491), literal(b"be1!p")), b"A NO"),
    "location without server": (b'A ACTIVATE "a" "!default" ""\r\n', b"A NO"),
    "location without mark": (b'A ACTIVATE "a" "be1" ""\r\n', b"A NO"),
    "NUL in a line": (b'A FIND "a\0b"\r\n', b"BAD"),
    "NUL in a literal": (b"A FIND {3+}\r\na\0b\r\n", b"A BAD"),
    "CR in a name": (b"A RESERVE {3+}\r\na\rb {5+}\r\nbe1!p\r\n", b"A NO"),
    "8-bit tag": (b"\xff\xfe NOOP\r\n", b"BAD"),
    "command as a name": (b"A FIND {18+}\r\nA DELETE user.memb\r\n", b'A OK "Search completed"'),
    "huge literal announced": (b"A FIND {2147483648}\r\n", b"A BAD"),
    "huge number": (b"A FIND {99999999999999999999999999}\r\n", b"A BAD"),
    "negative literal": (b"A FIND {-1}\r\n", b"A BAD"),
    "literal over the limit": (b"A FIND %s\r\n" % literal(b"x" * 1_200_000), b"A BAD"),
    "login twice": (LOGIN, b"L BAD"),
    "STARTTLS": (b"A STARTTLS\r\n", b"A BAD"),
    "COMPRESS": (b'A COMPRESS "LZS"\r\n', b"A NO"),
}


@pytest.mark.parametrize("case", ANSWERED)
def test_a_wrong_command_is_answered_and_the_next_one_too(node: Node, member: Mupdate, case: str) -> None:
    raw, expected = ANSWERED[case]
    heard = say(node, raw + ENOUGH, finish=False)
    answer, noop, _ = heard.partition(b'N OK "Noop done"\r\n')
    assert expected in answer, heard
    assert noop, heard


CLOSED = {
    "endless line": b"A FIND " + b"x" * 200_000,
    "endless first line": b"x" * 200_000,
    "endless literal": b"A FIND {9000000+}\r\n" + b"x" * 9_000_000,
    "nothing but mistakes": b"A JUNK\r\n" * 100,
}


@pytest.mark.parametrize("login", [True, False], ids=["member", "stranger"])
@pytest.mark.parametrize("case", CLOSED)
def test_what_has_no_end_is_closed_with_the_reason(node: Node, member: Mupdate, case: str, login: bool) -> None:
    heard = say(node, CLOSED[case], login=login, finish=False)
    # A reset may overtake the answer when the client is still sending; what matters is that it ended.
    assert b"BAD" in heard or b"BYE" in heard or case == "endless literal", heard


HALF = [b"A", b"A FIND", b"A FIND {5+}\r\nab", b'A FIND "ab', b"A UPDATE\r\nB", b"A FIND {5}\r\n", b"\xff" * 10]


@pytest.mark.parametrize("raw", HALF)
@pytest.mark.parametrize("login", [True, False], ids=["member", "stranger"])
def test_half_a_command_and_away(node: Node, member: Mupdate, raw: bytes, login: bool) -> None:
    say(node, raw, login=login)


@pytest.mark.parametrize("login", [True, False], ids=["member", "stranger"])
def test_binary_junk_ends_in_an_answer_or_a_close(node: Node, member: Mupdate, login: bool) -> None:
    rng = random.Random(20)
    for size in (1, 10, 1000, 100_000, 1_000_000):
        say(node, rng.randbytes(size), login=login)
    for _ in range(30):
        words = [rng.choice([b"A ", b"FIND ", b'"a" ', b"{3+}\r\n", b"abc", b"\r\n", b"\0", b"{", b'"', b"\\"])]
        words += rng.choices([b"A ", b"LIST ", b'"a" ', b"{3}\r\n", b"abc", b"\r\n", b"\n", b"\r", b"\xff"], k=30)
        say(node, b"".join(words), login=login)


def test_a_bare_line_feed_is_taken(node: Node, member: Mupdate) -> None:
    assert b'N OK "Noop done"' in say(node, b"N NOOP\nQ LOGOUT\n")


def test_silent_strangers_take_nothing_from_others(node: Node, member: Mupdate) -> None:
    silent = []
    try:
        for number in range(200):
            silent.append(socket.create_connection((node.address, PORT), timeout=10))
            if number % 2:
                silent[-1].sendall(b'A AUTHENTICATE "PLAIN" {10')
        for number in range(50):
            with Mupdate(node.address) as busy:
                busy.ok(b"ACTIVATE", b"user.busy%d" % number, b"be1!default", b"x\tl\t")
        assert len(member.list(b"be1!")) >= 51
    finally:
        for client in silent:
            client.close()


def test_memory_is_bounded(node: Node, member: Mupdate) -> None:
    """A hundred clients that each send as much as they can, and never finish a command."""
    say(node, b"A FIND " + literal(b"x" * 1_000_000) + b"\r\n" + ENOUGH, finish=False)
    before = rss_kib(node)
    clients = []
    try:
        for _ in range(100):
            client = socket.create_connection((node.address, PORT), timeout=10)
            clients.append(client)
            client.setblocking(False)
            rest = memoryview(b'A AUTHENTICATE "PLAIN" {60000+}\r\n' + b"x" * 59_000)
            while rest:
                try:
                    rest = rest[client.send(rest) :]
                except BlockingIOError:
                    break
        member.ok(b"NOOP")
        assert rss_kib(node) - before < 40_000
    finally:
        for client in clients:
            client.close()


def test_thousands_that_say_nothing_keep_no_backend_out(new_state: Callable[[], Path]) -> None:
    """Four times as many strangers as there are places, all from one address and none of them leaving."""
    places = 300
    network = Network()
    config: Config = {"mupdate": {"max_connections": places}, "log": {"level": "info"}}
    node = Node(network.address(10), new_state(), {}, config)
    node.configure()
    strangers: list[socket.socket] = []
    try:
        node.start()
        with Mupdate(node.address) as member:
            before = rss_kib(node)
            for number in range(4 * places):
                strangers.append(socket.create_connection((node.address, PORT), timeout=10))
                if number % 100 == 99:
                    with Mupdate(node.address) as backend:
                        backend.ok(b"ACTIVATE", b"user.n%d" % number, b"be1!default", b"n\tl\t")
            member.ok(b"NOOP")
            assert len(member.list(b"be1!")) == 4 * places // 100
            assert rss_kib(node) - before < 10 * places
        assert strangers[0].recv(65536).endswith(b'* BYE "too many connections"\r\n')
        node.wait_log("event=mupdate.gave_way")
        node.close()
    finally:
        for stranger in strangers:
            stranger.close()
        node.kill()
        network.close()
