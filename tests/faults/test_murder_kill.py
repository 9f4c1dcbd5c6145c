"""What is left when the node dies in the middle of a CREATE, and does the murder agree with itself afterwards?

Rule under test: nothing that was acknowledged is lost, nothing that failed is in the way, and doing it again works.
The backends reach the node through a proxy that sees the commands pass, so that the node dies at the named moment.
"""

from __future__ import annotations

import contextlib
import imaplib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.cyrus import LOSES_MASTER, REFUSED_CREATE
from tests.harness.lmtp import Lmtp, message
from tests.harness.mupdate import Mupdate, literal
from tests.harness.roots import Root
from tests.harness.topology import Murder
from tests.harness.waiting import wait_until
from tests.harness.wirefault import TO_CLIENT, TO_SERVER, WireFault

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def murder(root: Root, new_state: Callable[[], Path]) -> Iterator[Murder]:
    with Murder(root, new_state(), "ours", wire=True) as group:
        for backend in (group.be1, group.be2):
            backend.expect(*REFUSED_CREATE, *LOSES_MASTER)
        group.fe.expect(*LOSES_MASTER)
        yield group


def wire_of(murder: Murder) -> WireFault:
    assert murder.wire is not None
    return murder.wire


MOMENTS = {
    "before the login": (b"AUTHENTICATE", TO_SERVER),
    "before RESERVE arrives": (b" RESERVE ", TO_SERVER),
    "after RESERVE, before its OK is seen": (b"X0 OK", TO_CLIENT),
    "between RESERVE and ACTIVATE": (b" ACTIVATE ", TO_SERVER),
    "after ACTIVATE, before its OK is seen": (b"X1 OK", TO_CLIENT),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_the_middle_of_a_create(murder: Murder, moment: str) -> None:
    user = murder.user()
    name = f"user.{user}"
    pattern, direction = MOMENTS[moment]
    died: list[str] = []

    def die() -> None:
        murder.node.kill()
        died.append(moment)

    wire = wire_of(murder)
    wire.on_match(pattern, die, direction, lose=True)
    acknowledged = murder.be1.try_create(name)
    wire.heal()
    assert died == [moment], "the moment never came"
    murder.node.start()
    assert not acknowledged, "nobody can have acknowledged it"
    assert murder.be1.try_create(name), "the same CREATE succeeds"
    with murder.mupdate() as client:
        entry = client.find(name.encode())
    assert entry is not None and entry.acl is not None and entry.server == "be1.lab"
    murder.frontend_sees(lambda known: name in known and known[name].acl, name)  # a reserved one has no ACL
    with Lmtp(murder.fe.address, 2003) as lmtp:
        assert lmtp.deliver("a@example.net", [user], message(user)).final[0].code == 250


def test_killed_in_the_middle_of_a_rename(murder: Murder) -> None:
    """A RENAME is DELETE, RESERVE, ACTIVATE: whatever was done of it, a push makes the master what the backend is."""
    user = murder.user()
    old, new = f"user.{user}.old", f"user.{user}.new"
    with murder.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
        imap.create(admin, old)
    wire = wire_of(murder)
    wire.on_match(b" RESERVE ", murder.node.kill)
    with pytest.raises((imap.Refused, imaplib.IMAP4.abort)), murder.be1.imap() as admin:
        imap.ok(admin.rename(old, new))
    wire.heal()
    murder.node.start()
    murder.be1.tool("ctl_mboxlist", "-m")
    with murder.be1.imap() as admin:
        local = imap.listed(admin, f"user.{user}.*")
    assert len(local) == 1
    with murder.mupdate() as client:
        known = {name for name in (old, new) if client.find(name.encode()) is not None}
    assert known == local
    murder.frontend_sees(lambda names: {n for n in names if n in (old, new)} == local, "the same")


MOVE_MOMENTS = {
    "before the source gives it up": (b" DEACTIVATE ", TO_SERVER),
    "after the source gave it up": (b"X0 OK", TO_CLIENT),
    "before the target takes it": (b" ACTIVATE ", TO_SERVER),
}


@pytest.mark.parametrize("first", ["source", "target"])
@pytest.mark.parametrize("moment", MOVE_MOMENTS)
def test_killed_in_the_middle_of_a_move(murder: Murder, moment: str, first: str) -> None:
    """XFER says OK whatever its master did.  The mail is there, once, and the pushes make all agree where.

    A source that pushes withdraws its reservations.  Cyrus takes a reservation for an owner, so a target that is told
    of one removes what may be the only copy: it has to wait for the source.
    """
    user = murder.user()
    names = {f"user.{user}", f"user.{user}.Sent"}
    for backend in (murder.be1, murder.be2):
        backend.expect(
            r"Could not move mailbox: .*, MUPDATE DEACTIVATE failed", r"MUPDATE: can't activate mailbox entry"
        )
    with murder.be1.imap() as admin:
        for name in sorted(names):
            imap.create(admin, name)
    with murder.be1.imap(user) as connection:
        imap.ok(connection.append("INBOX", "", "", message("the only copy")))
    pattern, direction = MOVE_MOMENTS[moment]
    wire = wire_of(murder)
    wire.on_match(pattern, murder.node.kill, direction, lose=True)
    with murder.be1.imap() as admin:
        imap.xfer(admin, f"user.{user}", "be2.lab")
    wire.heal()
    assert not murder.node.running, "the moment never came"
    mark = murder.node.mark()
    murder.node.start()
    with ThreadPoolExecutor(2) as both:
        pushes = [both.submit(murder.be2.tool, "ctl_mboxlist", "-m")] if first == "target" else []
        if pushes:
            waits = partial(murder.node.log_contains, "mupdate.find_waits", mark)
            wait_until(lambda: pushes[0].done() or waits(), "the target's push is done, or waits")
            assert waits() is (moment == "before the target takes it") or moment == "after the source gave it up"
        murder.be1.tool("ctl_mboxlist", "-m")
        pushes.append(both.submit(murder.be2.tool, "ctl_mboxlist", "-m"))
        for push in pushes:
            push.result(60)
    owners = []
    for backend in (murder.be1, murder.be2):
        with backend.imap() as admin:
            if imap.listed(admin, f"user.{user}*") == names:
                owners.append(backend)
    assert len(owners) == 1
    with owners[0].imap(user) as connection:
        assert [b"the only copy" in text for text in imap.messages(connection)] == [True]
    with murder.mupdate() as client:
        entries = [client.find(name.encode()) for name in names]
    assert all(entry is not None and entry.acl is not None and entry.server == owners[0].name for entry in entries)
    murder.frontend_sees(
        lambda known: all(n in known and known[n].acl and known[n].location.startswith(owners[0].name) for n in names),
        "the owner",
    )


def test_every_acknowledged_change_survives_a_kill_in_a_flood(murder: Murder) -> None:
    """Several writers, no pause; the node is killed while they write.  What got its OK is there afterwards."""
    user = murder.user()
    acknowledged: list[bytes] = []
    sent = 0
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(Mupdate(murder.node.address)) for _ in range(4)]
        with contextlib.suppress(OSError):  # the wire of a node that is dead
            for round_number in range(40):
                batch = [
                    [f"user.{user}.w{number}.r{round_number}.{item}".encode() for item in range(5)]
                    for number in range(len(writers))
                ]
                for writer, names in zip(writers, batch, strict=True):
                    for item, name in enumerate(names):
                        sent += 1
                        strings = b" ".join(map(literal, (name, b"be1.lab!default", b"x\tlrs\t")))
                        writer.send(b"A%d ACTIVATE %s\r\n" % (item, strings))
                if round_number == 25:
                    murder.node.kill()
                for writer, names in zip(writers, batch, strict=True):
                    for name in names:
                        if writer.receive().verb == "OK":
                            acknowledged.append(name)
    assert 400 <= len(acknowledged) < sent
    murder.node.start()
    with murder.mupdate() as client:
        present = {entry.name for entry in client.list() if entry.name.startswith(f"user.{user}.".encode())}
        assert set(acknowledged) <= present
        for name in present:
            client.ok(b"DELETE", name)


