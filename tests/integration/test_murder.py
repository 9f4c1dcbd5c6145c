"""Do real Cyrus backends and a real frontend find in our node the mupdate master they know?

Every change at a backend is looked for in three places: the answer to FIND, an UPDATE stream, and the mailboxes.db that
the frontend's own slave keeps.  The same tests run with the stock master, which is how we know that they ask for what
Cyrus does and not for what we do.
"""

from __future__ import annotations

import base64
import poplib
import re
from collections.abc import Callable

import pytest

from tests.harness import imap
from tests.harness.cyrus import LOSES_MASTER
from tests.harness.lmtp import Lmtp, message
from tests.harness.mupdate import Entry, UpdateStream
from tests.harness.topology import Murder
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration

Mirror = dict[bytes, Entry]


def told(murder: Murder, stream: UpdateStream, condition: Callable[[Mirror], object], what: str) -> None:
    """Wait for a change on an UPDATE stream.  Ours pushes; the stock master waits up to 5 s unless it is asked."""
    if murder.kind == "stock":
        stream.barrier()
    stream.wait_for(condition, what, 5)


def found(murder: Murder, name: str) -> Entry | None:
    with murder.mupdate() as client:
        return client.find(name.encode())


def test_create(murder_1f2b: Murder) -> None:
    murder, user = murder_1f2b, murder_1f2b.user()
    inbox, sent = f"user.{user}", f"user.{user}.Sent"
    with murder.updates() as stream:
        with murder.be1.imap() as admin:
            imap.create(admin, inbox)
            imap.create(admin, sent)
        told(murder, stream, lambda mirror: {inbox.encode(), sent.encode()} <= mirror.keys(), "both mailboxes")
        assert stream.mirror[sent.encode()].location == b"be1.lab!default"
    entry = found(murder, inbox)
    assert entry is not None
    assert entry.location == b"be1.lab!default"
    assert entry.acl == f"{user}\tlrswipkxtecdan\t".encode()
    murder.frontend_sees(lambda known: {inbox, sent} <= known.keys(), "both mailboxes")
    at_frontend = murder.fe.mailboxes()[sent]
    assert at_frontend.location == "be1.lab!default"
    assert at_frontend.acl == {user: "lrswipkxtecdan"}
    with murder.fe.imap(user) as connection:
        assert imap.listed(connection) == {"INBOX", "INBOX.Sent"}


def test_create_through_the_frontend(murder_1f2b: Murder) -> None:
    murder, user = murder_1f2b, murder_1f2b.user()
    with murder.fe.imap() as admin:
        imap.create(admin, f"user.{user}", "be2.lab!default")
        assert f"user.{user}" in imap.listed(admin, f"user.{user}")
    entry = found(murder, f"user.{user}")
    assert entry is not None and entry.server == "be2.lab"


def test_create_of_a_name_that_another_backend_has_is_refused(murder_1f2b: Murder) -> None:
    murder, user = murder_1f2b, murder_1f2b.user()
    assert murder.be1.try_create(f"user.{user}")
    assert not murder.be2.try_create(f"user.{user}")
    with murder.be2.imap() as admin:
        assert imap.listed(admin, f"user.{user}") == set()
    entry = found(murder, f"user.{user}")
    assert entry is not None and entry.server == "be1.lab"


def test_setacl(murder_1f2b: Murder) -> None:
    murder, user = murder_1f2b, murder_1f2b.user()
    name = f"user.{user}"
    with murder.updates() as stream:
        with murder.be1.imap() as admin:
            imap.create(admin, name)
            imap.ok(admin.setacl(name, "friend", "lrs"))
        expected = f"{user}\tlrswipkxtecdan\tfriend\tlrs\t".encode()
        told(
            murder, stream, lambda mirror: name.encode() in mirror and mirror[name.encode()].acl == expected, "the ACL"
        )
    entry = found(murder, name)
    assert entry is not None and entry.acl == expected
    murder.frontend_sees(lambda known: name in known and known[name].acl.get("friend") == "lrs", "the ACL")
    with murder.fe.imap("friend") as connection:
        assert name in imap.listed(connection)
    with murder.be1.imap() as admin:
        imap.ok(admin.deleteacl(name, "friend"))
    murder.frontend_sees(lambda known: name in known and "friend" not in known[name].acl, "the right taken away")


