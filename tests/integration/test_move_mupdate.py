"""Can an administrator replace the stock mupdate master by our node, and go back, by docs/operations/mupdate.md?

Its commands are run as they stand there, on a real murder with mail in it; between the steps it is looked at what its
users may do, and at the end that nobody has lost a mailbox or a message.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.accounts import own_sasldb
from tests.harness.cyrus import LMTP_PORT, LOSES_MASTER, MUPDATE_PORT
from tests.harness.lmtp import Lmtp, message
from tests.harness.ours import Node
from tests.harness.roots import Root
from tests.harness.runbook import CyrusMachine, NodeMachine, Runbook, section
from tests.harness.sandbox import CHECKOUT
from tests.harness.topology import Murder
from tests.harness.waiting import accepts

pytestmark = pytest.mark.integration

PAGE = CHECKOUT / "docs/operations/mupdate.md"
ODD = ["a'b", "B&APw-ro &- x", "a-b", "a.b", "a0", "a+b", "(x)", "q~$", "Sent"]
REHEARSAL = "127.0.0.1:3906"
"""Where the page lets the node listen first."""


class MovingNode(Node):
    """A node whose address is what its configuration file says at the moment, since the page edits it."""

    def place(self) -> tuple[str, int]:
        listen = re.search(r'listen = \["([^"]+):(\d+)"\]', self.config_file.read_text())
        assert listen is not None
        return listen[1], int(listen[2])

    def ready(self) -> bool:
        return accepts(*self.place())


class Move:
    """A murder with a stock master and mailboxes of many kinds, a node beside it, and the page."""

    def __init__(self, root: Root, state: Path, *, same_address: bool) -> None:
        self.murder = murder = Murder(root, state, "stock")
        hosts = murder.hosts
        toml = re.search(r"^```toml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
        assert toml is not None
        config = tomllib.loads(toml[1])
        assert config["mupdate"]["listen"] == [REHEARSAL]
        address = hosts["mup.lab" if same_address else "node.lab"]
        rehearsal = f"{murder.network.address(31)}:3906"
        sasldb = state / "node-sasldb2"
        config["mupdate"] |= {"listen": [rehearsal], "sasldb_path": str(sasldb)}
        self.node = MovingNode(address, state / "node", {}, config, name=config["node"].pop("name"))
        del self.node.config["mupdate"]["password_file"]
        self.node.configure()

        def password(words: list[str]) -> None:
            assert words == ["-c", "-u", "mup.lab", "murder"]
            own_sasldb(sasldb, "mup.lab")

        places = {
            "/etc/cyrusext/cyrusext.toml": str(self.node.config_file),
            "10.0.0.30:3905": f"{address}:{MUPDATE_PORT}",
        }
        machines = {name: CyrusMachine(getattr(murder, name), {}) for name in ("be1", "be2", "fe")}
        self.page = Runbook(
            PAGE,
            {
                **machines,
                "mup": CyrusMachine(murder.stock, {}),
                "node": NodeMachine(self.node, {"saslpasswd2": password}, places),
            },
        )
        self.leave_out = {"setup-by-package", "new-address" if same_address else "same-address"}
        for server in (murder.be1, murder.be2, murder.fe):
            server.expect(*LOSES_MASTER)
        murder.stock.expect(r"/dev/shm/fill/db/skipstamp")  # a directory that is new

    def __enter__(self) -> Move:
        self.murder.__enter__()
        self.murder.servers.append(self.node)  # closed with the others
        return self

    def __exit__(self, *_: object) -> None:
        self.murder.__exit__(*_)

    def run(self, *titles: str) -> None:
        for title in titles:
            self.page.run(title, self.leave_out)

    # -- what is in it ----------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Mailboxes with folders, odd names, ACLs, a renamed and a deleted one, one that was moved; and mail."""
        murder = self.murder
        for backend, user in ((murder.be1, "alice"), (murder.be2, "bob")):
            with backend.imap() as admin:
                for name in [f"user.{user}", *(f"user.{user}.{odd}" for odd in ODD)]:
                    imap.create(admin, f'"{name}"')
                imap.ok(admin.setacl(f"user.{user}.Sent", "anyone", "p"))
                imap.ok(admin.rename(f"user.{user}.a0", f"user.{user}.renamed"))
                imap.create(admin, f"user.{user}.gone")
                imap.delete(admin, f"user.{user}.gone")
        with murder.be1.imap() as admin:
            imap.create(admin, "user.carol")
            imap.create(admin, "user.carol.Sent")
            imap.xfer(admin, "user.carol", "be2.lab")
        murder.frontend_sees(
            lambda known: {"user.alice.renamed", "user.bob.Sent", "user.carol.Sent"} <= known.keys(), "all of them"
        )
        self.deliver("one")

    def deliver(self, subject: str, users: tuple[str, ...] = ("alice", "bob", "carol")) -> None:
        """Mail through the frontend, to both backends in one transaction; it is taken for everybody."""
        with Lmtp(self.murder.hosts["fe.lab"], LMTP_PORT) as client:
            result = client.deliver("sender@example.net", list(users), message(subject))
        assert [reply.code for reply in result.final] == [250] * len(users), result

    def mail(self, user: str) -> list[str]:
        """The subjects of a user's messages, read through the frontend."""
        with self.murder.fe.imap(user) as connection:
            found = (re.search(rb"^Subject: (.*?)\r$", text, re.MULTILINE) for text in imap.messages(connection))
            return [match[1].decode() for match in found if match]

    def local(self) -> dict[str, dict[str, object]]:
        """What the two backends really have, name -> what it is there."""
        found: dict[str, dict[str, object]] = {}
        for backend in (self.murder.be1, self.murder.be2):
            for name, entry in json.loads(backend.tool("ctl_mboxlist", "-d")).items():
                if "d" in entry["mbtype"]:
                    continue  # what was deleted, renamed or moved away
                assert name not in found, f"{name} is on both"
                found[name] = {"on": backend.name, "acl": entry["acl"], "uniqueid": entry["uniqueid"]}
        return found

    def writes_are_refused(self) -> None:
        assert not self.murder.be1.try_create("user.toosoon")
        self.murder.be1.forgive()

    def works(self, word: str) -> None:
        """Create, rename, set an ACL, move, delete and deliver, as users do; leaves a user `word` with one message."""
        murder, name = self.murder, f"user.{word}"
        with murder.be1.imap() as admin:
            imap.create(admin, name)
            imap.create(admin, f"{name}.old")
            imap.ok(admin.rename(f"{name}.old", f"{name}.new"))
            imap.ok(admin.setacl(f"{name}.new", "anyone", "lr"))
            imap.create(admin, f"{name}.short")
            imap.delete(admin, f"{name}.short")
            imap.xfer(admin, name, "be2.lab")
        murder.frontend_sees(
            lambda known: (
                known.keys() >= {name, f"{name}.new"}
                and known[name].location == "be2.lab!default"
                and not known.keys() & {f"{name}.old", f"{name}.short"}
            ),
            f"what was done to {name}",
        )
        self.deliver(f"to {word}", (word, "alice"))
        assert self.mail(word) == [f"to {word}"]