def test_a_slow_wire_makes_a_create_slow_and_nothing_else(murder: Murder) -> None:
    user = murder.user()
    wire = wire_of(murder)
    wire.delay(0.3)
    try:
        assert murder.be1.try_create(f"user.{user}")
    finally:
        wire.heal()
    with murder.mupdate() as client:
        entry = client.find(f"user.{user}".encode())
    assert entry is not None and entry.acl is not None


def test_a_held_wire_holds_up_nobody_else(murder: Murder) -> None:
    """be1's create waits in the network; a writer on another path is served meanwhile."""
    user, other = murder.user(), murder.user()
    wire = wire_of(murder)
    with ThreadPoolExecutor(1) as pool:
        wire.hold()
        try:
            waiting = pool.submit(murder.be1.try_create, f"user.{user}")
            with murder.mupdate() as client:
                client.ok(b"ACTIVATE", f"user.{other}".encode(), b"be2.lab!default", b"")
                client.ok(b"DELETE", f"user.{other}".encode())
                assert client.find(f"user.{user}".encode()) is None
            assert not waiting.done()
        finally:
            wire.heal()
        assert waiting.result(20)


def test_a_cut_wire_in_the_middle_of_a_create(murder: Murder) -> None:
    """The node lives, the backend's connection does not: the node must not keep what the backend took back for ever."""
    user = murder.user()
    wire = wire_of(murder)
    wire.close_after(1)
    assert not murder.be1.try_create(f"user.{user}")
    wire.heal()
    assert murder.be1.try_create(f"user.{user}")