def test_rename_of_a_folder(murder_1f2b: Murder) -> None:
    """A RENAME is a DELETE and a RESERVE, ACTIVATE without a partition; a later SETACL names the partition again."""
    murder, user = murder_1f2b, murder_1f2b.user()
    old, new = f"user.{user}.work", f"user.{user}.job"
    with murder.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
        imap.create(admin, old)
        murder.frontend_sees(lambda known: old in known, "the old name")
        with murder.updates() as stream:
            imap.ok(admin.rename(old, new))
            told(murder, stream, lambda mirror: new.encode() in mirror and old.encode() not in mirror, "the new name")
        assert found(murder, old) is None
        entry = found(murder, new)
        assert entry is not None and entry.server == "be1.lab"
        murder.frontend_sees(lambda known: new in known and old not in known, "the new name")
        imap.ok(admin.setacl(new, "friend", "lr"))
    entry = found(murder, new)
    assert entry is not None and entry.location == b"be1.lab!default"


def test_rename_of_a_user(murder_1f2b: Murder) -> None:
    murder, old, new = murder_1f2b, murder_1f2b.user(), murder_1f2b.user()
    with murder.be1.imap() as admin:
        imap.create(admin, f"user.{old}")
        imap.create(admin, f"user.{old}.Sent")
        imap.ok(admin.rename(f"user.{old}", f"user.{new}"))
    murder.frontend_sees(
        lambda known: {f"user.{new}", f"user.{new}.Sent"} <= known.keys() and f"user.{old}" not in known, "the new user"
    )
    with murder.mupdate() as client:
        assert client.find(f"user.{old}.Sent".encode()) is None
        assert client.find(f"user.{new}.Sent".encode()) is not None


def test_delete_at_once_is_told_by_the_next_push(murder_1f2b: Murder) -> None:
    """With ``delete_mode: immediate`` Cyrus 3.6 and 3.10 tell no master of a DELETE; ``ctl_mboxlist -m`` does."""
    murder, user = murder_1f2b, murder_1f2b.user()
    name = f"user.{user}.gone"
    with murder.updates() as stream:
        with murder.be2.imap() as admin:
            imap.create(admin, f"user.{user}")
            imap.create(admin, name)
            imap.delete(admin, name)
            assert imap.listed(admin, f"user.{user}.*") == set()
        murder.frontend_sees(lambda known: name in known, "what is no longer there")
        assert found(murder, name) is not None
        murder.be2.tool("ctl_mboxlist", "-m")
        told(murder, stream, lambda mirror: name.encode() not in mirror, "its end")
    assert found(murder, name) is None
    murder.frontend_sees(lambda known: name not in known and f"user.{user}" in known, "its end")
    with murder.be2.imap() as admin:  # and the name is free
        imap.create(admin, name)


def test_delete_delayed_keeps_it_below_deleted(murder_1f2b: Murder) -> None:
    murder, user = murder_1f2b, murder_1f2b.user()
    name = f"user.{user}.job"
    kept = re.compile(rf"DELETED\.{re.escape(name)}\.[0-9A-F]+")
    with murder.be1.imap() as admin, murder.updates() as stream:
        imap.create(admin, f"user.{user}")
        imap.create(admin, name)
        imap.delete(admin, name)
        told(murder, stream, lambda mirror: any(kept.fullmatch(n.decode()) for n in mirror), "the DELETED name")
        assert name.encode() not in stream.mirror
        deleted = next(n for n in stream.mirror if kept.fullmatch(n.decode()))
    assert found(murder, name) is None
    entry = found(murder, deleted.decode())
    assert entry is not None and entry.server == "be1.lab"
    murder.frontend_sees(lambda known: deleted.decode() in known and name not in known, "the DELETED name")
    with murder.be1.imap() as admin:  # the same name again, while its past is kept
        imap.create(admin, name)
    assert found(murder, name) is not None


