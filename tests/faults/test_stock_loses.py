"""The faults in which Cyrus' own mupdate master costs mail or bounces it, beside ours.

Rule: each is shown with the stock master too, so that the test can fail; what Cyrus does wrong whatever its master says
stands in docs/operations/faults.md.
"""

from __future__ import annotations

import contextlib
import imaplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.rig import BROKEN_OFF
from tests.harness import imap
from tests.harness.lmtp import Lmtp, message
from tests.harness.roots import Root
from tests.harness.server import Server
from tests.harness.topology import Murder

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module", params=["ours", "stock"])
def murder(request: pytest.FixtureRequest, root: Root, new_state: Callable[[], Path]) -> Iterator[Murder]:
    with Murder(root, new_state(), request.param, wire=True) as group:
        for server in (group.be1, group.be2, group.fe):
            server.expect(*BROKEN_OFF)
        yield group


BREAKS = {
    "the wire is cut": (),
    "the target is killed": ("target",),
    "the source is killed": ("source",),
    "both are killed": ("source", "target"),
    "the master is killed": ("master",),
}
"""What happens to an XFER when the target says ACTIVATE, and who is killed by it."""
STOCK_LOSES = {"the wire is cut", "the target is killed", "both are killed"}


@pytest.mark.parametrize("break_", BREAKS)
def test_a_move_that_is_broken_off(murder: Murder, break_: str) -> None:
    """XFER has its source remove its copy although the target's ACTIVATE failed.  Then the target pushes.

    The stock master tells the target that the source has the mailbox: the target removes the only copy.  Ours tells it
    nothing, and gives it the mailbox when the source has disclaimed it.
    """
    assert murder.wire is not None
    user = murder.user()
    with murder.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
    with murder.be1.imap(user) as connection:
        imap.ok(connection.append("INBOX", "", "", message("the only copy")))
    parts: dict[str, Server] = {"source": murder.be1, "target": murder.be2, "master": murder.master}
    struck: list[str] = []

    def strike() -> None:
        struck.append(break_)
        for part in BREAKS[break_]:
            parts[part].kill()

    murder.wire.on_match(b" ACTIVATE ", strike, lose=True)
    with contextlib.suppress(imap.Refused, imaplib.IMAP4.error), murder.be1.imap() as admin:
        imap.xfer(admin, f"user.{user}", "be2.lab")
    murder.wire.heal()
    assert struck
    for part in ("master", "target", "source"):
        if not parts[part].running:
            parts[part].start(60)
    for backend in (murder.be2, murder.be1):
        backend.tool("ctl_mboxlist", "-m")
    left = []
    for backend in (murder.be1, murder.be2):
        with backend.imap(user) as connection, contextlib.suppress(imap.Refused, imaplib.IMAP4.error):
            left += imap.messages(connection)
    if murder.kind == "stock":
        assert len(left) == (0 if break_ in STOCK_LOSES else 1)
        return
    assert len(left) == 1
    with murder.mupdate() as client:
        entry = client.find(f"user.{user}".encode())
    assert entry is not None and entry.acl is not None and entry.server == "be2.lab"
    murder.frontend_sees(lambda known: known[f"user.{user}"].location.startswith("be2.lab!"), "the new server")


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
