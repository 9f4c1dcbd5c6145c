"""Does the harness itself do what it says?  Shown with the stock murder, which needs none of our code."""

from __future__ import annotations

import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.lmtp import Lmtp, message
from tests.harness.postfix import Postfix
from tests.harness.roots import Root
from tests.harness.server import ServerTrouble
from tests.harness.topology import Murder
from tests.harness.waiting import NeverHappened, accepts, wait_until
from tests.harness.wirefault import TO_CLIENT, TO_SERVER, WireFault

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def murder(root: Root, new_state: Callable[[], Path]) -> Iterator[Murder]:
    with Murder(root, new_state(), "stock") as group:
        yield group


def test_a_mailbox_created_at_a_backend_is_seen_at_the_frontend(murder: Murder) -> None:
    user = murder.user()
    with murder.be1.imap() as connection:
        imap.create(connection, f"user.{user}")
    murder.frontend_sees(lambda names: f"user.{user}" in names, user)
    with murder.fe.imap(user) as connection:
        assert "INBOX" in imap.listed(connection)


def test_the_frontend_delivers_to_both_backends(murder: Murder) -> None:
    first, second = murder.user(), murder.user()
    for backend, user in ((murder.be1, first), (murder.be2, second)):
        with backend.imap() as connection:
            imap.create(connection, f"user.{user}")
    murder.frontend_sees(lambda names: {f"user.{first}", f"user.{second}"} <= names.keys(), "both users")
    with Lmtp(murder.fe.address, 2003) as client:
        result = client.deliver("a@example.net", [f"{first}@x", f"{second}@x"], message("both"))
    assert [reply.code for reply in result.final] == [250, 250]
    for backend, user in ((murder.be1, first), (murder.be2, second)):
        with backend.imap(user) as connection:
            assert len(imap.messages(connection)) == 1


def test_a_killed_server_leaves_nobody_answering(murder: Murder) -> None:
    murder.be2.kill()
    assert not accepts(murder.be2.address, 143)
    murder.be2.start()
    with murder.be2.imap() as connection:
        assert connection.noop()[0] == "OK"


def test_a_hung_server_accepts_and_does_not_answer(murder: Murder) -> None:
    murder.be2.hang()
    with socket.create_connection((murder.be2.address, 143), timeout=1) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        murder.be2.resume()
        connection.settimeout(10)
        assert connection.recv(100).startswith(b"* OK")


def test_stop_reports_an_error_in_the_log(murder: Murder) -> None:
    murder.be2.sandbox.run("logger", "-p", "mail.err", "something broke")
    with pytest.raises(ServerTrouble, match="something broke"):
        murder.be2.stop()
    assert not accepts(murder.be2.address, 143)
    murder.be2.start()


def test_postfix_delivers_to_a_backend(murder: Murder, root: Root, new_state: Callable[[], Path]) -> None:
    user = murder.user()
    with murder.be1.imap() as connection:
        imap.create(connection, f"user.{user}")
    transport = f"lmtp:inet:[{murder.be1.address}]:2004"
    postfix = Postfix(murder.network.address(15), new_state(), root, transport=transport)
    postfix.configure()
    try:
        postfix.start()
        with smtplib.SMTP(postfix.address) as client:
            client.sendmail("a@example.net", [f"{user}@example.org"], message("by-postfix"))
        postfix.wait_empty()
    finally:
        postfix.close()
    with murder.be1.imap(user) as connection:
        assert [b"by-postfix" in stored for stored in imap.messages(connection)] == [True]


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    while data := connection.recv(4096):
                        connection.sendall(data)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


@pytest.fixture
def wire(echo: tuple[str, int]) -> Iterator[tuple[WireFault, socket.socket]]:
    with WireFault(("127.0.0.1", 0), echo) as proxy, socket.create_connection(proxy.address) as client:
        client.settimeout(5)
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        yield proxy, client


def test_wire_holds_and_releases(wire: tuple[WireFault, socket.socket]) -> None:
    proxy, client = wire
    proxy.hold()
    client.sendall(b"later")
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(100)
    proxy.release()
    client.settimeout(5)
    assert client.recv(100) == b"later"
    assert proxy.transcript(direction=TO_SERVER) == b"hellolater"


def test_wire_delays(wire: tuple[WireFault, socket.socket]) -> None:
    proxy, client = wire
    proxy.delay(0.2)
    began = time.monotonic()
    client.sendall(b"slow")
    assert client.recv(100) == b"slow"
    assert time.monotonic() - began >= 0.4


