"""Does cyrusext.names make the same mailbox of an address as a real lmtpd with the same settings?

Each address is given to lmtpd.  What it delivers has to be in the mailbox that names says, or in a folder below it that
the detail named; what it refuses has to be one that names refuses, too, or that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from cyrusext.errors import InvalidName
from cyrusext.names import NameRules, mailbox_of_address
from tests.harness import imap
from tests.harness.cyrus import LMTP_OPEN_PORT, CyrusBackend, make_sasldb
from tests.harness.lmtp import Lmtp, message
from tests.harness.network import Network
from tests.harness.roots import Root

pytestmark = pytest.mark.integration

ADDRESSES = [
    *("alice", "Alice", "ALICE", "alice@example.org", "Alice@Example.ORG", "alice@example.net", "alice@EXAMPLE.net"),
    *("alice@example.com", "alice@sub.example.net", "alice@[127.0.0.1]", "nobody", "nobody@example.org"),
    *("alice+Lists", "alice+lists@example.org", "alice+Lists@example.org", "alice+a+b@example.org", "alice+"),
    *("alice+Lists.deep@example.org", "alice+Lists/deep@example.org", "ALICE+Lists@example.org", "alice+.x", "alice+/"),
    *("alice+nothing@example.net", "alice-x@example.org", "al.ice", "al.ice@example.org", "al^ice@example.org"),
    *("al.ice@example.net", "al.ice+Lists@example.org", ".alice", "alice.", "al..ice", "alice..", "a.l.i.c.e"),
    *('"alice"@example.org', '"alice"', '"al ice"@example.org', '"alice+Lists"@example.org', '"ali\\ce"@example.org'),
    *('"al.ice"@example.org', '"ali\\"ce"@example.org', '""@example.org', '"a@b"@example.org', '"alice@example.net"'),
    *("@relay.example:alice@example.org", "@a.example,@b.example:alice@example.org", "@relay.example:alice"),
    *("+shared.dept@example.org", "+shared.dept", "+shared/dept@example.org", "+Shared.Dept", "+shared..dept", "+."),
    *(
        "+shared.dept.",
        "+.shared.dept",
        "+shared.dept@example.net",
        "+shared.none",
        "+user.alice",
        "+",
        "+@example.org",
    ),
    *("post+shared.dept@example.org", "post+shared.dept", "POST+shared.dept", "post+shared/dept", "post", "post+"),
    *("post@example.org", "post+user.alice", "post+shared.dept@example.net", "poster+shared.dept"),
    *("alice!x", "example.net!alice", "example.net!user.alice", "+example.net!user.alice", "+example.net!shared.dept"),
    *("user.alice", "alice.Lists", "user/alice", "alice/Lists", "alice%example.org", "alice&", "alice*", "ali?ce"),
    *("+shared.b&APw-ro", "al#ice", "al'ice", "al=ice", "al{ice}", "al|ice", "al~ice", "al`ice", "al$ice", "al_ice"),
    *("x" * 64, "x" * 200 + "@example.org", "alice@" + "y" * 200 + ".example"),
]


ON_PURPOSE = {
    # The quotes are no part of the address (RFC 5321 section 4.1.2); lmtpd takes them for one and finds no mailbox.
    *((address, False) for address in ADDRESSES if address.startswith('"')),
    # A local part does not choose a domain: lmtpd delivers this to whatever domain it names.
    *((address, True) for address in ("+example.net!user.alice", "+example.net!shared.dept")),
}
"""Addresses that we do not read as lmtpd does, and whether it is we who refuse them."""


CRASH = (r"assertion failed: imap/mailbox.c: \d+: listitem", r"name:lmtpopen .*exited, status 70")
"""lmtpd's own end at a default domain in capitals."""


class Site(NamedTuple):
    """One way to set up names, in imapd.conf's words and in ours."""

    settings: Mapping[str, str]
    rules: NameRules
    mailboxes: tuple[str, ...]