def test_delete_of_a_user(murder_1f2b: Murder) -> None:
    murder, user = murder_1f2b, murder_1f2b.user()
    with murder.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
        imap.create(admin, f"user.{user}.Sent")
        murder.frontend_sees(lambda known: f"user.{user}.Sent" in known, "the user")
        imap.delete(admin, f"user.{user}")
    murder.frontend_sees(lambda known: not any(n.startswith(f"user.{user}") for n in known), "the user's end")
    with murder.mupdate() as client:
        assert client.find(f"user.{user}".encode()) is None
        assert client.find(f"user.{user}.Sent".encode()) is None


def test_xfer_moves_a_user_with_mail(murder_1f2b: Murder) -> None:
    murder, user = murder_1f2b, murder_1f2b.user()
    names = {f"user.{user}", f"user.{user}.Sent"}
    with murder.be1.imap() as admin:
        for name in sorted(names):
            imap.create(admin, name)
    with murder.be1.imap(user) as connection:
        imap.ok(connection.append("INBOX", "", "", message("before the move")))
    before = messages_at(murder.be1.imap(user))
    murder.frontend_sees(lambda known: names <= known.keys(), "the user on be1")
    with murder.updates() as stream:
        with murder.be1.imap() as admin:
            imap.xfer(admin, f"user.{user}", "be2.lab")
        told(
            murder,
            stream,
            lambda mirror: all(mirror[n.encode()].location == b"be2.lab!default" for n in names),
            "the new server",
        )
    murder.frontend_sees(lambda known: all(known[n].location == "be2.lab!default" for n in names), "the user on be2")
    assert messages_at(murder.be2.imap(user)) == before
    assert messages_at(murder.fe.imap(user)) == before
    with murder.be1.imap() as admin:
        assert imap.listed(admin, f"user.{user}*") == set()
    with murder.be2.imap() as admin:
        imap.xfer(admin, f"user.{user}", "be1.lab")
    murder.frontend_sees(lambda known: all(known[n].location == "be1.lab!default" for n in names), "the user on be1")
    assert messages_at(murder.be1.imap(user)) == before


def messages_at(connection: object) -> list[bytes]:
    with connection as session:  # type: ignore[attr-defined]
        return imap.messages(session)


def test_lmtp_through_the_frontend_reaches_both_backends(murder_1f2b: Murder) -> None:
    murder = murder_1f2b
    users = {murder.user(): murder.be1, murder.user(): murder.be2}
    for user, backend in users.items():
        with backend.imap() as admin:
            imap.create(admin, f"user.{user}")
    body = b"a line\r\n..two dots\r\n\r\n.one\r\nend \xe4\xf6\xfc\r\n"
    text = message(f"both-{'-'.join(users)}", body)
    # No waiting: lmtpd asks its slave to catch up, and the slave's NOOP is answered after all that was acknowledged.
    with Lmtp(murder.fe.address, 2003) as client:
        result = client.deliver("a@example.net", [*users, "nobody"], text)
    assert [reply.code for reply in result.rcpt] == [250, 250, 550]
    assert [reply.code for reply in result.final] == [250, 250, 550]
    for user, backend in users.items():
        stored = messages_at(backend.imap(user))
        assert len(stored) == 1
        assert stored[0].endswith(text)


def test_pop3_through_the_frontend(murder_1f2b: Murder) -> None:
    murder, user = murder_1f2b, murder_1f2b.user()
    with murder.be2.imap() as admin:
        imap.create(admin, f"user.{user}")
    with murder.be2.imap(user) as connection:
        imap.ok(connection.append("INBOX", "", "", message("by pop")))
    murder.frontend_sees(lambda known: f"user.{user}" in known, user)
    client = poplib.POP3(murder.fe.address, timeout=30)
    client._shortcmd("AUTH PLAIN " + base64.b64encode(f"{user}\0cyrus\0cyruspw".encode()).decode())  # type: ignore[attr-defined]
    assert client.stat()[0] == 1
    client.quit()


