"""Restart of the node, and of the frontend, in the middle of a working day.

Creates, renames and deletes go on on both backends, and mail flows through the frontend and through the router.  What
was acknowledged is there afterwards, nobody who exists is bounced, and all lists agree.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults.load import Changes, Load, Mail
from tests.faults.rig import MARGIN_S, Rig
from tests.harness import imap
from tests.harness.cyrus import Known
from tests.harness.lmtp import Lmtp, message
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.supervisor import Supervisor

pytestmark = [pytest.mark.faults, pytest.mark.slow]

RESTARTS = 40 if os.environ.get("CYREXT_LONG") else 3


@pytest.fixture(scope="module")
def rig(root: Root, new_state: Callable[[], Path]) -> Iterator[Rig]:
    with Rig(root, new_state()) as group:
        yield group


class Day:
    """All loads of a test, and the users whose mail they bring."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.users = {rig.user("reader"): backend for backend in rig.backends for _ in range(2)}
        for user, backend in self.users.items():
            with backend.imap() as admin:
                imap.create(admin, f"user.{user}")
        rig.frontend_sees(lambda known: all(f"user.{user}" in known for user in self.users), "the readers")
        self.changes = [Changes(rig, backend) for backend in rig.backends]
        names = list(self.users)
        self.mails = [Mail("fe", rig.fe.address, 2003, names), Mail("router", rig.router.address, ROUTER_PORT, names)]
        self.loads: list[Load] = [*self.changes, *self.mails]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Day:
        for load in self.loads:
            self._stack.enter_context(load)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def goes_on(self) -> None:
        for load in self.loads:
            load.goes_on(3)

    def is_right(self) -> None:
        """What was acknowledged is there, and the lists agree on it.

        be2 deletes at once, of which Cyrus tells nobody before its next push.
        """
        self.rig.push(self.rig.be1)
        self.rig.fe_is_in_step()
        for user, backend in self.users.items():
            with backend.imap(user) as connection:
                stored = imap.messages(connection)
            for mail in self.mails:
                lost = [line for line in mail.subjects() if not any(line in text for text in stored)]
                assert not lost, f"{user}: {mail.name} lost {lost}"
            self.rig.all_agree(user)
        with self.rig.mupdate() as client:
            known = {entry.name.decode(): entry for entry in client.list()}
        at_frontend = self.rig.fe.mailboxes()
        for changes, backend in zip(self.changes, self.rig.backends, strict=True):
            for user, there in changes.expected.items():
                for name in there:
                    assert name in known and known[name].acl is not None and known[name].server == backend.name
                    assert at_frontend[name].location.partition("!")[0] == backend.name
                gone = {f"user.{user}{folder}" for folder in (".work", ".job")} - there
                assert not gone & (known.keys() | at_frontend.keys())


@pytest.mark.timeout(120 + 30 * RESTARTS)
def test_node_restarted(rig: Rig) -> None:
    with Day(rig) as day:
        day.goes_on()
        for number in range(RESTARTS):
            before = rig.supervisor.restarts
            if number % 2:
                rig.node.signal(signal.SIGTERM)
            else:
                rig.supervisor.crash()
            rig.supervisor.wait_up(before + 1)
            day.goes_on()
    day.is_right()


def is_merged(user: str, known: dict[str, Known]) -> bool:
    return f"user.{user}-b" in known and f"user.{user}.c" not in known


@pytest.mark.timeout(120 + 30 * RESTARTS)
def test_frontend_restarted(rig: Rig) -> None:
    """The list changes while the frontend is away, so that the slave's merge loses a mailbox, which the node heals."""
    users = [rig.user("merge") for _ in range(RESTARTS)]
    with rig.be1.imap() as admin:
        for user in users:
            for name in (f"user.{user}", f"user.{user}.c", f"user.{user}-b", f"user.{user}0"):
                imap.create(admin, name)
    with Supervisor(rig.fe) as supervisor, Day(rig) as day:
        for number, user in enumerate(users):
            day.goes_on()
            before = supervisor.restarts
            supervisor.may_restart.clear()
            if number % 2:
                rig.fe.signal(signal.SIGTERM)
            else:
                supervisor.crash()
            with rig.be1.imap() as admin:
                imap.delete(admin, f"user.{user}.c")
            supervisor.may_restart.set()
            supervisor.wait_up(before + 1)
            day.goes_on()
            rig.frontend_sees(partial(is_merged, user), "the name with a dash", MARGIN_S)
            with Lmtp(rig.fe.address, 2003) as client:
                assert client.deliver("a@example.net", [f"{user}-b"], message("dashed")).final[0].code == 250
    day.is_right()
