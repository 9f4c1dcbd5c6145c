"""kill -9 and SIGSTOP of the node at every named point of CREATE, RENAME, DELETE, SETACL and XFER of real backends.

Five promises, looked at after each blow:
1. the client gets its answer: before the login by Cyrus' own client_timeout, later because the watchdog ends a node
   that hangs;
2. the router has no 550 for a user who exists, or whose mailbox is reserved;
3. what got NO succeeds when it is said again;
4. ``ctl_mboxlist -m`` on both backends removes no mail;
5. afterwards the backends, the node and the frontend agree.

Short: a seeded sample that hits every kind of point (points.py); long (CYREXT_LONG): all of them.
"""

from __future__ import annotations

import imaplib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import points
from tests.faults.rig import CLIENT_TIMEOUT_S, MARGIN_S, WATCHDOG_S, Rig
from tests.harness import imap
from tests.harness.lmtp import message
from tests.harness.roots import Root
from tests.harness.waiting import wait_until
from tests.plugins.points import announce, count, hits

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SEED = os.environ.get("CYREXT_SEED", "20261123")
LONG = bool(os.environ.get("CYREXT_LONG"))
CASES = points.ALL if LONG else points.sample(random.Random(SEED))


@pytest.fixture(scope="module")
def rig(root: Root, new_state: Callable[[], Path]) -> Iterator[Rig]:
    with Rig(root, new_state()) as group:
        yield group


class Operation:
    """One thing that an administrator does to a user, and how to see that it is done."""

    def __init__(self, rig: Rig, user: str) -> None:
        self.rig, self.user = rig, user
        self.name = f"user.{user}"

    def prepare(self) -> None:
        """Two mailboxes on be1, a message in each."""
        with self.rig.be1.imap() as admin:
            imap.create(admin, self.name)
            imap.create(admin, f"{self.name}.Sent")
        with self.rig.be1.imap(self.user) as connection:
            imap.ok(connection.append("INBOX", "", "", message(f"in-{self.user}", b"\xe4 the only copy\r\n")))
            imap.ok(connection.append("INBOX.Sent", "", "", message(f"sent-{self.user}")))

    def perform(self) -> str:
        """Do it; return "OK", the NO, or how the connection ended (Cyrus 3.10's imapd dies of a refused CREATE)."""
        try:
            with self.rig.be1.imap() as admin:
                self.say(admin)
        except imap.Refused as refused:
            return str(refused)
        except imaplib.IMAP4.abort as ended:
            return f"ended: {ended}"
        return "OK"

    def say(self, admin: imap.Imap) -> None:
        raise NotImplementedError

    def done(self) -> bool:
        """Whether the backend is what the operation makes it, so that there is nothing to say again."""
        raise NotImplementedError

    def at_be1(self) -> set[str]:
        return set(self.rig.local(self.rig.be1, self.user))


class Create(Operation):
    def prepare(self) -> None:
        pass

    def say(self, admin: imap.Imap) -> None:
        imap.create(admin, self.name)

    def done(self) -> bool:
        return False  # a refused CREATE has left nothing


class Rename(Operation):
    def say(self, admin: imap.Imap) -> None:
        imap.ok(admin.rename(f"{self.name}.Sent", f"{self.name}.Done"))

    def done(self) -> bool:
        return self.at_be1() == {self.name, f"{self.name}.Done"}


class Delete(Operation):
    def prepare(self) -> None:
        super().prepare()
        with self.rig.be1.imap() as admin:
            imap.ok(admin.setacl(f"{self.name}.Sent", "cyrus", "lrswipkxtecda"))

    def say(self, admin: imap.Imap) -> None:
        imap.ok(admin.delete(f"{self.name}.Sent"))

    def done(self) -> bool:
        return f"{self.name}.Sent" not in self.at_be1()


class Setacl(Operation):
    def say(self, admin: imap.Imap) -> None:
        imap.ok(admin.setacl(self.name, "friend", "lrs"))

    def done(self) -> bool:
        return False  # it can always be said again


class Xfer(Operation):
    def say(self, admin: imap.Imap) -> None:
        imap.xfer(admin, self.name, "be2.lab")

    def done(self) -> bool:
        return not self.at_be1()


