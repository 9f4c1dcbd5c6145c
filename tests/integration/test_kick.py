"""A frontend whose slave is absent: its processes kick the node, and go on when they have their answer.

What real programs do with it (Cyrus 3.6 and 3.10 alike): they read anything, or the end of the connection, and look the
name up again.  They wait for that without a limit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cyrusext.manage.control import ControlClient
from tests.harness import imap
from tests.harness.cyrus import LOSES_MASTER
from tests.harness.lmtp import Lmtp
from tests.harness.roots import Root
from tests.harness.topology import Murder
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration


def status(murder: Murder) -> dict[str, Any]:
    with ControlClient(Path(murder.node.config["node"]["run_dir"])) as control:
        return control.status()


def target(murder: Murder) -> Path:
    return murder.fe.state / "conf/socket/mupdate.target"


@pytest.fixture(scope="module")
def murder(root: Root, new_state: Callable[[], Path]) -> Iterator[Murder]:
    """A frontend that has learnt one user from its slave, and then goes on without one."""
    with Murder(root, new_state(), "ours") as group:
        group.fe.expect(*LOSES_MASTER, r"kick_mupdate: can't (connect|read)")
        with group.be1.imap() as admin:
            imap.create(admin, "user.known")
        group.frontend_sees(lambda known: "user.known" in known, "the user")
        the_slave_keeps_its_socket(group)
        group.fe.stop()
        wait_until(lambda: status(group)["kick_sockets"] == {str(target(group)): "served"}, "the node serves it", 30)
        services = {name: service for name, service in group.fe.services().items() if name != "mupdate"}
        group.fe.services = lambda: services  # type: ignore[method-assign]
        group.fe._write_cyrus_conf()
        group.fe.start()
        yield group


def the_slave_keeps_its_socket(murder: Murder) -> None:
    """It answers there, so the node leaves it alone and says so."""
    path, inode = target(murder), target(murder).stat().st_ino
    murder.node.expect("event=kick.not_served")
    murder.node.config["lookup"] = {"kick_sockets": [str(path)]}
    murder.node.configure()
    os.kill(murder.node.pid, signal.SIGHUP)
    murder.node.wait_log("event=kick.not_served path=.* reason=.another program answers there", timeout_s=30)
    assert path.stat().st_ino == inode
    assert "another program answers there" in status(murder)["kick_sockets"][str(path)]


def deliver(murder: Murder, user: str) -> int:
    """The reply to a recipient at the frontend."""
    with Lmtp(murder.fe.address, 2003) as lmtp:
        lmtp.command("MAIL FROM:<>")
        return lmtp.command(f"RCPT TO:<{user}>").code


def test_lmtpd_kicks_for_who_it_does_not_know_and_goes_on(murder: Murder) -> None:
    before = status(murder)["kicks"]
    assert deliver(murder, "known") == 250
    assert status(murder)["kicks"] == before
    mark = murder.fe.mark()
    assert deliver(murder, "nobody") == 550
    assert status(murder)["kicks"] > before
    assert not murder.fe.log_contains("kick_mupdate", mark)


def test_imapd_kicks_too(murder: Murder) -> None:
    before = status(murder)["kicks"]
    with murder.fe.imap("known") as connection:
        imap.ok(connection.select("INBOX"))
        assert connection.select("INBOX.none")[0] == "NO"
    assert status(murder)["kicks"] > before


def test_a_node_that_died_leaves_a_socket_that_the_next_one_takes(murder: Murder) -> None:
    murder.node.kill()
    mark = murder.fe.mark()
    assert deliver(murder, "nobody") == 550  # at once: nobody listens
    murder.fe.wait_log("kick_mupdate: can't connect to target", mark)
    murder.node.start()
    wait_until(lambda: "served" in status(murder)["kick_sockets"].values(), "it serves the socket", 30)
    assert deliver(murder, "nobody") == 550
    assert status(murder)["kicks"] == 1


def test_who_kicks_a_hung_node_waits_until_it_goes_on_or_ends(murder: Murder) -> None:
    """Cyrus waits without a limit, which is why a hung node has to be ended."""
    with ThreadPoolExecutor(1) as thread:
        murder.node.hang()
        waiting = thread.submit(deliver, murder, "nobody")
        wait_until(lambda: kicks_waiting(target(murder)) > 0, "the kick is there")
        assert not waiting.done()
        murder.node.kill()
        assert waiting.result(60) == 550
    murder.node.start()


def kicks_waiting(path: Path) -> int:
    """Connections to a socket that nobody has accepted yet."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return sum(row[-1] == str(path) and row[5] == "02" for row in rows if len(row) == 8)
