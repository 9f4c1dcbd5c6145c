"""Does the supervisor of the harness do what systemd does?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.server import Server
from tests.harness.supervisor import Supervisor
from tests.harness.waiting import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="a server runs in a namespace of its own, which needs root"),
]


class Service(Server):
    """A shell script that tells the supervisor what it is told to tell."""

    def __init__(self, state: Path, script: str) -> None:
        super().__init__("service", "127.0.0.1", state, None)
        self.script = script

    def command(self) -> list[str | Path]:
        return [sys.executable, "-c", self.script]

    def ready(self) -> bool:
        said = self.state / "ready"
        return said.exists() and said.read_text() == str(self.pid)

    def is_error(self, line: str) -> bool:
        return False


TELL = (
    "import os, socket, sys, time\n"
    "def tell(word): socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(word, os.environ['NOTIFY_SOCKET'])\n"
)


def test_supervisor_starts_again_what_ends_and_ends_what_hangs(new_state: Callable[[], Path]) -> None:
    script = TELL + (
        "tell(b'READY=1')\n"
        "open('ready', 'w').write(str(os.getpid()))\n"
        "while True:\n"
        "    tell(b'WATCHDOG=1')\n"
        "    time.sleep(0.05)\n"
    )
    service = Service(new_state(), script)
    with Supervisor(service, watchdog_s=2.0) as supervisor:
        supervisor.wait_up()
        supervisor.crash()
        supervisor.wait_up(1)
        assert supervisor.aborts == 0
        supervisor.freeze()
        supervisor.wait_up(2)
        assert supervisor.aborts == 1
    service.kill()
    service.close()


def test_supervisor_leaves_ended_what_ended_well(new_state: Callable[[], Path]) -> None:
    service = Service(new_state(), "raise SystemExit(0)")
    with Supervisor(service, on_failure=True) as supervisor:
        wait_until(lambda: service.exit_code == 0, "it ends")
        wait_until(lambda: not supervisor.alive, "the supervisor lets it rest")
        assert supervisor.restarts == 0
    service.close()
