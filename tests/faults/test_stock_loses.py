"""The faults in which Cyrus' own mupdate master costs mail or bounces it, beside ours.

Rule: each is shown with the stock master too, so that the test can fail; what Cyrus does wrong whatever its master says
stands in docs/operations/faults.md.
"""

from __future__ import annotations

import contextlib
import imaplib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.faults.rig import BROKEN_OFF
from tests.harness import imap
from tests.harness.lmtp import Lmtp, message
from tests.harness.roots import Root
from tests.harness.topology import Murder
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module", params=["ours", "stock"])
def murder(request: pytest.FixtureRequest, root: Root, new_state: Callable[[], Path]) -> Iterator[Murder]:
    with Murder(root, new_state(), request.param, wire=True) as group:
        for server in (group.be1, group.be2, group.fe):
            server.expect(*BROKEN_OFF)
        yield group


def test_a_move_that_its_master_did_not_see_to_the_end(murder: Murder) -> None:
    """XFER says OK although the target's ACTIVATE failed, and the source removes its copy.  Then the target pushes.

    The stock master tells the target that the source has the mailbox: the target removes the only copy.  Ours has it
    wait for the source.
    """
    assert murder.wire is not None
    user = murder.user()
    with murder.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
    with murder.be1.imap(user) as connection:
        imap.ok(connection.append("INBOX", "", "", message("the only copy")))
    murder.wire.on_match(b" ACTIVATE ", murder.master.kill, lose=True)
    with murder.be1.imap() as admin:
        imap.xfer(admin, f"user.{user}", "be2.lab")
    murder.wire.heal()
    assert not murder.master.running
    mark = murder.master.mark()
    murder.master.start()
    with ThreadPoolExecutor(2) as pushes:
        target = pushes.submit(murder.be2.tool, "ctl_mboxlist", "-m")
        waits = partial(murder.master.log_contains, "mupdate.find_waits", mark)
        wait_until(lambda: target.done() or waits(), "the target is told, or waits")
        pushes.submit(murder.be1.tool, "ctl_mboxlist", "-m").result(60)
        target.result(60)
    left = []
    for backend in (murder.be1, murder.be2):
        with backend.imap(user) as connection, contextlib.suppress(imap.Refused, imaplib.IMAP4.error):
            left += imap.messages(connection)
    assert len(left) == (1 if murder.kind == "ours" else 0)


def test_mail_for_a_new_user_while_the_slave_is_between_two_connections(murder: Murder) -> None:
    """The frontend's own 550: until its slave has come back (20 to 29 s by default) it does not know who is new.

    No master can help it; the router, which asks the node's own list, has none.
    """
    murder.master.kill()
    murder.fe.wait_log("retrying connection to mupdate server")
    murder.master.start()
    user = murder.user()
    mark = murder.fe.mark()
    assert murder.be1.try_create(f"user.{user}")
    with Lmtp(murder.fe.address, 2003) as client:
        code = client.deliver("a@example.net", [user], message("new")).final[0].code
    assert code == 550 or murder.fe.log_contains("synchronization complete", mark)
    murder.frontend_sees(lambda known: f"user.{user}" in known, user)
    with Lmtp(murder.fe.address, 2003) as client:
        assert client.deliver("a@example.net", [user], message("new")).final[0].code == 250
