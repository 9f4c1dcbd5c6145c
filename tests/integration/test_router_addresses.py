"""Does an address that Cyrus takes reach the same mailbox through our router, and is one that it refuses refused?

Each form is said to the lmtpd of a real backend, and to the router in front of it: both have to accept it or both have
to refuse it, and what is accepted has to be in the mailbox that the address means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness import imap
from tests.harness.lmtp import Lmtp, Reply, message
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root
from tests.harness.topology import Delivery

pytestmark = pytest.mark.integration

LMTPD_PORT = 2004
POSTUSER = "bb"


class Users(NamedTuple):
    """The mailboxes of this module; `shared` belongs to nobody."""

    plain: str
    shared: str


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[Delivery]:
    extra = {"postuser": POSTUSER, "lmtp_downcase_rcpt": "yes"}
    config = {"names": {"postuser": POSTUSER}}
    with Delivery(root, new_state(), extra=extra, config=config, postfix=False) as delivery:
        yield delivery


@pytest.fixture(scope="module")
def users(group: Delivery) -> Users:
    users = Users(group.user(), f"shared{group.user()}")
    with group.be2.imap() as admin:
        imap.create(admin, f"user.{users.plain}")
        imap.create(admin, f"user.{users.plain}.work")
        imap.ok(admin.setacl(f"user.{users.plain}.work", "anyone", "p"))
        imap.create(admin, f"{users.shared}.dept")
        imap.ok(admin.setacl(f"{users.shared}.dept", "anyone", "lrp"))
        imap.create(admin, "user.postmaster")
    return users


FORMS = {
    "plain": "<{u}@example.org>",
    "no domain": "<{u}>",
    "upper case": "<{U}@EXAMPLE.ORG>",
    "upper case domain": "<{u}@Example.ORG>",
    "source route": "<@a.example,@b.example:{u}@example.org>",
    "one hop": "<@a.example:{u}@example.org>",
    "address literal": "<{u}@[127.0.0.1]>",
    "IPv6 literal": "<{u}@[IPv6:::1]>",
    "detail that is no folder": "<{u}+nothing@example.org>",
    "empty detail": "<{u}+@example.org>",
    "postmaster": "<postmaster>",
    "Postmaster": "<Postmaster>",
    "postmaster with a domain": "<postmaster@example.org>",
    "postuser, no folder": "<bb+{s}.none@example.org>",
    "postuser alone": "<bb@example.org>",
    "postuser, empty": "<bb+@example.org>",
    "nobody": "<nobody{u}@example.org>",
    "nobody, quoted": '<"nobody {u}"@example.org>',
    "blank in front": "< {u}@example.org>",
    "blank behind": "<{u}@example.org >",
    "no brackets": "{u}@example.org",
    "empty": "<>",
    "no local part": "<@example.org>",
    "two @": "<{u}@example.org@example.net>",
    "quotes not closed": '<"{u}@example.org>',
    "not ASCII": "<\u00fc{u}@example.org>",
    "a wildcard": "<{u}*@example.org>",
    "a percent sign": "<{u}%example.org@example.net>",
    "a slash": "<{u}/work@example.org>",
    "an exclamation mark": "<example.org!{u}@example.net>",
}

QUOTED = {
    "quoted": '<"{u}"@example.org>',
    "quoted pair": '<"\\{u}"@example.org>',
    "quoted detail": '<"{u}+work"@example.org>',
}
"""Forms that mean the user (RFC 5321 section 4.1.2), and that Cyrus takes for another."""

PLACES = {
    "plain": ("<{u}@example.org>", "INBOX"),
    "upper case": ("<{U}@EXAMPLE.ORG>", "INBOX"),
    "source route": ("<@a.example:{u}@example.org>", "INBOX"),
    "address literal": ("<{u}@[127.0.0.1]>", "INBOX"),
    "quoted": ('<"{u}"@example.org>', "INBOX"),
    "detail": ("<{u}+work@example.org>", "INBOX.work"),
    "quoted detail": ('<"{u}+work"@example.org>', "INBOX.work"),
    "detail that is no folder": ("<{u}+nothing@example.org>", "INBOX"),
    "postuser": ("<bb+{s}.dept@example.org>", "{s}.dept"),
    "postuser in upper case": ("<BB+{s}.dept@example.org>", "{s}.dept"),
}


def rcpt(address: str, port: int, path: str) -> Reply:
    with Lmtp(address, port) as client:
        assert client.command("MAIL FROM:<a@example.net>").code == 250
        return client.command(f"RCPT TO:{path}")


def written(form: str, users: Users) -> str:
    return form.format(u=users.plain, U=users.plain.upper(), s=users.shared)


@pytest.mark.parametrize("form", FORMS)
def test_the_router_takes_what_cyrus_takes(group: Delivery, users: Users, form: str) -> None:
    path = written(FORMS[form], users)
    theirs = rcpt(group.be2.address, LMTPD_PORT, path)
    ours = rcpt(group.router.address, ROUTER_PORT, path)
    assert ours.code // 100 == theirs.code // 100, (ours, theirs)


@pytest.mark.parametrize("form", QUOTED)
def test_quotes_that_mean_nothing_are_not_said_to_cyrus(group: Delivery, users: Users, form: str) -> None:
    path = written(QUOTED[form], users)
    assert rcpt(group.be2.address, LMTPD_PORT, path).code == 550
    assert rcpt(group.router.address, ROUTER_PORT, path).code == 250


@pytest.mark.parametrize("form", PLACES)
def test_mail_is_where_the_address_says(group: Delivery, users: Users, form: str) -> None:
    address, folder = (written(text, users) for text in PLACES[form])
    with Lmtp(group.router.address, ROUTER_PORT) as client:
        subject = f"to {form}".replace(" ", "-")
        final = client.deliver("a@example.net", [address.strip("<>")], message(subject)).final[0]
    assert final.code == 250, final
    with group.be2.imap(users.plain) as connection:
        assert any(b"Subject: " + subject.encode() in text for text in imap.messages(connection, folder))


def test_what_no_backend_offers_is_neither_offered_nor_taken(group: Delivery, users: Users) -> None:
    """Cyrus has neither DSN nor SMTPUTF8 nor CHUNKING of its own, and says so; so do we, before and after asking it."""
    with Lmtp(group.be2.address, LMTPD_PORT) as client:
        theirs = {line[4:].split(" ")[0] for line in client.capabilities.lines[1:]}
    assert theirs & {"8BITMIME", "SMTPUTF8", "DSN", "BINARYMIME"} == {"8BITMIME"}
    assert rcpt(group.router.address, ROUTER_PORT, f"<{users.plain}@example.org>").code == 250
    with Lmtp(group.router.address, ROUTER_PORT) as client:
        ours = {line[4:].split(" ")[0] for line in client.capabilities.lines[1:]}
        assert ours & {"8BITMIME", "SMTPUTF8", "DSN", "BINARYMIME"} == {"8BITMIME"}
        for parameter in ("SMTPUTF8", "RET=FULL", "ENVID=x", "PRDR"):
            assert client.command(f"MAIL FROM:<a@example.net> {parameter}").code == 555
        assert client.command("MAIL FROM:<a@example.net> BODY=8BITMIME SIZE=100").code == 250
        assert client.command(f"RCPT TO:<{users.plain}@example.org> NOTIFY=NEVER").code == 555
        assert client.command(f"RCPT TO:<{users.plain}@example.org> ORCPT=rfc822;x@example.org").code == 250
