"""What an operator settles: records that nobody vouches for, and a backend that comes back to what others have."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cyrusext.lookup import Lookup, Verdict
from cyrusext.model import MailboxRecord, State
from cyrusext.names import NameRules
from cyrusext.store import Store
from tests.harness import imap
from tests.harness.cyrus import LOSES_MASTER
from tests.harness.lmtp import message
from tests.harness.roots import Root
from tests.harness.topology import Murder
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def murder(root: Root, new_state: Callable[[], Path]) -> Iterator[Murder]:
    with Murder(root, new_state(), "ours") as group:
        group.fe.expect(*LOSES_MASTER)
        yield group


def owner(murder: Murder, name: str) -> str:
    with murder.mupdate() as client:
        found = client.find(name.encode())
    return "" if found is None else found.server


def has_mail(murder: Murder, user: str) -> bool:
    with murder.be2.imap(user) as connection:
        return len(imap.messages(connection)) == 1


def test_a_backend_takes_back_what_is_its_own_within_a_window_only(murder: Murder) -> None:
    """be2 was away and its mailboxes were given to be1; ``ctl_mboxlist -m -a`` says that be2 has them after all."""
    user = murder.user()
    name = f"user.{user}"
    with murder.be2.imap() as admin:
        imap.create(admin, name)
    with murder.be2.imap(user) as connection:
        imap.ok(connection.append("INBOX", "", "", message("the only copy")))
    murder.node.cli("mailbox", "set", name, "be1.lab!default", "--force")

    murder.be2.tool("ctl_mboxlist", "-m", "-a")  # ends with 0 and says nothing of the refusal
    murder.node.wait_log(rf"event=mupdate.refused .* command=ACTIVATE mailbox={name} ")
    assert owner(murder, name) == "be1.lab"
    assert has_mail(murder, user)

    assert murder.node.cli("backend", "claim", "be2.lab", "--dry-run").stdout.startswith("would open a window")
    assert "seconds_left" not in murder.node.cli("status").stdout
    assert murder.node.cli("backend", "claim", "be2.lab", "--seconds", "600").stdout == ""
    assert "be2.lab" in murder.node.cli("status").stdout
    murder.be2.tool("ctl_mboxlist", "-m", "-a")
    assert owner(murder, name) == "be2.lab"
    assert has_mail(murder, user)
    row = murder.node.cli("backend", "show", "be2.lab", "--format", "tsv").stdout.rstrip("\n").split("\t")
    assert (row[0], row[1], row[2], row[5]) == ("be2.lab", murder.hosts["be2.lab"], "up", "1")
    assert murder.node.cli("backend", "claim", "be2.lab", "--end").stdout == "be2.lab took over 1 mailboxes\n"
    murder.node.wait_log(rf"event=record.taken_over mailbox={name} server=be2.lab was=be1.lab")
    murder.node.wait_log("event=backend.claim_ended server=be2.lab taken_over=1")

    with murder.mupdate() as client:  # the window is closed again, for other servers it never was open
        assert client.command(b"ACTIVATE", name.encode(), b"be1.lab!default", b"a\tl\t")[-1].verb == "NO"
    for backend in (murder.be2, murder.be1):
        backend.tool("ctl_mboxlist", "-m")
    assert owner(murder, name) == "be2.lab"
    assert has_mail(murder, user)


def test_a_window_does_not_survive_a_restart(murder: Murder) -> None:
    murder.node.cli("backend", "claim", "be2.lab")
    murder.node.restart()
    assert "seconds_left" not in murder.node.cli("status").stdout


def leave_reservation(murder: Murder, *names: str) -> None:
    """Put reservations there that are an hour old, as a backend leaves them that died in the middle."""
    node = murder.node
    node.stop()
    changed_at = int((time.time() - 3600) * 1_000_000)
    paths = {key: Path(node.config["node"][key]) for key in ("state_dir", "run_dir")}
    with Store.open(paths["state_dir"], run_dir=paths["run_dir"]) as store, store.begin() as transaction:
        for name in names:
            transaction.put(MailboxRecord(name.encode(), State.RESERVED, "be1.lab", "default", changed_at=changed_at))
    node.start()


def suspects(murder: Murder) -> set[str]:
    rows = murder.node.cli("mailbox", "list", "--suspect", "--format", "tsv").stdout.splitlines()
    return {row.split("\t")[0] for row in rows}


def test_an_old_reservation_is_found_named_and_settled(murder: Murder) -> None:
    user, other, third = murder.user(), murder.user(), murder.user()
    names = {f"user.{one}" for one in (user, other, third)}
    leave_reservation(murder, *names)
    wait_until(lambda: suspects(murder) == names, "they are marked", 30)
    murder.node.wait_log("event=record.reserved_too_long")
    status = murder.node.cli("status", "--format", "tsv").stdout
    assert "suspects\t3\nreserved_too_long\t3\n" in status
    assert f"user.{user}" in status

    with murder.mupdate() as client:  # for Cyrus it is what it was
        found = client.find(f"user.{user}".encode())
        assert found is not None
        assert (found.server, found.acl) == ("be1.lab", None)
    lookup = Lookup(Path(murder.node.config["node"]["state_dir"]), NameRules())
    assert lookup.mailbox(f"user.{user}".encode(), bounces=True).verdict is Verdict.TEMPORARY
    lookup.close()

    assert murder.be1.try_create(f"user.{user}")  # its backend makes it after all
    assert suspects(murder) == names - {f"user.{user}"}
    murder.node.cli("mailbox", "delete", f"user.{other}")
    murder.node.cli("mailbox", "set", f"user.{third}", "be1.lab!default", "a l")
    assert suspects(murder) == set()
    assert "suspects\t0\nreserved_too_long\t0\n" in murder.node.cli("status", "--format", "tsv").stdout


def test_the_push_of_its_backend_settles_what_it_left(murder: Murder) -> None:
    name = f"user.{murder.user()}"
    leave_reservation(murder, name)
    wait_until(lambda: suspects(murder) == {name}, "it is marked", 30)
    murder.be1.tool("ctl_mboxlist", "-m")  # it has no such mailbox
    assert suspects(murder) == set()
    assert owner(murder, name) == ""
