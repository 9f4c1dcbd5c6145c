"""Many clients at once, most of them rude: idle subscribers, silent strangers, one that never reads.

The stock master stands still with 60 idle subscribers beside writers, and takes no new client; benchmarks/ shows it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cyrusext.manage.control import ControlClient
from tests.harness.mupdate import PORT, Mupdate, UpdateStream, literal
from tests.harness.network import Network
from tests.harness.ours import Config, Node
from tests.harness.waiting import wait_until
from tests.plugins import long

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="the node runs in a namespace of its own, which needs root"),
]

ACL = b"x\tlrs\t"
LOGIN = b'A AUTHENTICATE "PLAIN" "%s"\r\n' % base64.b64encode(b"\0murder\0murderpw")


@contextlib.contextmanager
def running(state: Path, config: Config) -> Iterator[Node]:
    network = Network()
    node = Node(network.address(10), state, {}, {"log": {"level": "info"}, **config})
    node.configure()
    try:
        node.start()
        yield node
        node.close()
    finally:
        node.kill()
        network.close()


def rss_kib(node: Node) -> int:
    status = Path(f"/proc/{node.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def activate(client: Mupdate, names: list[bytes], acl: bytes = ACL) -> None:
    """ACTIVATE all, in flight together."""
    client.send(
        b"".join(b"P ACTIVATE %b %b %b\r\n" % (literal(name), literal(b"be1!default"), literal(acl)) for name in names)
    )
    for _ in names:
        assert client.receive(30).verb == "OK"


def test_idle_subscribers_beside_writers_and_newcomers(new_state: Callable[[], Path]) -> None:
    """Sixty that never say NOOP: each is told everything, writers and new clients notice nothing of them."""
    rounds = 200 if long.ON else 20
    with running(new_state(), {}) as node, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(UpdateStream(node.address)) for _ in range(60)]
        writers = [stack.enter_context(Mupdate(node.address)) for _ in range(4)]
        names = []
        for number in range(rounds):
            for which, writer in enumerate(writers):
                batch = [b"user.w%d-%d-%d" % (which, number, one) for one in range(10)]
                activate(writer, batch)
                names += batch
            with Mupdate(node.address) as newcomer:
                assert newcomer.find(names[-1]) is not None
                newcomer.ok(b"DELETE", names.pop())
        for subscriber in idle:
            subscriber.wait_for(lambda mirror: mirror.keys() == set(names), "all that is there", 60)


def test_who_says_nothing_gives_way(new_state: Callable[[], Path]) -> None:
    """Ten thousand (here: fewer) connections without a word, where the node takes fewer than that."""
    count, places = (10_000, 4096) if long.ON else (1500, 500)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with running(new_state(), {"mupdate": {"max_connections": places}}) as node, contextlib.ExitStack() as stack:
        member = stack.enter_context(UpdateStream(node.address))
        control = stack.enter_context(ControlClient(Path(node.config["node"]["run_dir"])))
        before = rss_kib(node)
        for number in range(count):
            silent = socket.socket()
            stack.callback(silent.close)
            silent.connect((node.address, PORT))
            if number % 250 == 249:
                with Mupdate(node.address) as busy:  # as a backend does for each change
                    busy.ok(b"ACTIVATE", b"user.n%d" % number, b"be1!default", ACL)
        assert rss_kib(node) - before < 10_000 + 16 * places
        status = control.status()
        assert status["connections"] <= places
        assert status["entries"] == count // 250
        member.wait_for(lambda mirror: len(mirror) == count // 250, "all changes")  # it was never sent away


def test_a_subscriber_that_never_reads(new_state: Callable[[], Path]) -> None:
    """Fifty thousand changes pass it: it is told BYE, costs bounded memory, and nobody waits for it."""
    with running(new_state(), {}) as node, contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(30)
        deaf.connect((node.address, PORT))
        deaf.sendall(LOGIN + b"U UPDATE\r\n")
        control = stack.enter_context(ControlClient(Path(node.config["node"]["run_dir"])))
        wait_until(lambda: control.status()["subscribers"] == 1, "it is subscribed")
        healthy = stack.enter_context(UpdateStream(node.address))
        writer = stack.enter_context(Mupdate(node.address))
        before, number = rss_kib(node), 0
        while control.status()["subscribers"] == 2:
            names = [b"user.d%06d" % one for one in range(number, number + 1000)]
            activate(writer, names, b"x\tlrs\t" * 40)  # what the kernel takes for it is soon full
            number += len(names)
            healthy.wait_for(lambda mirror, last=names[-1]: last in mirror, "the last change")  # type: ignore[misc]
            assert number <= 90_000, "it was never sent away"
            assert rss_kib(node) - before < 120_000
        assert len(healthy.mirror) == number
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while data := deaf.recv(65536):
                heard = heard[-100:] + data
        assert heard.endswith(b'* BYE "too slow, begin again"\r\n')
        with UpdateStream(node.address) as again:
            assert len(again.mirror) == number


def test_a_log_that_nobody_reads_stops_nothing(new_state: Callable[[], Path]) -> None:
    """Standard error is a full pipe from the beginning; when somebody reads, the log says how many lines are lost."""
    network = Network()
    node = Node(network.address(10), new_state(), {}, {"log": {"level": "debug"}})
    node.configure()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    process = subprocess.Popen(
        node.command(), env={**os.environ, **node.environment()}, stderr=writer, stdin=subprocess.DEVNULL
    )
    os.close(writer)
    try:
        wait_until(node.ready, "the node answers", 30)
        for number in range(50):
            with Mupdate(node.address) as client:
                client.ok(b"ACTIVATE", b"user.p%d" % number, b"be1!default", ACL)
                assert client.command(b"RESERVE", b"user.p%d" % number, b"be2!default")[-1].verb == "NO"  # logged
        with UpdateStream(node.address) as stream:
            assert len(stream.mirror) == 50
        heard = b""
        while b"log.dropped" not in heard:
            heard += os.read(reader, 65536)
            with Mupdate(node.address) as client:
                client.command(b"RESERVE", b"user.p1", b"be3!default")
                client.ok(b"NOOP")
            with Mupdate(node.address, user=""):
                pass
            with UpdateStream(node.address):
                pass
    finally:
        process.terminate()
        assert process.wait(30) == 0
        os.close(reader)
        network.close()
