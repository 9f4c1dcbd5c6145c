"""Black start: node, both backends and the frontend are killed at once and started in any order.  Do they come back?

Nobody helps: each is started again by a supervisor as systemd would, the backends with ``ctl_mboxlist -m`` in START,
which ends cyrmaster while there is no master.  Half of the time an XFER is under way when the power goes.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.rig import BROKEN_OFF, MARGIN_S, Rig
from tests.harness import imap
from tests.harness.lmtp import Lmtp, message
from tests.harness.roots import Root
from tests.harness.server import Server
from tests.harness.supervisor import Supervisor
from tests.harness.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SEED = os.environ.get("CYREXT_SEED", "20261123")
ROUNDS = 20 if os.environ.get("CYREXT_LONG") else 2
RESTART_S = 0.5
"""RestartSec of Cyrus here; without ``StartLimitIntervalSec=0`` systemd would give up on a backend without a node."""
PAUSE_S = 1.5
"""At most so much later is the next one started."""


@pytest.fixture(scope="module")
def rig(root: Root, new_state: Callable[[], Path]) -> Iterator[Rig]:
    with Rig(root, new_state()) as group:
        yield group


@pytest.fixture(scope="module")
def supervisors(rig: Rig) -> Iterator[list[Supervisor]]:
    """One for each server that the power is cut from; the rig has the node's."""
    cyrus: list[Server] = [rig.be1, rig.be2, rig.fe]
    for server in cyrus:
        server.expect(*BROKEN_OFF, *NO_MASTER)
    with contextlib.ExitStack() as stack:
        own = [stack.enter_context(Supervisor(server, restart_s=RESTART_S, on_failure=True)) for server in cyrus]
        rig.supervisor.restart_s = RESTART_S
        yield [rig.supervisor, *own]


NO_MASTER = (r"can't run startup", r"couldn't connect to mupdate", r"process type:START .* exited")
"""What cyrmaster says before it ends, when its START needs a master that is not there."""

MOMENTS = (b" DEACTIVATE ", b" ACTIVATE ")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_black_start_in_any_order(rig: Rig, supervisors: list[Supervisor], round_: int) -> None:
    chance = random.Random(f"{SEED} {round_}")
    users = [rig.user(f"r{round_}x") for _ in range(4)]
    for user, backend in zip(users, [rig.be1, rig.be1, rig.be2, rig.be2], strict=True):
        with backend.imap() as admin:
            imap.create(admin, f"user.{user}")
            imap.create(admin, f"user.{user}.Sent")
        for mailbox in ("INBOX", "INBOX.Sent"):
            with backend.imap(user) as connection:
                imap.ok(connection.append(mailbox, "", "", message(f"{mailbox}-{user}")))
    mail = {user: rig.mail(user) for user in users}
    moving, home = chance.choice([(users[0], rig.be1), (users[2], rig.be2)])
    before = [supervisor.restarts for supervisor in supervisors]

    def power_cut() -> None:
        for supervisor in supervisors:
            supervisor.may_restart.clear()
        for supervisor in supervisors:
            supervisor.crash()
        dark.append(True)

    dark: list[bool] = []
    if round_ % 2 == 0:
        rig.wire.on_answer(chance.choice(MOMENTS), power_cut, turn=chance.choice([1, 2]), lose=True)
        with contextlib.suppress(Exception), home.imap() as admin:
            imap.xfer(admin, f"user.{moving}", "be2.lab" if home is rig.be1 else "be1.lab")
    else:
        power_cut()
    wait_until(lambda: dark, "the power is cut")
    rig.wire.heal()
    order = chance.sample(supervisors, len(supervisors))
    for supervisor in order:
        supervisor.may_restart.set()
        time.sleep(chance.random() * PAUSE_S)  # not a wait for anything: the order in which they come
    for supervisor, restarts in zip(supervisors, before, strict=True):
        supervisor.wait_up(restarts + 1, 60 + MARGIN_S)

    for user in users:
        assert rig.mail(user) == mail[user], [supervisor.server.name for supervisor in order]
        rig.all_agree(user)
        assert rig.router_says(user) == 250
        with Lmtp(rig.fe.address, 2003) as client:
            assert client.deliver("a@example.net", [user], message(f"after-{user}")).final[0].code == 250
