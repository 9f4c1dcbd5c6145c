"""What becomes of mail in a unified and in a replicated murder?

Two real servers, each of which holds mailboxes, and our node as their master; beside it Cyrus' own master, where that
loses something, so that the tests can fail (docs/decisions/modes.md).
"""

from __future__ import annotations

import imaplib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.cyrus import LOSES_MASTER
from tests.harness.lmtp import Lmtp, message
from tests.harness.peers import CyrusPeer, Peers
from tests.harness.roots import Root

pytestmark = pytest.mark.integration

CAN_NOT_OPEN = (r"mbentry has no uniqueid", r"IOERROR: lock failed", r"Invalid mailbox name")
"""What a server logs of a mailbox whose entry its own slave has overwritten."""


@pytest.fixture(scope="module")
def unified(root: Root, new_state: Callable[[], Path]) -> Iterator[Peers]:
    with Peers(root, new_state(), mode="unified") as group:
        yield group


@pytest.fixture(scope="module")
def replicated(root: Root, new_state: Callable[[], Path]) -> Iterator[Peers]:
    with Peers(root, new_state(), mode="replicated") as group:
        yield group


def append(server: CyrusPeer, user: str, text: str) -> None:
    with server.imap(user) as connection:
        imap.ok(connection.append("INBOX", "", "", message(text)))


def texts(server: CyrusPeer, user: str) -> list[bytes]:
    with server.imap(user) as connection:
        return imap.messages(connection)


def locations(group: Peers) -> dict[str, str]:
    with group.mupdate() as client:
        return {entry.name.decode(): entry.location.decode() for entry in client.list()}


@pytest.mark.parametrize("number", [1, 2])
def test_a_unified_server_changes_and_the_other_sees(unified: Peers, number: int) -> None:
    here, there = (unified.be1, unified.be2) if number == 1 else (unified.be2, unified.be1)
    user = unified.user()
    inbox, old, new = f"user.{user}", f"user.{user}.old", f"user.{user}.new"
    with here.imap() as admin:
        imap.create(admin, inbox)
        imap.create(admin, old)
        there.sees(lambda known: {inbox, old} <= known.keys(), "both mailboxes")
        assert there.mailboxes()[old].location == f"{here.name}!default"
        made = here.entries()[inbox]
        imap.ok(admin.setacl(old, "friend", "lrs"))
        there.sees(lambda known: known[old].acl.get("friend") == "lrs", "the ACL")
        imap.ok(admin.rename(old, new))
        there.sees(lambda known: new in known and old not in known, "the new name")
    append(here, user, "written here")
    append(there, user, "written there")  # through its proxy
    for server in (here, there):
        assert len(texts(server, user)) == 2
        with server.imap(user) as connection:
            assert imap.listed(connection) == {"INBOX", "INBOX.new"}
    with there.imap() as admin:  # a proxy passes it on to the server that has the mailbox
        imap.ok(admin.setacl(new, "other", "lr"))
    here.sees(lambda known: known[new].acl.get("other") == "lr", "what came through the proxy")
    assert here.entries()[inbox]["uniqueid"] == made["uniqueid"], "its own slave has not touched its own entry"
    with here.imap() as admin:
        imap.delete(admin, new)
    there.sees(lambda known: new not in known and inbox in known, "the end of it")
    assert locations(unified)[inbox] == f"{here.name}!default"


def test_unified_servers_take_mail_for_each_other(unified: Peers) -> None:
    users = {unified.user(): unified.be1, unified.user(): unified.be2}
    for user, server in users.items():
        with server.imap() as admin:
            imap.create(admin, f"user.{user}")
    for door in (unified.be1, unified.be2):
        with Lmtp(door.address, 2004) as client:
            result = client.deliver("a@example.net", [*users, "nobody"], message(f"by-{door.name}-{'-'.join(users)}"))
        assert [reply.code for reply in result.final] == [250, 250, 550]
    for user in users:
        assert len(texts(unified.be1, user)) == len(texts(unified.be2, user)) == 2