@pytest.mark.parametrize("same_address", [False, True], ids=["new_address", "same_address"])
def test_the_page(root: Root, new_state: Callable[[], Path], same_address: bool) -> None:
    with Move(root, new_state(), same_address=same_address) as move:
        move.fill()
        before = move.local()
        move.run("Before", "Step 1: prepare the node")
        move.works("early")  # nobody has noticed anything
        before = move.local()

        move.run("Step 2: freeze")
        move.writes_are_refused()
        move.deliver("two")
        move.run("Step 3: carry the list over", "Step 4: the backends", "Step 5: the frontends")
        assert move.local() == before
        assert sorted(move.murder.fe.mailboxes()) == sorted(before)
        assert move.mail("alice") == ["one", "to early", "two"]
        assert move.mail("bob") == move.mail("carol") == ["one", "two"]
        move.run("Step 6: see that everybody has moved")
        move.works("ours")
        before = move.local()

        move.run("Back 1: freeze")
        move.writes_are_refused()
        move.deliver("three")
        move.run("Back 2: fill the stock master", "Back 3: the backends, then the frontends")
        assert move.local() == before
        assert sorted(move.murder.fe.mailboxes()) == sorted(before)
        assert move.mail("carol") == ["one", "two", "three"]
        move.works("stock")


def test_every_block_is_run() -> None:
    """No command of the page stands outside the sections that the test runs."""
    text = PAGE.read_text()
    run = ["Before", "Switch", "Going back"]
    assert sum(section(PAGE, title)[0].count("```sh ") for title in run) == text.count("```sh ")
