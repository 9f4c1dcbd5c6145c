"""Do we read what Cyrus' own ctl_mboxlist writes, and do we write the same?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.topology import Murder

pytestmark = pytest.mark.integration


def imported(murder: Murder, file: Path, *options: str) -> dict[str, int]:
    """Import `file` into the node; return the counts that the command printed."""
    done = murder.node.cli("mailbox", "import", str(file), "--format", "json", *options)
    return {row["what"]: row["mailboxes"] for row in json.loads(done.stdout)}


def make_mailboxes(murder: Murder) -> list[str]:
    user = murder.user()
    names = [f"user.{user}", f"user.{user}.Sent", f"user.{user}.B&APw-ro &- x", f"user.{user}.a'b"]
    with murder.be1.imap() as admin:
        for name in names:
            imap.create(admin, f'"{name}"')
        imap.ok(admin.setacl(names[1], "friend", "lrs"))
        imap.ok(admin.setacl(names[1], "anyone", "p"))
    murder.frontend_sees(lambda known: set(names) <= known.keys(), "all of them")
    return names


def test_a_frontends_dump_says_what_the_node_knows(murder_ours: Murder, tmp_path: Path) -> None:
    names = make_mailboxes(murder_ours)
    dump = tmp_path / "dump"
    dump.write_text(murder_ours.fe.tool("ctl_mboxlist", "-d"))
    counts = imported(murder_ours, dump)
    assert counts["unchanged"] == counts["on be1.lab"] + counts.get("on be2.lab", 0) >= len(names)
    assert counts.keys() <= {"unchanged", "on be1.lab", "on be2.lab", "skipped lines"}


def test_a_backends_dump_fills_an_empty_node(murder_ours: Murder, tmp_path: Path) -> None:
    """The dump of a backend names no server; what it gives is what the backend itself has told."""
    murder = murder_ours
    names = make_mailboxes(murder)
    dump = tmp_path / "dump"
    dump.write_text(murder.be1.tool("ctl_mboxlist", "-d"))
    assert "--server" in murder.node.cli("mailbox", "import", str(dump), check=False).stderr
    told = json.loads(murder.node.cli("mailbox", "export", "--server", "be1.lab").stdout)
    for name in names:
        murder.node.cli("mailbox", "delete", name)
    counts = imported(murder, dump, "--server", "be1.lab")
    assert counts["created"] == len(names)
    after = json.loads(murder.node.cli("mailbox", "export", "--server", "be1.lab").stdout)
    for name in names:
        assert after[name]["acl"] == told[name]["acl"]
        assert (after[name]["server"], after[name]["partition"]) == ("be1.lab", "default")


def test_our_dump_has_what_cyrus_own_has(murder_ours: Murder) -> None:
    make_mailboxes(murder_ours)
    ours = murder_ours.node.cli("mailbox", "export").stdout
    theirs = murder_ours.fe.tool("ctl_mboxlist", "-d")
    wanted = ("name", "server", "partition", "acl")
    assert {name: [entry[key] for key in wanted] for name, entry in json.loads(ours).items()} == {
        name: [entry[key] for key in wanted] for name, entry in json.loads(theirs).items()
    }
    # The same lines in the same order: a difference of two dumps is a difference of mailboxes.
    assert [line.split(":")[0] for line in ours.splitlines()] == [line.split(":")[0] for line in theirs.splitlines()]
