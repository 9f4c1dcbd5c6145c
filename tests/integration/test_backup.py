"""Backup, restore, a lost store, another version: the commands of their pages, on a real murder.

What a restored store has forgotten must cost nobody a mailbox, in whatever order the backends push.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.cyrus import LMTP_PORT, LOSES_MASTER, MUPDATE_PORT
from tests.harness.lmtp import Lmtp, message
from tests.harness.mupdate import Mupdate
from tests.harness.network import Network
from tests.harness.old_store import WALK, unpack
from tests.harness.ours import Node
from tests.harness.roots import Root
from tests.harness.runbook import CyrusMachine, NodeMachine, Runbook, section
from tests.harness.sandbox import CHECKOUT
from tests.harness.topology import Murder
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration

BACKUP = CHECKOUT / "docs/operations/backup.md"
UPGRADE = CHECKOUT / "docs/operations/upgrade.md"


def node_machine(node: Node) -> NodeMachine:
    places = {
        "/var/lib/cyrusext": node.config["node"]["state_dir"],
        "/var/backups": str(node.state / "backups"),
        "/etc/cyrusext/cyrusext.toml": str(node.config_file),
        "10.0.0.30:3905": f"{node.address}:{MUPDATE_PORT}",
    }
    return NodeMachine(node, {}, places)


class Site:
    """A murder of ours and the page; its two backends have what the store may have forgotten."""

    def __init__(self, root: Root, state: Path) -> None:
        self.murder = Murder(root, state, "ours")
        murder = self.murder
        for server in (murder.be1, murder.be2, murder.fe):
            server.expect(*LOSES_MASTER, r"mupdate.*NO", r"refilled")
        machines = {"be1": CyrusMachine(murder.be1, {}), "be2": CyrusMachine(murder.be2, {})}
        self.page = Runbook(BACKUP, {**machines, "node": node_machine(murder.node)})

    def local(self) -> dict[str, str]:
        """What the two backends really have: name -> server."""
        found: dict[str, str] = {}
        for backend in (self.murder.be1, self.murder.be2):
            for name, entry in json.loads(backend.tool("ctl_mboxlist", "-d")).items():
                if "d" not in entry["mbtype"]:
                    assert name not in found, f"{name} is on both"
                    found[name] = backend.name
        return found

    def recorded(self) -> dict[str, str]:
        """What the node says, with what is told to a client that asks for one mailbox."""
        with self.murder.mupdate() as client:
            return {entry.name.decode(): entry.server for entry in client.list()}

    def create(self, *users: str) -> None:
        for user in users:
            backend = self.murder.be1 if user.startswith("one") else self.murder.be2
            with backend.imap() as admin:
                imap.create(admin, f"user.{user}")
                imap.create(admin, f"user.{user}.Sent")

    def live_on(self) -> None:
        """What happens after the backup: made, moved both ways, renamed, deleted."""
        murder = self.murder
        self.create("one_new", "two_new")
        with murder.be1.imap() as admin:
            imap.xfer(admin, "user.one_moves", "be2.lab")
            imap.ok(admin.rename("user.one_stays.Sent", "user.one_stays.Gone"))
            imap.delete(admin, "user.one_gone.Sent")
        with murder.be2.imap() as admin:
            imap.xfer(admin, "user.two_moves", "be1.lab")
        murder.frontend_sees(
            lambda known: (
                known.get("user.two_moves") is not None
                and known["user.two_moves"].location.startswith("be1.lab")
                and {"user.one_new", "user.two_new.Sent"} <= known.keys()
                and "user.one_gone.Sent" not in known
            ),
            "all of it",
        )

    def deliver(self, *users: str) -> None:
        with Lmtp(self.murder.hosts["fe.lab"], LMTP_PORT) as client:
            result = client.deliver("sender@example.net", list(users), message("hello"))
        assert [reply.code for reply in result.final] == [250] * len(users), result

    def while_refilling(self, known: set[str]) -> None:
        """Nobody is told what may be wrong: the frontend keeps its list, and nothing is absent."""
        node, fe = self.murder.node, self.murder.fe
        node.wait_log(r"event=mupdate.update_refused", timeout_s=30)
        assert set(fe.mailboxes()) == known
        self.deliver("one_new", "two_moves")
        assert node.cli("lookup", "user.nobody", check=False).returncode == 75
        early = node.cli("refill", "end", check=False)
        assert (early.returncode, "be1.lab, be2.lab" in early.stderr) == (1, True), early.stderr

    def is_whole(self, before: dict[str, str]) -> None:
        """Every mailbox is where it was, and everybody knows it."""
        murder = self.murder
        assert self.local() == before
        assert self.recorded() == before
        murder.frontend_sees(
            lambda known: {name: known[name].location.partition("!")[0] for name in known} == before, "the list", 30
        )
        with murder.be1.imap() as admin:
            imap.xfer(admin, "user.two_moves", "be2.lab")
        assert murder.node.cli("lookup", "user.nobody", check=False).returncode == 1


@pytest.fixture
def site(root: Root, new_state: Callable[[], Path]) -> Iterator[Site]:
    site = Site(root, new_state())
    with site.murder:
        site.create("one_stays", "one_gone", "one_moves", "two_stays", "two_moves")
        yield site


def test_a_restored_backup(site: Site) -> None:
    site.page.run("Taking one")
    site.live_on()
    before = site.local()
    site.page.run("Restore")
    assert site.recorded() != before
    site.while_refilling(set(before))
    site.murder.node.restart()  # it goes on with the refill
    site.page.run("Push")
    site.page.run("End")
    site.is_whole(before)


def test_a_lost_store(site: Site) -> None:
    site.live_on()
    before = site.local()
    site.page.run("Begin empty")
    assert site.recorded() == {}
    node = site.murder.node
    node.wait_log(r"event=mupdate.update_refused", timeout_s=30)
    assert set(site.murder.fe.mailboxes()) == set(before)
    site.page.run("Push")
    site.page.run("End")
    site.is_whole(before)


def test_every_block_is_run() -> None:
    titles = {
        BACKUP: ["Taking one", "Putting one back", "Without a backup"],
        UPGRADE: ["Upgrade", "Downgrade"],
    }
    for page, run in titles.items():
        assert sum(section(page, title)[0].count("```sh ") for title in run) == page.read_text().count("```sh ")


@pytest.fixture
def node(new_state: Callable[[], Path]) -> Iterator[Node]:
    network = Network()
    node = Node(network.address(10), new_state(), {}, {"log": {"level": "info"}})
    node.configure()
    try:
        yield node
        node.close()
    finally:
        node.kill()
        network.close()


def test_upgrade_and_downgrade(node: Node) -> None:
    state = Path(node.config["node"]["state_dir"])
    unpack(state)
    page = Runbook(UPGRADE, {"node": node_machine(node)})
    node.start()
    page.run("Upgrade")
    assert len([line for line in node.log_lines() if re.search(r"event=store.upgraded .*from_format=1", line)]) == 1
    walk = page.machines["node"].run(f"cyx walk {state}")
    assert walk.encode() == WALK.read_bytes() or len(walk.splitlines()) == 57
    names = [line.split("\t")[0] for line in walk.splitlines()]
    node.ready = lambda: b"event=node.ready" in node.log.read_bytes()[mark:]  # type: ignore[method-assign]
    mark = node.mark()
    page.run("Downgrade")
    listed = node.cli("mailbox", "list", "--format", "tsv").stdout.splitlines()
    assert len(listed) == len(names) == 57
    assert list(state.glob("store.newer"))


def test_a_backup_under_load_has_what_was_acknowledged_before(node: Node) -> None:
    node.start()
    acknowledged = [0]
    stop = threading.Event()

    def write() -> None:
        with Mupdate(node.address) as client:
            while not stop.is_set():
                client.ok(b"ACTIVATE", b"user.u%06d" % acknowledged[0], b"be1!default", b"anyone\tlrs\t")
                acknowledged[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    machine = node_machine(node)
    try:
        wait_until(lambda: acknowledged[0] > 200, "some changes")
        for number in range(3):
            copy = node.state / f"copy{number}"
            before = acknowledged[0]
            node.cli("backup", "create", str(copy))
            assert {path.name for path in copy.rglob("*")} == {"store", "data.mdb"}
            assert machine.run(f"cyx verify {copy}") == ""
            walked = machine.run(f"cyx walk {copy}").splitlines()
            assert before <= len(walked) <= acknowledged[0] + 1
            assert [line.split("\t")[0] for line in walked] == [f"user.u{n:06d}" for n in range(len(walked))]
            again = node.cli("backup", "create", str(copy), check=False)
            assert (again.returncode, "exists already" in again.stderr) == (1, True)
    finally:
        stop.set()
        writer.join()
    running = node.cli("backup", "restore", str(copy), check=False)
    assert (running.returncode, "stop it first" in running.stderr) == (1, True)