PLAIN = Site({}, NameRules(), ("user.alice", "user.alice.Lists", "user.al ice", "shared", "shared.dept", "user.post"))
POSTUSER = Site(
    {"unixhierarchysep": "yes", "postuser": "post"},
    NameRules(unix_hierarchy_separator=True, postuser="post"),
    ("user/alice", "user/alice/Lists", "user/alice/Lists/deep", "user/al.ice", "shared", "shared/dept", "user/post"),
)
DOMAINS = Site(
    {"virtdomains": "userid", "defaultdomain": "example.org"},
    NameRules(virtdomains=True, default_domain="example.org"),
    (
        *("user.alice", "user.alice.Lists", "user.alice@example.net", "user.alice.nothing@example.net"),
        *("shared", "shared.dept", "shared@example.net", "shared.dept@example.net", "user.post"),
    ),
)
CASES = Site(
    {
        "virtdomains": "userid",
        "defaultdomain": "example.org",
        "unixhierarchysep": "yes",
        "postuser": "post",
        "lmtp_downcase_rcpt": "no",
    },
    NameRules(True, "example.org", unix_hierarchy_separator=True, postuser="post", downcase=False),
    (
        *("user/alice", "user/al.ice", "user/al.ice@example.net", "user/alice@example.net"),
        *("shared", "shared/dept", "shared@example.net", "shared/dept@example.net", "user/post"),
    ),
)
SITES = {"plain": PLAIN, "postuser": POSTUSER, "domains": DOMAINS, "cases": CASES}


def internal(name: str, site: Site) -> bytes:
    """The mailbox's own name, by Cyrus' rules written once more: dots of a unix name are ^, a domain is in front."""
    path, _, domain = name.partition("@")
    if site.rules.unix_hierarchy_separator:
        path = path.replace(".", "^").replace("/", ".")
    return (f"{domain}!{path}" if domain else path).encode()


class Lone(CyrusBackend):
    """A Cyrus server that knows no murder."""

    def settings(self) -> dict[str, str]:
        return {}

    def starts(self) -> dict[str, str]:
        return {"recover": "ctl_cyrusdb -r"}


def made_by_us(address: str, site: Site) -> bytes | None:
    try:
        return mailbox_of_address(address.encode(), site.rules)
    except InvalidName:
        return None


@pytest.mark.parametrize("name", SITES)
def test_the_same_mailbox_as_lmtpd(name: str, root: Root, new_state: Callable[[], Path]) -> None:
    site, state, network = SITES[name], new_state(), Network()
    server = Lone("be1.lab", network.address(11), state / "be1", root, extra=site.settings)
    server.configure({"be1.lab": server.address}, make_sasldb(root, state / "sasl", ["be1.lab"]))
    server.expect(*CRASH)
    try:
        server.start()
        with server.imap() as admin:
            for mailbox in site.mailboxes:
                imap.create(admin, f'"{mailbox}"')
                imap.ok(admin.setacl(f'"{mailbox}"', "anyone", "p"))
        known = {internal(mailbox, site) for mailbox in site.mailboxes}
        differ, delivered, crashes = [], 0, 0
        for number, address in enumerate(ADDRESSES):
            ours = made_by_us(address, site)
            with Lmtp(server.address, LMTP_OPEN_PORT) as client:  # lmtpd hangs up after some errors
                said = client.deliver("a@example.net", [address], message(f"n{number}")).final[0]
            if said.code == 421:  # an assertion of lmtpd's own: it says nothing of the address
                crashes += 1
                continue
            if said.code == 250:
                delivered += 1
                theirs = arrived(server, f"n{number}")
                agree = ours is not None and (theirs == ours or theirs.startswith(ours + b"."))
            else:
                theirs = said.text.encode()
                agree = ours not in known
            if not agree and (address, ours is None) not in ON_PURPOSE:
                differ.append((address, ours, theirs))
        assert crashes < 3
        assert not differ, "\n".join(map(str, differ))
        assert delivered > 10
        server.close()
    finally:
        server.kill()
        network.close()


def arrived(server: Lone, subject: str) -> bytes:
    """In which mailbox: lmtpd says so before its reply, 3.10 in other words than 3.6."""
    there = rf"Delivered: .*<{subject}@client.lab>(?: to mailbox: |.* mailbox=<)(?P<name>[^>\n]*)"
    server.wait_log(there)
    found = next(match["name"] for line in server.log_lines() if (match := re.search(there, line)))
    return found.strip().encode()
