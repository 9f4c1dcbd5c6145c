"""A full disk below the node of a real murder, and a node that is killed while there is no room.

CREATE gets its NO, everybody who exists is served, nothing acknowledged is lost, a node that starts on a full disk
serves what it has, and all goes on by itself when there is room again.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.full_disk import fill, use_up
from tests.faults.rig import BROKEN_OFF, MARGIN_S, Rig
from tests.harness import imap
from tests.harness.cyrus import CyrusBackend
from tests.harness.lmtp import Lmtp, message
from tests.harness.ours import ROUTER_PORT
from tests.harness.roots import Root

pytestmark = pytest.mark.faults

WAIT_S = 1.5


@pytest.fixture
def rig(root: Root, new_state: Callable[[], Path]) -> Iterator[Rig]:
    """A rig whose node's state_dir is a small file system that outlives the node."""
    state = new_state()
    disk = state / "node" / "lib"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "tmpfs", disk], check=True)
    try:
        with Rig(root, state, {"mupdate": {"write_wait_s": WAIT_S}}) as group:
            group.node.expect("event=store.commit_failed")
            for backend in group.backends:
                backend.expect(*BROKEN_OFF)
            yield group
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_murder_lives_with_a_full_disk(rig: Rig) -> None:
    users = {rig.user(): backend for backend in rig.backends}
    for user, backend in users.items():
        with backend.imap() as admin:
            imap.create(admin, f"user.{user}")
        with backend.imap(user) as connection:
            imap.ok(connection.append("INBOX", "", "", message(f"before-{user}")))
    mail = {user: rig.mail(user) for user in users}
    filler = fill(Path(rig.node.config["node"]["state_dir"]))
    with rig.mupdate() as client:
        granted = use_up(client) | use_up(client, b"", b"user.small")

    refused = newcomers(rig, users)
    everybody_is_served(rig, list(users))

    rig.supervisor.crash()
    rig.supervisor.wait_up(1)
    everybody_is_served(rig, list(users))
    with rig.mupdate() as client:
        assert {f"user.{user}".encode() for user in users} | granted <= {entry.name for entry in client.list()}
    newcomers(rig, users)

    filler.unlink()
    assert rig.be1.try_create(f"user.{refused}")
    with rig.mupdate() as client:
        for name in granted:
            client.ok(b"DELETE", name)
    rig.push(rig.be2)
    for user in users:
        assert mail.get(user, Counter()) <= rig.mail(user)
        rig.all_agree(user)
    rig.all_agree(refused)


def newcomers(rig: Rig, users: dict[str, CyrusBackend]) -> str:
    """Create users until one is refused, and return that one; pages of the store that are free take some more."""
    for _ in range(50):
        user = rig.user()
        create = rig.pool.submit(rig.be1.try_create, f"user.{user}")
        if not create.result(WAIT_S + MARGIN_S):
            with rig.be1.imap() as admin:
                assert imap.listed(admin, f"user.{user}") == set()
            return user
        users[user] = rig.be1
    raise AssertionError("everybody fits")


def everybody_is_served(rig: Rig, users: list[str]) -> None:
    for port, address in ((2003, rig.fe.address), (ROUTER_PORT, rig.router.address)):
        with Lmtp(address, port) as client:
            result = client.deliver("a@example.net", [f"{user}@example.org" for user in users], message(f"full-{port}"))
        assert [reply.code for reply in result.final] == [250] * len(users)
