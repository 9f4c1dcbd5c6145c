"""Do real Cyrus servers notice that the node they talk to follows another one?

The first backend talks to the node that writes; the second backend and the frontend know only the follower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.cyrus import LOSES_MASTER
from tests.harness.following import FollowedMurder, status, wait_following
from tests.harness.mupdate import Entry, Mupdate
from tests.harness.roots import Root
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def murder(root: Root, new_state: Callable[[], Path]) -> Iterator[FollowedMurder]:
    with FollowedMurder(root, new_state()) as group:
        yield group


def everywhere(murder: FollowedMurder, name: str) -> Entry | None:
    """What both nodes say of a mailbox; they must say the same, as FIND is answered only from what is current."""
    found = []
    for node in (murder.node, murder.follower):
        with Mupdate(node.address) as client:
            found.append(client.find(name.encode()))
    assert found[0] == found[1]
    return found[0]


def test_create_at_either_backend(murder: FollowedMurder) -> None:
    for backend in (murder.be1, murder.be2):
        name = f"user.{murder.user()}"
        with backend.imap() as admin:
            imap.create(admin, name)
        entry = everywhere(murder, name)
        assert entry is not None and entry.location == f"{backend.name}!default".encode()
        murder.frontend_sees(lambda known, name=name: name in known, "the mailbox")  # type: ignore[misc]


def test_a_frontend_finds_what_it_has_just_had_made_at_the_leader_s_backend(murder: FollowedMurder) -> None:
    """After a CREATE the frontend kicks its slave, whose NOOP at the follower covers what the leader has granted."""
    murder.between.delay(0.2)
    try:
        for _ in range(3):
            user = murder.user()
            with murder.fe.imap() as admin:
                imap.create(admin, f"user.{user}", "be1.lab!default")
            with murder.fe.imap(user) as connection:
                imap.ok(connection.select("INBOX"))
    finally:
        murder.between.heal()


def test_who_asked_is_remembered_on_both_nodes(murder: FollowedMurder) -> None:
    name = f"user.{murder.user()}"
    with murder.be2.imap() as admin:
        imap.create(admin, name)
    histories = [
        node.cli("mailbox", "history", name, "--format", "tsv").stdout for node in (murder.node, murder.follower)
    ]
    lines = [line.split("\t") for line in histories[0].splitlines()]
    assert [line[2] for line in lines] == ["reserve", "activate"]
    assert {line[8] for line in lines} == {f"murder@{murder.be2.address}"}
    assert histories[1].splitlines()[-1] == histories[0].splitlines()[-1]


def test_a_name_that_the_other_backend_has_is_refused(murder: FollowedMurder) -> None:
    name = f"user.{murder.user()}"
    assert murder.be1.try_create(name)
    assert not murder.be2.try_create(name)
    entry = everywhere(murder, name)
    assert entry is not None and entry.server == "be1.lab"


def test_setacl_rename_and_delete(murder: FollowedMurder) -> None:
    user = murder.user()
    inbox, old, new = f"user.{user}", f"user.{user}.work", f"user.{user}.job"
    with murder.be2.imap() as admin:
        imap.create(admin, inbox)
        imap.create(admin, old)
        imap.ok(admin.setacl(inbox, "friend", "lrs"))
        imap.ok(admin.rename(old, new))
        entry = everywhere(murder, inbox)
        assert entry is not None and b"friend\tlrs\t" in (entry.acl or b"")
        assert everywhere(murder, old) is None
        murder.frontend_sees(
            lambda known: new in known and old not in known and known[inbox].acl.get("friend") == "lrs", "all of it"
        )
        imap.ok(admin.setacl(new, "cyrus", "lrswipkxtecdan"))
        imap.ok(admin.delete(new))
    murder.be2.tool("ctl_mboxlist", "-m")  # Cyrus tells nobody of an immediate deletion before its next push
    assert everywhere(murder, new) is None
    murder.frontend_sees(lambda known: new not in known, "the deletion")


@pytest.mark.parametrize("there", [True, False], ids=["leader to follower", "follower to leader"])
def test_xfer_between_a_backend_of_the_leader_and_one_of_the_follower(murder: FollowedMurder, there: bool) -> None:
    user = murder.user()
    source, target = (murder.be1, murder.be2) if there else (murder.be2, murder.be1)
    with source.imap() as admin:
        imap.create(admin, f"user.{user}")
        imap.create(admin, f"user.{user}.Sent")
        imap.xfer(admin, f"user.{user}", target.name)
    for name in (f"user.{user}", f"user.{user}.Sent"):
        entry = everywhere(murder, name)
        assert entry is not None and entry.server == target.name
    with target.imap() as admin:
        assert imap.listed(admin, f"user.{user}*") == {f"user.{user}", f"user.{user}.Sent"}
    murder.frontend_sees(
        lambda known: known[f"user.{user}.Sent"].location.startswith(target.name), "the mailbox on its new backend"
    )


def test_a_backend_s_push_through_the_follower_removes_no_mail(murder: FollowedMurder) -> None:
    names = {f"user.{murder.user()}" for _ in range(5)}
    with murder.be2.imap() as admin:
        for name in names:
            imap.create(admin, name)
        before = imap.listed(admin)
    murder.be2.tool("ctl_mboxlist", "-m")
    with murder.be2.imap() as admin:
        assert imap.listed(admin) == before
    for name in names:
        entry = everywhere(murder, name)
        assert entry is not None and entry.server == "be2.lab"


def test_a_push_through_a_follower_that_is_cut_off_removes_no_mail(murder: FollowedMurder) -> None:
    """An operator has put the record of a mailbox right, and the follower has not heard of it.

    Its old answer would make the backend remove the only copy.  It gives none.
    """
    name = f"user.{murder.user()}"
    murder.follower.expect(r"event=mupdate\.unanswered")
    murder.be2.expect(*LOSES_MASTER, r"mupdate", r"ctl_mboxlist")
    with murder.be2.imap() as admin:
        imap.create(admin, name)
    murder.node.cli("mailbox", "set", name, "be1.lab!default", "--force")
    wait_until(lambda: everywhere(murder, name), "both nodes say be1", 10)
    murder.between.hold()
    try:
        murder.node.cli("mailbox", "set", name, "be2.lab!default", "--force")
        murder.be2.tool("ctl_mboxlist", "-m", check=False)
        with murder.be2.imap() as admin:
            assert name in imap.listed(admin)
    finally:
        murder.between.release()
    wait_following(murder.follower)
    murder.be2.tool("ctl_mboxlist", "-m")
    with murder.be2.imap() as admin:
        assert name in imap.listed(admin)
    entry = everywhere(murder, name)
    assert entry is not None and entry.server == "be2.lab"


def test_a_create_without_the_leader_is_refused_in_time_and_leaves_nothing(murder: FollowedMurder) -> None:
    user = murder.user()
    murder.node.hang()
    try:
        assert not murder.be2.try_create(f"user.{user}")
    finally:
        murder.node.resume()
    wait_following(murder.follower)
    with murder.be2.imap() as admin:
        assert imap.listed(admin, f"user.{user}") == set()
        imap.create(admin, f"user.{user}")  # and it can be repeated
    entry = everywhere(murder, f"user.{user}")
    assert entry is not None and entry.server == "be2.lab"


def test_the_follower_s_role_is_shown_and_its_operator_is_sent_to_the_leader(murder: FollowedMurder) -> None:
    shown = status(murder.follower)
    leader = ":".join(map(str, murder.between.address))
    assert (shown["role"], shown["leader"]) == ("follower", leader)
    assert (shown["follow"]["full_copies"], shown["follow"]["problem"]) == (1, "")
    assert status(murder.node)["followers"].keys() == {"node2 seq"}
    refused = murder.follower.cli("mailbox", "set", "user.nobody", "be1.lab!default", check=False)
    assert refused.returncode == 69
    assert f"this node follows {leader}, which decides" in refused.stderr


def test_a_restarted_follower_goes_on_from_the_change_log(murder: FollowedMurder) -> None:
    murder.fe.expect(r"mupdate", r"connect", r"authenticate")
    murder.follower.kill()
    name = f"user.{murder.user()}"
    with murder.be1.imap() as admin:
        imap.create(admin, name)
    murder.follower.start()
    wait_following(murder.follower)
    follow = status(murder.follower)["follow"]
    assert (follow["full_copies"], follow["resumed"]) == (0, 1)
    entry = everywhere(murder, name)
    assert entry is not None and entry.server == "be1.lab"
    murder.frontend_sees(lambda known: name in known, "what happened meanwhile", 60)