def test_wire_cuts_in_order_and_with_a_reset(wire: tuple[WireFault, socket.socket]) -> None:
    proxy, client = wire
    proxy.cut()
    assert client.recv(100) == b""
    with socket.create_connection(proxy.address) as second:
        second.settimeout(5)
        second.sendall(b"x")
        assert second.recv(1) == b"x"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            second.recv(1)


def test_wire_drops_one_direction(wire: tuple[WireFault, socket.socket]) -> None:
    proxy, client = wire
    proxy.drop(TO_CLIENT)
    client.sendall(b"heard")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(100)
    wait_until(lambda: proxy.transcript(direction=TO_SERVER) == b"helloheard", "the server heard it")


def test_wire_closes_after_a_count(wire: tuple[WireFault, socket.socket]) -> None:
    proxy, client = wire
    proxy.close_after(7)
    client.sendall(b"123456")
    received = b""
    while data := client.recv(100):
        received += data
    assert b"123456".startswith(received) and len(received) <= 2
    assert proxy.transcript(direction=TO_SERVER) == b"hello12"


def test_wire_refuses_new_connections(wire: tuple[WireFault, socket.socket]) -> None:
    proxy, client = wire
    proxy.refuse()
    with socket.create_connection(proxy.address) as second, pytest.raises(ConnectionResetError):
        second.settimeout(5)
        second.recv(1)
    client.sendall(b"old")
    assert client.recv(100) == b"old"


def test_wire_calls_before_a_pattern_passes(wire: tuple[WireFault, socket.socket]) -> None:
    proxy, client = wire
    seen: list[bytes] = []
    proxy.on_match(b"RES", lambda: seen.append(proxy.transcript(direction=TO_SERVER)))
    client.sendall(b"one RESERVE two")
    assert client.recv(100) == b"one RESERVE two"
    client.sendall(b"RES again")
    assert client.recv(100) == b"RES again"
    assert seen == [b"hello"]


def test_wire_calls_at_a_later_turn_between_the_halves_of_a_piece(wire: tuple[WireFault, socket.socket]) -> None:
    proxy, client = wire
    seen: list[bytes] = []
    proxy.on_match(b"RES", lambda: seen.append(proxy.transcript(direction=TO_SERVER)), turn=2, cut_after=True)
    for piece in (b"RESERVE", b" a RES", b"ERVE"):
        client.sendall(piece)
        heard = b""
        while len(heard) < len(piece):
            heard += client.recv(100)
        assert heard == piece
    assert seen == [b"helloRESERVE a RES"]


def test_wire_calls_before_an_answer_passes_and_loses_it(wire: tuple[WireFault, socket.socket]) -> None:
    proxy, client = wire
    seen: list[bytes] = []
    proxy.on_answer(b"RES", lambda: seen.append(proxy.transcript(direction=TO_SERVER)), lose=True)
    client.sendall(b"RES")
    assert client.recv(100) == b""
    assert seen == [b"helloRES"]


def test_waiting_names_what_never_came() -> None:
    with pytest.raises(NeverHappened, match="a blue moon"):
        wait_until(lambda: False, "a blue moon", 0.05)


def test_no_process_of_ours_is_left_by_a_killed_test_run(root: Root, new_state: Callable[[], Path]) -> None:
    """The log catcher sees the end of the pipe and ends the sandbox."""
    state = new_state()
    script = (
        "import os, signal, pathlib\n"
        "from tests.harness.cyrus import CyrusMupdate, make_sasldb\n"
        "from tests.harness.network import Network\n"
        "from tests.harness.roots import locate\n"
        f"root, state = locate({root.suite!r}), pathlib.Path({str(state)!r})\n"
        "network = Network()\n"
        "server = CyrusMupdate('mup.lab', network.address(10), state / 'mup', root)\n"
        "server.configure({'mup.lab': server.address}, make_sasldb(root, state / 'sasl', ['mup.lab']))\n"
        "server.start()\n"
        "(state / 'told').write_text(f'{server.pid} {server.address}')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False, timeout=60)
    assert done.returncode == -9
    pid, address = (state / "told").read_text().split()
    wait_until(lambda: not accepts(address, 3905), "the orphaned server is gone")
    wait_until(lambda: not _alive(pid), "its master process is gone")


def _alive(pid: str) -> bool:
    """Say whether a process runs; a zombie, which only its new parent can bury, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False