def test_resync_of_the_slave_keeps_names_with_a_dash(murder_1f2b: Murder) -> None:
    """The stock slave merges two lists in the wrong order and drops a mailbox; our master tells it again.

    Where the stock master is, the loss is shown, so that the test can fail.
    """
    murder, user = murder_1f2b, murder_1f2b.user("merge")
    folder, dashed = f"user.{user}.c", f"user.{user}-b"
    with murder.be1.imap() as admin:
        for name in (f"user.{user}", folder, dashed, f"user.{user}0"):
            imap.create(admin, name)
        murder.frontend_sees(lambda known: f"user.{user}0" in known, "all four")
        murder.fe.stop()
        imap.delete(admin, folder)
    murder.fe.start()
    if murder.kind == "stock":
        assert dashed not in murder.fe.mailboxes()
        murder.fe.restart()
    murder.frontend_sees(lambda known: dashed in known and folder not in known, "the dashed name", 5)
    with Lmtp(murder.fe.address, 2003) as client:
        assert client.deliver("a@example.net", [f"{user}-b"], message("dashed")).final[0].code == 250


def test_frontend_comes_back_to_a_changed_list(murder_1f2b: Murder) -> None:
    murder = murder_1f2b
    stays, goes, comes = murder.user(), murder.user(), murder.user()
    with murder.be1.imap() as admin:
        imap.create(admin, f"user.{stays}")
        imap.create(admin, f"user.{goes}")
        murder.frontend_sees(lambda known: f"user.{goes}" in known, "both")
        murder.fe.stop()
        imap.delete(admin, f"user.{goes}")
        imap.create(admin, f"user.{comes}")
        murder.fe.start()
    known = murder.fe.mailboxes()
    assert f"user.{stays}" in known and f"user.{comes}" in known
    assert f"user.{goes}" not in known


def test_push_by_hand_removes_what_the_backend_no_longer_has(murder_1f2b: Murder) -> None:
    """``ctl_mboxlist -m``: our records of be1 become exactly what be1 has; nothing is deleted at be1."""
    murder, user = murder_1f2b, murder_1f2b.user()
    with murder.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
    with murder.mupdate() as client:
        client.ok(b"RESERVE", f"user.{user}.ghost".encode(), b"be1.lab!default")
        client.ok(b"ACTIVATE", f"user.{user}.ghost".encode(), b"be1.lab!default", b"")
    murder.be1.tool("ctl_mboxlist", "-m")
    assert found(murder, f"user.{user}.ghost") is None
    assert found(murder, f"user.{user}") is not None
    with murder.be1.imap() as admin:
        assert f"user.{user}" in imap.listed(admin, f"user.{user}")


def test_dry_run_of_the_push_finds_nothing_to_do(murder_1f2b: Murder) -> None:
    murder, user = murder_1f2b, murder_1f2b.user()
    with murder.be2.imap() as admin:
        for name in (f"user.{user}", f"user.{user}-x", f"user.{user}.a", f"user.{user}0", f"user.{user}.a.b"):
            imap.create(admin, name)
    assert murder.be2.tool("ctl_mboxlist", "-m", "-w").strip() == ""


def test_an_empty_master_is_filled_again_and_no_mail_is_lost(murder_1f2b: Murder) -> None:
    murder = murder_1f2b
    users = {murder.user(): murder.be1, murder.user(): murder.be2}
    for user, backend in users.items():
        with backend.imap() as admin:
            imap.create(admin, f"user.{user}")
        with backend.imap(user) as connection:
            imap.ok(connection.append("INBOX", "", "", message("kept")))
    murder.fe.expect(*LOSES_MASTER)
    murder.master.stop()
    murder.forget_everything()
    murder.master.start()
    assert found(murder, f"user.{next(iter(users))}") is None
    for backend in (murder.be1, murder.be2):
        backend.restart()  # its START section pushes everything
    for user, backend in users.items():
        entry = found(murder, f"user.{user}")
        assert entry is not None and entry.location == f"{backend.name}!default".encode()
        assert [b"kept" in text for text in messages_at(backend.imap(user))] == [True]
    murder.frontend_sees(lambda known: all(f"user.{user}" in known for user in users), "everybody again")
    wait_until(lambda: murder.fe.ready(), "the frontend's slave is in sync")
