"""Known answers for mailbox names; the expected values are what Cyrus 3.6 makes of the same input."""

from __future__ import annotations

import pytest

from cyrusext.errors import InvalidName
from cyrusext.names import (
    NameRules,
    from_external,
    inbox_of_user,
    is_inbox,
    mailbox_of_address,
    to_external,
    user_of_mailbox,
)

PLAIN = NameRules()
DOMAINS = NameRules(virtdomains=True, default_domain="example.org")
SLASH = NameRules(unix_hierarchy_separator=True)
SLASH_DOMAINS = NameRules(virtdomains=True, default_domain="example.org", unix_hierarchy_separator=True)


@pytest.mark.parametrize(
    ("address", "rules", "mailbox"),
    [
        (b"alice", PLAIN, b"user.alice"),
        (b"alice@example.org", PLAIN, b"user.alice"),
        (b"<alice@example.org>", PLAIN, b"user.alice"),
        (b"Alice@Example.ORG", PLAIN, b"user.alice"),
        (b"Alice@Example.ORG", NameRules(downcase=False), b"user.Alice"),
        (b"alice+Lists@example.org", PLAIN, b"user.alice"),
        (b"alice+a+b@example.org", PLAIN, b"user.alice"),
        (b"alice+@example.org", PLAIN, b"user.alice"),
        (b"alice-x@example.org", NameRules(recipient_delimiter="+-"), b"user.alice"),
        (b"alice+x@example.org", NameRules(recipient_delimiter=""), b"user.alice+x"),
        (b"al.ice@example.org", PLAIN, b"user.al^ice"),
        (b"al.ice@example.org", SLASH, b"user.al^ice"),
        (b"al^ice@example.org", PLAIN, b"user.al^ice"),
        (b'"alice"@example.org', PLAIN, b"user.alice"),
        (b'"al ice"@example.org', PLAIN, b"user.al ice"),
        (b'"al\\"i\\\\ce"@example.org', PLAIN, b'user.al"i\\ce'),
        (b'"a@b"@example.org', PLAIN, b"user.a@b"),
        (b'"alice+x"@example.org', PLAIN, b"user.alice"),
        (b"@relay.example,@b.example:alice@example.org", PLAIN, b"user.alice"),
        (b"<@relay.example:alice@example.org>", PLAIN, b"user.alice"),
        (b"alice@[192.0.2.1]", PLAIN, b"user.alice"),
        ("jörg@example.org".encode(), PLAIN, "user.jörg".encode()),
        (b"alice@example.org", DOMAINS, b"user.alice"),
        (b"alice@EXAMPLE.org", NameRules(True, "Example.org", downcase=False), b"user.alice"),
        (b"alice@example.net", DOMAINS, b"example.net!user.alice"),
        (b"Alice@Example.NET", DOMAINS, b"example.net!user.alice"),
        (b"alice", DOMAINS, b"user.alice"),
        (b"+shared.dept@example.org", PLAIN, b"shared.dept"),
        (b"+shared.dept@example.org", SLASH, b"shared^dept"),
        (b"+shared/dept@example.org", SLASH, b"shared.dept"),
        (b"+Shared..Dept.@example.org", PLAIN, b"Shared.Dept"),
        (b"post+shared.dept@example.net", NameRules(postuser="post"), b"shared.dept"),
        (b"POST+shared.dept", NameRules(postuser="post"), b"shared.dept"),
        (b"+shared.dept@example.net", DOMAINS, b"example.net!shared.dept"),
        ("+büro.r&d".encode(), PLAIN, b"b&APw-ro.r&-d"),
        ("+日本".encode(), PLAIN, b"&ZeVnLA-"),
    ],
)
def test_address_to_mailbox(address: bytes, rules: NameRules, mailbox: bytes) -> None:
    assert mailbox_of_address(address, rules) == mailbox


@pytest.mark.parametrize(
    "address",
    [
        b"",
        b"<>",
        b"@example.org",
        b"+@example.org",
        b"+...@example.org",
        b"alice@",
        b"<alice@example.org",
        b"alice@example.org>",
        b"al ice@example.org",
        b"a@b@example.org",
        b"al(ice)@example.org",
        b'"alice@example.org',
        b'"alice"x@example.org',
        b'"alice\\',
        b'"ali\rce"@example.org',
        b'"ali\0ce"@example.org',
        b"@relay.example",
        b"@:alice@example.org",
        b"x@relay:alice@example.org",
        b"alice@exa!mple.org",
        b"alice@exa mple.org",
        b"ali\r\nce@example.org",
        b"a" * 500,
        b"+\xff@example.org",
    ],
)
def test_address_refused(address: bytes) -> None:
    with pytest.raises(InvalidName):
        mailbox_of_address(address, PLAIN)