OPERATIONS = {"create": Create, "rename": Rename, "delete": Delete, "setacl": Setacl, "xfer": Xfer}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_passes_the_points_of_the_table(rig: Rig, name: str) -> None:
    operation = OPERATIONS[name](rig, rig.user())
    operation.prepare()
    rig.wire.record.clear()
    before = rig.node.passes
    assert operation.perform() == "OK"
    wait_until(lambda: rig.wire.transcript().count(b" LOGOUT") == points.SESSIONS.get(name, 1), "the backends leave")
    words = [word for line in rig.wire.transcript(direction="C").split(b"\r\n") for word in line.split()[1:2]]
    sent = [word.decode() for word in words if word.decode() in points.COMMANDS]
    assert sorted(sent) == sorted(points.SENT[name])
    passed = rig.node.passes - before
    assert set(points.COMMIT) <= passed.keys()
    for step in ("put-start", "put-logged"):
        assert passed[step] == len(sent), "each command is written once"


def test_every_step_of_a_commit_is_in_the_table(rig: Rig) -> None:
    assert set(rig.node.passes) - {"create-before", "purge-one"} == set(points.COMMIT)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_node_struck(rig: Rig, case: points.Case, request: pytest.FixtureRequest) -> None:
    announce(request.config, case.point)
    chance = random.Random(f"{SEED} {case}")
    operation = OPERATIONS[case.operation](rig, rig.user())
    operation.prepare()
    before = rig.mail(operation.user)
    answer = strike(rig, case, operation, away=chance.random() < 0.5)
    count(request.config, case.point)
    request.node.user_properties.append(("answer", answer))
    if case.operation != "xfer":
        assert (answer == "OK") is case.granted, answer

    reserved = [name for name, place in rig.known(operation.user).items() if place is None]
    if reserved or rig.local(rig.be1, operation.user) or rig.local(rig.be2, operation.user):
        assert rig.router_says(operation.user) in (250, 451), f"after {answer}"
    if answer != "OK" and not operation.done():
        again = operation.perform()
        assert again == "OK", f"said again after {answer!r}: {again}"

    first = chance.choice(rig.backends)
    rig.push(first)
    after = rig.mail(operation.user)
    if case.operation == "delete":
        assert not before - after - Counter({text: 1 for text in before if b"Subject: sent-" in text})
        kept = [name for name in operation.at_be1() if name.startswith(f"DELETED.{operation.name}.Sent")]
        assert len(kept) == 1, f"where is the deleted mail? {operation.at_be1()}"
    else:
        assert after == before, f"after {answer}, {first.name} pushed first"
    rig.all_agree(operation.user)
    assert rig.router_says(operation.user) == 250


def strike(rig: Rig, case: points.Case, operation: Operation, *, away: bool) -> str:
    """Perform the operation with the blow; with `away` a killed node comes back only after the answer."""
    struck: list[str] = []
    supervisor = rig.supervisor
    restarts = supervisor.restarts

    def blow() -> None:
        struck.append(case.point)
        if case.fault == "kill":
            supervisor.crash()
        else:
            supervisor.freeze()

    points.lay(case, rig.wire, rig.node, blow)
    step = case.point.partition(" ")[2]
    if step in points.COMMIT:  # the blow is the node's own
        struck.append(step)
    if away:
        supervisor.may_restart.clear()
    # Without the watchdog a client that has not logged in must end the wait itself.
    supervisor.watching = not case.before_login
    try:
        answer = rig.pool.submit(operation.perform).result(CLIENT_TIMEOUT_S + WATCHDOG_S + MARGIN_S)
        wait_until(lambda: struck and not rig.node.armed, "the point is passed")
        supervisor.watching = True
        supervisor.may_restart.set()
        supervisor.wait_up(restarts + 1)
        return answer
    finally:
        supervisor.may_restart.set()
        rig.wire.heal()
        rig.node.disarm()
        rig.supervisor.watching = False


def test_every_point_was_hit(request: pytest.FixtureRequest) -> None:
    """The last of this file: what was chosen has struck, and with the long version that is the whole table."""
    chosen = Counter(case.point for case in CASES)
    ran = {item.name for item in request.session.items}
    if not all(f"test_node_struck[{case}]" in ran for case in CASES):
        return  # a part of the file was asked for
    assert hits(request.config) == chosen
    wanted = set(points.POINTS) if LONG else {*points.SESSION, *(f"{c} sent" for c in points.COMMANDS)}
    assert wanted <= set(chosen)