def test_xfer_between_unified_servers_loses_nothing(unified: Peers) -> None:
    """Cyrus answers OK and moves nothing: the target knows the name as one that is elsewhere.  No record moves."""
    user = unified.user()
    with unified.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
    append(unified.be1, user, "stays")
    unified.be2.sees(lambda known: f"user.{user}" in known, "the user")
    unified.be1.expect("USER received NO response", "Could not move mailbox", "XFER")
    unified.be2.expect(*CAN_NOT_OPEN)
    with unified.be1.imap() as admin:
        imap.xfer(admin, f"user.{user}", "be2.lab")
    assert [b"stays" in text for text in texts(unified.be1, user)] == [True]
    assert [b"stays" in text for text in texts(unified.be2, user)] == [True]
    assert locations(unified)[f"user.{user}"] == "be1.lab!default"


def test_a_push_of_a_unified_server_claims_no_ghost(unified: Peers) -> None:
    """be1 remembers a mailbox of be2 that was deleted while be1 was away: ctl_mboxlist -m pushes it as its own."""
    user = unified.user()
    ghost = f"user.{user}.ghost"
    with unified.be2.imap() as admin:
        imap.create(admin, f"user.{user}")
        imap.create(admin, ghost)
        unified.be1.sees(lambda known: ghost in known, "what is still there")
        unified.be1.stop()
        imap.delete(admin, ghost)
    since = unified.node.mark()
    unified.be1.start()  # START pushes before its slave is told
    unified.node.wait_log(r"mupdate\.refused .*command=ACTIVATE", since)
    assert ghost not in locations(unified)
    unified.be1.sees(lambda known: ghost not in known and f"user.{user}" in known, "that it is gone")
    with unified.be2.imap() as admin:  # and the name is free, where it was
        imap.create(admin, ghost)
    assert locations(unified)[ghost] == "be2.lab!default"


def test_pushes_and_a_restart_of_the_node_leave_unified_servers_as_they_are(unified: Peers) -> None:
    users = {unified.user(): unified.be1, unified.user(): unified.be2}
    for user, server in users.items():
        with server.imap() as admin:
            imap.create(admin, f"user.{user}")
        append(server, user, "kept")
    for server in users.values():
        server.sees(lambda known: all(f"user.{user}" in known for user in users), "both users")
        server.tool("ctl_mboxlist", "-m")
        assert server.tool("ctl_mboxlist", "-m", "-w").strip() == ""
        server.expect(*LOSES_MASTER)
    before = locations(unified)
    unified.node.restart()
    late = f"user.{unified.user()}"
    with unified.be1.imap() as admin:
        imap.create(admin, late)
    unified.be2.sees(lambda known: late in known, "what was created after the restart", 60)
    assert locations(unified) == {**before, late: "be1.lab!default"}
    for user in users:
        assert [b"kept" in text for text in texts(unified.be1, user)] == [True]
        assert [b"kept" in text for text in texts(unified.be2, user)] == [True]


def test_the_stock_master_takes_a_unified_servers_mailboxes_from_it(root: Root, new_state: Callable[[], Path]) -> None:
    """It tells a server's slave of the server's own mailboxes; the slave writes them without their unique ids."""
    with Peers(root, new_state(), "stock", mode="unified") as group:
        group.be1.expect(*CAN_NOT_OPEN)
        with group.be1.imap() as admin:
            imap.create(admin, "user.alice")
        group.be2.sees(lambda known: "user.alice" in known, "the user")
        group.be1.sees(lambda _: "uniqueid" not in group.be1.entries()["user.alice"], "what its slave made of it")
        with group.be1.imap("alice") as connection, pytest.raises(imap.Refused, match="Invalid mailbox name"):
            imap.ok(connection.select("INBOX"))


def share_list(source: CyrusPeer, target: CyrusPeer) -> None:
    """Give `target` the mailboxes.db of `source`: what makes servers of one spool replicas."""
    dump = target.state / "conf/dump"
    dump.write_text(source.tool("ctl_mboxlist", "-d"))
    target.sandbox.run("sh", "-ec", f"/usr/lib/cyrus/bin/ctl_mboxlist -C {target.state}/imapd.conf -u < {dump}")