@pytest.mark.parametrize("address", [b"post@example.net", b"POST", b"post+@example.net", b"post+.@example.net"])
def test_the_postuser_is_nobody(address: bytes) -> None:
    """As lmtpd has it: a mailbox user.post gets no mail."""
    with pytest.raises(InvalidName, match="neither a user nor a shared mailbox"):
        mailbox_of_address(address, NameRules(postuser="post"))


def test_a_local_part_can_not_name_another_domain() -> None:
    assert mailbox_of_address(b"+example^net!user.bob", PLAIN) == b"example^net!user.bob"
    for address in (b"x!bob@example.org", b"+example^net!user.bob@example.org"):
        with pytest.raises(InvalidName, match="ends the domain"):
            mailbox_of_address(address, DOMAINS)


def test_a_folder_in_an_address_stays_within_490_bytes() -> None:
    assert len(mailbox_of_address(b"a" * 485, PLAIN)) == 490
    with pytest.raises(InvalidName, match="490"):
        mailbox_of_address(b"a" * 486, PLAIN)


@pytest.mark.parametrize(
    ("internal", "rules", "external"),
    [
        (b"user.alice", PLAIN, b"user.alice"),
        (b"user.al^ice.Sent", PLAIN, b"user.al^ice.Sent"),
        (b"user.al^ice.Sent", SLASH, b"user/al.ice/Sent"),
        (b"shared.dept", SLASH, b"shared/dept"),
        (b"DELETED.user.alice.job.6B047356", SLASH, b"DELETED/user/alice/job/6B047356"),
        (b"example.net!user.alice.Sent", DOMAINS, b"user.alice.Sent@example.net"),
        (b"example.net!user.al^ice", SLASH_DOMAINS, b"user/al.ice@example.net"),
        (b"example.net!shared.dept", SLASH_DOMAINS, b"shared/dept@example.net"),
        (b"user.alice", SLASH_DOMAINS, b"user/alice"),
        (b"example.net!user.alice", PLAIN, b"example.net!user.alice"),
        (b"user.alice.\xff\xfe", SLASH, b"user/alice/\xff\xfe"),
    ],
)
def test_internal_and_external(internal: bytes, rules: NameRules, external: bytes) -> None:
    assert to_external(internal, rules) == external
    assert from_external(external, rules) == internal


def test_the_default_domain_is_not_written() -> None:
    assert to_external(b"example.org!user.alice", DOMAINS) == b"user.alice"
    assert from_external(b"user.alice@Example.ORG", DOMAINS) == b"user.alice"


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (b"", PLAIN),
        (b"user..alice", PLAIN),
        (b"user.alice.", PLAIN),
        (b"user/alice", PLAIN),
        (b"user/al^ice", SLASH),
        (b"INBOX", PLAIN),
        (b"inbox/Sent", SLASH),
        (b"user.a\nb", PLAIN),
        (b"user.alice@exa!mple", DOMAINS),
        (b"example.net!user.alice", DOMAINS),
    ],
)
def test_external_refused(text: bytes, rules: NameRules) -> None:
    with pytest.raises(InvalidName):
        from_external(text, rules)


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        (b"user.a/b", PLAIN),
        (b"user.a/b", SLASH),
        (b"user.a@b", DOMAINS),
        (b"user..a", PLAIN),
        (b"INBOX.x", PLAIN),
    ],
)
def test_no_external_form(name: bytes, rules: NameRules) -> None:
    with pytest.raises(InvalidName, match="no external form"):
        to_external(name, rules)


def test_users() -> None:
    assert inbox_of_user(b"al.ice", PLAIN) == b"user.al^ice"
    assert inbox_of_user(b"alice@example.net", DOMAINS) == b"example.net!user.alice"
    assert inbox_of_user(b"alice@example.org", DOMAINS) == b"user.alice"
    assert inbox_of_user(b"alice@example.org", NameRules(default_domain="example.org")) == b"user.alice"
    assert user_of_mailbox(b"user.al^ice.Sent", PLAIN) == b"al.ice"
    assert user_of_mailbox(b"example.net!user.alice", DOMAINS) == b"alice@example.net"
    assert user_of_mailbox(b"shared.dept", PLAIN) is None
    assert user_of_mailbox(b"DELETED.user.alice.6B047356", PLAIN) is None
    assert is_inbox(b"user.alice", PLAIN)
    assert is_inbox(b"example.net!user.alice", DOMAINS)
    assert not is_inbox(b"user.alice.Sent", PLAIN)
    assert not is_inbox(b"user", PLAIN)


@pytest.mark.parametrize("user", [b"", b"@example.org", b"alice@example.net"])
def test_users_refused(user: bytes) -> None:
    with pytest.raises(InvalidName):
        inbox_of_user(user, PLAIN)