def test_a_backend_killed_between_reserve_and_activate(murder: Murder) -> None:
    """It had made the mailbox before it asked: its push at the next start turns the reservation into a mailbox."""
    user = murder.user()
    name = f"user.{user}"
    wire = wire_of(murder)
    wire.on_match(b" ACTIVATE ", murder.be1.kill, lose=True)
    assert not murder.be1.try_create(name)
    wire.heal()
    with murder.mupdate() as client:
        entry = client.find(name.encode())
        assert entry is not None and entry.acl is None, "reserved"
        murder.be1.start()
        with murder.be1.imap() as admin:
            assert imap.listed(admin, name) == {name}
        entry = client.find(name.encode())
        assert entry is not None and entry.acl is not None, "active"
    murder.frontend_sees(lambda known: name in known and known[name].acl, name)


def test_a_half_dead_frontend_connection_delays_nobody(murder: Murder) -> None:
    """A subscriber that reads nothing any more: writers and other subscribers go on."""
    user = murder.user()
    with murder.updates(), murder.updates() as stream:
        with murder.mupdate() as client:
            for number in range(500):
                client.ok(b"ACTIVATE", f"user.{user}.{number:04}".encode(), b"be1.lab!default", b"x\tlrs\t")
        last = f"user.{user}.0499".encode()
        stream.wait_for(lambda mirror: last in mirror, "the last change", 5)
        with murder.mupdate() as client:
            for number in range(500):
                client.ok(b"DELETE", f"user.{user}.{number:04}".encode())


def test_the_frontend_serves_while_the_node_is_dead_and_agrees_afterwards(murder: Murder) -> None:
    stays, comes = murder.user(), murder.user()
    assert murder.be1.try_create(f"user.{stays}")
    murder.frontend_sees(lambda known: f"user.{stays}" in known, stays)
    murder.node.kill()
    with murder.fe.imap(stays) as connection:
        assert imap.listed(connection) == {"INBOX"}
    with Lmtp(murder.fe.address, 2003) as client:
        assert client.deliver("a@example.net", [stays], message("dead-node")).final[0].code == 250
    murder.node.start()
    assert murder.be1.try_create(f"user.{comes}")
    murder.frontend_sees(lambda known: {f"user.{stays}", f"user.{comes}"} <= known.keys(), "both", 20)
    wait_until(lambda: murder.fe.log_contains("mailbox list synchronization complete"), "the slave is in sync")
