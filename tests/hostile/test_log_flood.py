"""A client that provokes one line of the log with each packet: some lines are written, the others are counted."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.mupdate import PORT, Mupdate
from tests.harness.topology import lone_node
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the node runs in a namespace of its own, which needs root")


def provoke(address: str, lines: int) -> None:
    """Say what is no command, before any login; the node closes after 25 of them."""
    with socket.create_connection((address, PORT), timeout=10) as client:
        client.sendall(b"x nonsense\r\n" * lines)
        client.shutdown(socket.SHUT_WR)
        try:
            while client.recv(65536):
                pass
        except ConnectionResetError:
            pass


def test_a_flood_is_counted(new_state: Callable[[], Path]) -> None:
    with lone_node(new_state()) as node, Mupdate(node.address) as member:
        since, strangers = node.mark(), 20
        for _ in range(strangers):
            provoke(node.address, 25)
        written = sum("event=mupdate.violation" in line for line in node.log_lines(since))
        assert 0 < written < 25 * strangers / 2

        def counted() -> int:
            provoke(node.address, 1)  # the line that passes again, a second later, brings the count
            told = re.findall(
                r"event=log\.suppressed of=mupdate\.violation .*lines=(\d+)", "\n".join(node.log_lines(since))
            )
            return sum(map(int, told))

        wait_until(lambda: counted() >= 25 * strangers - written, "the number of those that were not written", 30, 0.2)
        member.ok(b"NOOP")
