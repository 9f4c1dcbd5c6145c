"""The wall clock is set forward by a day, and back by two, while mail is delivered and mailboxes come and go."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cyrusext.lookup import RECENTLY_DELETED_S
from tests.harness import imap
from tests.harness.lmtp import Lmtp, message
from tests.harness.mupdate import UpdateStream
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.topology import Delivery
from tests.harness.waiting import wait_until
from tests.harness.wallclock import WallClock

pytestmark = pytest.mark.faults

DAY = 86_400


def rcpt(group: Delivery, user: str) -> int:
    with Lmtp(group.router.address, ROUTER_PORT) as client:
        client.command("MAIL FROM:<a@example.net>")
        return client.command(f"RCPT TO:<{user}@example.org>").code


def is_temporary(group: Delivery, user: str, deleted: float) -> bool:
    """Say whether who was deleted a moment ago is no "no"; where the machine is so slow that it is long ago, it may."""
    return rcpt(group, user) == 451 or time.monotonic() - deleted > RECENTLY_DELETED_S - 2


def test_no_jump_makes_a_no(root: Root, new_state: Callable[[], Path]) -> None:
    state = new_state()
    clock = WallClock(state / "clock")
    group = Delivery(root, state, postfix=False)
    group.node.extra_environment = group.router.extra_environment = clock.environment
    with group, group.be1.imap() as admin:
        for user in ("stays", "before"):
            imap.create(admin, f"user.{user}")
        assert rcpt(group, "stays") == 250
        subscriber = UpdateStream(group.node.address)
        deleted = time.monotonic()
        imap.delete(admin, "user.before")
        assert is_temporary(group, "before", deleted), "a RENAME is a DELETE first"
        for shift, user in ((DAY, "forward"), (-DAY, "back"), (0, "right")):
            since = group.node.mark()
            clock.shift(shift)
            assert is_temporary(group, "before", deleted)
            group.node.wait_log(r"event=clock\.jumped", since)
            # everything else goes on: changes, the stream, the heartbeat (a "no" needs it), deliveries, deletions
            imap.create(admin, f"user.{user}")
            subscriber.wait_for(lambda known, user=user: f"user.{user}".encode() in known, user)  # type: ignore[misc]
            wait_until(lambda: rcpt(group, "nobody") == 550, "the list is fresh")
            assert is_temporary(group, "before", deleted)
            with Lmtp(group.router.address, ROUTER_PORT) as client:
                result = client.deliver("a@example.net", ["stays@example.org", f"{user}@example.org"], message(user))
            assert [reply.code for reply in result.final] == [250, 250]
            imap.delete(admin, f"user.{user}")
            assert is_temporary(group, user, deleted)
            assert sum("event=clock.jumped" in line for line in group.node.log_lines(since)) == 1
        for user in ("before", "forward", "back", "right"):
            assert is_temporary(group, user, deleted)
        assert group.node.cli("status").returncode == 0
        subscriber.close()
