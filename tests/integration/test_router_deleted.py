"""Is a mailbox that was deleted made anew by mail, where backends make mailboxes for mail (``autocreate_post``)?

A RENAME that was cut off behind its DELETE looks like a deletion, and the backend is asked before its mail is bounced:
to a real lmtpd with ``autocreate_post: yes`` the question itself is a reason to make the mailbox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cyrusext.lookup import RECENTLY_DELETED_S
from cyrusext.store import Store
from tests.harness import imap
from tests.harness.lmtp import Lmtp
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.topology import Delivery

pytestmark = pytest.mark.integration

AGE_US = int((RECENTLY_DELETED_S + 60) * 1e6)


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[Delivery]:
    extra = {"autocreate_post": "yes", "autocreate_quota": "0", "delete_mode": "delayed"}
    with Delivery(root, new_state(), postfix=False, extra=extra) as delivery:
        yield delivery


def grow_old(group: Delivery) -> None:
    """Make all that the node knows two minutes older."""
    group.node.stop()
    with Store.open(group.node.state / "lib", run_dir=group.node.state / "run") as store:
        records = store.chunk(limit=1000, tombstones=True)
        with store.begin() as transaction:
            for record in records:
                transaction.put(record._replace(changed_at=record.changed_at - AGE_US))
    group.node.start()
    group.router.restart()


def rcpt(group: Delivery, user: str) -> str:
    with Lmtp(group.router.address, ROUTER_PORT) as client:
        client.command("MAIL FROM:<>")
        return client.command(f"RCPT TO:<{user}@example.org>").text


def is_there(group: Delivery, user: str) -> bool:
    with group.be1.imap() as admin:
        return bool(imap.listed(admin, f"user.{user}"))


def test_who_was_deleted_stays_deleted_and_who_was_renamed_as_it_is_configured(group: Delivery) -> None:
    deleted, renamed, stays = group.user(), group.user(), group.user()
    with group.be1.imap() as admin:
        for user in (deleted, renamed, stays):
            imap.create(admin, f"user.{user}")
        imap.ok(admin.setacl(f"user.{deleted}", "cyrus", "lrswipkxtecda"))
        imap.ok(admin.delete(f"user.{deleted}"))
        imap.ok(admin.rename(f"user.{renamed}", f"user.{renamed}new"))
    assert rcpt(group, deleted).startswith("451 4.4.3"), "it was a moment ago"
    grow_old(group)

    assert rcpt(group, deleted).startswith("550 5.1.1"), "its backend has told all of it"
    assert not is_there(group, deleted)

    group.router.config["lmtp"]["deleted_mailbox"] = "defer"
    group.router.configure()
    group.router.restart()
    assert rcpt(group, renamed).startswith("451 4.4.3")
    assert not is_there(group, renamed)
    assert rcpt(group, deleted).startswith("550 5.1.1")
    assert rcpt(group, stays).startswith("250 ")

    # What the setting is for: else nothing above could fail.
    group.router.config["lmtp"]["deleted_mailbox"] = "ask"
    group.router.configure()
    group.router.restart()
    assert rcpt(group, renamed).startswith("250 ")
    assert is_there(group, renamed)
