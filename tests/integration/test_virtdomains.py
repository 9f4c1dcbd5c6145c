"""Do virtual domains work from end to end: backends with ``virtdomains: userid``, our node, a frontend, our router?

On the wire a mailbox of another domain is ``example.org!user.alice``; the default domain's has no prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.lmtp import Lmtp, Result, message
from tests.harness.ours import ROUTER_PORT, Router
from tests.harness.roots import Root
from tests.harness.topology import ROUTER_HOST, Murder

pytestmark = pytest.mark.integration

DEFAULT = "lab.example"


class VirtualMurder(Murder):
    """A murder with virtual domains, and our router beside its frontend."""

    def __init__(self, root: Root, state: Path) -> None:
        super().__init__(
            root,
            state,
            "ours",
            extra={"virtdomains": "userid", "defaultdomain": DEFAULT},
            config={"names": {"virtdomains": True, "default_domain": DEFAULT}},
        )
        self.router = Router(self.network.address(ROUTER_HOST), state / "router", self.node)
        self.router.configure()
        self.servers.append(self.router)

    def create(self, user: str) -> None:
        """Users of example.org live on be1, all others on be2."""
        backend = self.be1 if user.endswith("@example.org") else self.be2
        with backend.imap() as admin:
            imap.create(admin, f"user.{user}")

    def deliver(self, recipients: list[str], text: bytes) -> Result:
        with Lmtp(self.router.address, ROUTER_PORT) as client:
            return client.deliver("a@example.net", recipients, text)


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[VirtualMurder]:
    with VirtualMurder(root, new_state()) as murder:
        yield murder


def test_the_same_name_in_three_domains_is_three_mailboxes(group: VirtualMurder) -> None:
    name = group.user()
    for domain in ("example.org", "example.com", DEFAULT):
        group.create(f"{name}@{domain}")
    with group.mupdate() as client:
        locations = {
            key: entry.server if (entry := client.find(key.encode())) else ""
            for key in (f"example.org!user.{name}", f"example.com!user.{name}", f"user.{name}")
        }
    assert list(locations.values()) == ["be1.lab", "be2.lab", "be2.lab"]
    group.frontend_sees(lambda known: locations.keys() <= known.keys(), "all three")
    result = group.deliver([f"{name}@example.org", f"{name}@example.com", f"{name}@{DEFAULT}"], message("three"))
    assert [reply.code for reply in result.final] == [250, 250, 250], result
    for backend, user in (
        (group.be1, f"{name}@example.org"),
        (group.be2, f"{name}@example.com"),
        (group.be2, name),
    ):
        with backend.imap(user) as connection:
            assert len(imap.messages(connection)) == 1


def test_router_and_frontend_agree_on_who_is_who(group: VirtualMurder) -> None:
    name = group.user()
    group.create(f"{name}@example.org")
    group.frontend_sees(lambda known: f"example.org!user.{name}" in known, name)
    recipients = [f"{name}@example.org", f"{name}@example.com", name, f"{name}@{DEFAULT}", f"{name}@EXAMPLE.ORG"]
    ours = group.deliver(recipients, message("ours"))
    with Lmtp(group.fe.address, 2003) as client:
        theirs = client.deliver("a@example.net", recipients, message("theirs"))
    assert [reply.code for reply in ours.rcpt] == [reply.code for reply in theirs.rcpt] == [250, 550, 550, 550, 250]


def test_folders_renames_and_moves_keep_the_domain(group: VirtualMurder) -> None:
    name = group.user()
    user = f"{name}@example.org"
    group.create(user)
    with group.be1.imap() as admin:
        imap.create(admin, f"user.{name}.old@example.org")
        imap.ok(admin.rename(f"user.{name}.old@example.org", f"user.{name}.new@example.org"))
        with group.mupdate() as client:
            assert client.find(f"example.org!user.{name}.old".encode()) is None
            assert client.find(f"example.org!user.{name}.new".encode()) is not None
        imap.xfer(admin, f"user.{user}", "be2.lab")
    group.frontend_sees(
        lambda known: all(
            known[key].location == "be2.lab!default"
            for key in (f"example.org!user.{name}", f"example.org!user.{name}.new")
        ),
        "the user on be2",
    )
    assert group.deliver([user], message("moved")).final[0].code == 250
    with group.be2.imap(user) as connection:
        assert len(imap.messages(connection)) == 1


def test_the_order_of_domains_survives_push_and_resync(group: VirtualMurder) -> None:
    """Domains that are prefixes of each other are where a wrong order makes clients delete entries."""
    name = group.user()
    domains = ["a.example", "a.example.org", "a.example-b", "a-b.example", "a.exampl"]
    with group.be2.imap() as admin:
        for domain in domains:
            imap.create(admin, f"user.{name}@{domain}")
            imap.create(admin, f"user.{name}-x@{domain}")
    names = {f"{domain}!user.{name}{suffix}" for domain in domains for suffix in ("", "-x")}
    group.frontend_sees(lambda known: names <= known.keys(), "all domains")
    assert group.be2.tool("ctl_mboxlist", "-m", "-w").strip() == ""
    group.fe.stop()
    with group.be2.imap() as admin:
        imap.delete(admin, f"user.{name}@a.example")
        imap.create(admin, f"user.{name}.f@a.example-b")
    group.be2.tool("ctl_mboxlist", "-m")
    group.fe.start()
    wanted = names - {f"a.example!user.{name}"} | {f"a.example-b!user.{name}.f"}
    group.frontend_sees(
        lambda known: wanted <= known.keys() and f"a.example!user.{name}" not in known, "what there is", 5
    )