def test_replicated_servers_change_one_list(replicated: Peers) -> None:
    be1, be2 = replicated.be1, replicated.be2
    user, other = replicated.user(), replicated.user()
    inbox, old, new = f"user.{user}", f"user.{user}.old", f"user.{user}.new"
    with be1.imap() as admin:
        imap.create(admin, inbox)
        imap.create(admin, old)
        assert locations(replicated)[old] == "default"
        imap.ok(admin.rename(old, new))
        assert locations(replicated)[new] == ""  # Cyrus names no partition in a RENAME
    append(be1, user, "on the shared spool")
    share_list(be1, be2)
    assert [b"shared spool" in text for text in texts(be2, user)] == [True]
    with be2.imap() as admin:
        imap.create(admin, f"user.{other}")
        imap.ok(admin.setacl(new, "friend", "lrs"))  # of a mailbox that the other server has created
    with replicated.mupdate() as client:
        entry = client.find(new.encode())
    assert entry is not None and entry.location == b"default" and b"friend\tlrs\t" in (entry.acl or b"")
    with be2.imap() as admin:
        imap.delete(admin, new)
    assert new not in locations(replicated)
    assert f"user.{other}" in locations(replicated)


def test_pushes_and_a_restart_of_the_node_leave_replicated_servers_as_they_are(replicated: Peers) -> None:
    users = {replicated.user(): replicated.be1, replicated.user(): replicated.be2}
    for user, server in users.items():
        with server.imap() as admin:
            imap.create(admin, f"user.{user}")
        append(server, user, "kept")
    before = locations(replicated)
    replicated.node.restart()
    for server in (replicated.be1, replicated.be2):
        assert "Remove" not in server.tool("ctl_mboxlist", "-m", "-w")
        server.tool("ctl_mboxlist", "-m")
        server.restart()
    assert locations(replicated).keys() >= before.keys()
    for user, server in users.items():
        assert [b"kept" in text for text in texts(server, user)] == [True]


def test_an_empty_master_is_filled_by_replicated_servers(replicated: Peers) -> None:
    user = replicated.user()
    with replicated.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
    append(replicated.be1, user, "kept")
    replicated.node.stop()
    replicated.forget_everything()
    replicated.node.start()
    replicated.be1.tool("ctl_mboxlist", "-m")
    assert locations(replicated)[f"user.{user}"] == "default"
    assert [b"kept" in text for text in texts(replicated.be1, user)] == [True]


def test_a_location_of_another_mode_is_refused(unified: Peers, replicated: Peers) -> None:
    for group, location, said in ((unified, b"default", "server!partition"), (replicated, b"be1!default", "partition")):
        with group.mupdate() as client:
            for verb, rest in ((b"RESERVE", ()), (b"ACTIVATE", (b"",))):
                answer = client.command(verb, b"user.wrong", location, *rest)[-1]
                assert answer.verb == "NO" and re.search(said, answer.text), answer


def test_the_mode_does_not_change_over_records(replicated: Peers) -> None:
    with replicated.be1.imap() as admin:
        imap.create(admin, f"user.{replicated.user()}")
    node = replicated.node
    node.stop()
    config = node.config_file.read_text()
    node.config_file.write_text(config.replace('mode = "replicated"', 'mode = "unified"'))
    refused = node.cli("node", check=False)
    assert refused.returncode == 78
    assert re.search(r'records of mode "replicated", .* go on with that mode', refused.stderr), refused.stderr
    node.config_file.write_text(config)
    node.start()


def test_the_stock_master_lets_a_replicated_server_remove_all_mailboxes(
    root: Root, new_state: Callable[[], Path]
) -> None:
    """ctl_mboxlist -m compares ``server!partition`` with the bare partition that the master was given."""
    with Peers(root, new_state(), "stock", mode="replicated") as group:
        with group.be1.imap() as admin:
            imap.create(admin, "user.alice")
        append(group.be1, "alice", "lost")
        assert group.be1.tool("ctl_mboxlist", "-m", "-w").strip() == "Remove Local Mailbox: user.alice"
        group.be1.tool("ctl_mboxlist", "-m")
        with group.be1.imap("alice") as connection, pytest.raises((imap.Refused, imaplib.IMAP4.error)):
            imap.ok(connection.select("INBOX"))
