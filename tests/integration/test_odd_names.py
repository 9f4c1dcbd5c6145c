"""Mailbox names with every byte that Cyrus takes, from a real backend through our node to a stock slave and back.

What Cyrus refuses is nobody's concern; what it takes must be the same everywhere, also after the slave's merge (which
compares by strcmp) and in the backend's push (which compares position by position).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import imap
from tests.harness.roots import Root
from tests.harness.topology import MasterKind, Murder
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration

LETTERS = [bytes([byte]) for byte in range(0x20, 0x7F) if not chr(byte).isalnum()]
TEXTS = [
    b"&AOQ-",
    b"&2D3eAA-",
    b"\xc3\xa4",
    b"\xe4",
    b"a b",
    b" a",
    b"a ",
    b"a..b",
    b"a.b",
    b"a/b",
    b"-.-",
    b"!.!",
    b"a^b.c",
]


def quoted(name: bytes) -> bytes:
    return b'"' + name.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def taken(connection: imap.Imap, verb: str, *arguments: bytes) -> bool:
    status, _ = connection._simple_command(verb, *arguments)
    return bool(status == "OK")


def listed(connection: imap.Imap) -> set[bytes]:
    """The lines of LIST as they are, but for their flags: names may come as literals."""
    lines = imap.ok(connection.list('""', "*"))
    return {b" ".join(line) if isinstance(line, tuple) else line for line in lines if line and line != b")"}


@pytest.mark.parametrize("unix", [False, True], ids=["netnews", "unix"])
def test_every_name_that_cyrus_takes(unix: bool, root: Root, new_state: Callable[[], Path]) -> None:
    extra = {"unixhierarchysep": "yes" if unix else "no"}
    names = {"unix_hierarchy_separator": unix}
    with Murder(root, new_state(), extra=extra, config={"names": names}) as murder:
        slash = b"/" if unix else b"."
        user = b"user" + slash + b"odd"
        with murder.be1.imap() as admin:
            assert taken(admin, "CREATE", quoted(user))
            made = []
            for text in [*LETTERS, *(b"x" + letter + b"y" for letter in LETTERS), *TEXTS]:
                name = user + slash + text
                if taken(admin, "CREATE", quoted(name)):
                    made.append(name)
            assert len(made) > 40, made
            assert {user + slash + b"x" + odd + b"y" for odd in (b" ", b"-", b"+", b"'", b"$", b"#")} <= set(made)
            check(murder, "created")
            for name in made[::3]:
                assert taken(admin, "SETACL", quoted(name), b"friend", b"lrs"), name
            moved = []
            for number, name in enumerate(made[1::3]):
                to = user + slash + b"-moved %d" % number + name.rpartition(slash)[2]
                moved.append(to if taken(admin, "RENAME", quoted(name), quoted(to)) else name)
            check(murder, "renamed")
            murder.fe.restart()  # the slave merges two lists
            check(murder, "merged")
            for name in sorted([*moved, *made[::3]], reverse=True):  # what is below another first
                imap.ok(admin._simple_command("SETACL", quoted(name), b"cyrus", b"lrswipkxtecda"))
                assert taken(admin, "DELETE", quoted(name)), name
            check(murder, "deleted")
            murder.be1.tool("ctl_mboxlist", "-m")
            check(murder, "pushed")


def check(murder: Murder, what: str) -> None:
    """Backend, master and frontend agree, and the backend's push finds nothing to do but partitions after a RENAME."""
    with murder.mupdate() as client:
        entries = client.list()
    order = [entry.name for entry in entries]
    assert order == sorted(
        order, key=lambda name: name.replace(b".", b"\x1f").replace(b"^", b".").replace(b"!", b"\x1d")
    ), what
    partial = {entry.name for entry in entries if entry.location.endswith(b"!")}
    pushed = murder.be1.tool("ctl_mboxlist", "-m", "-w").encode("utf-8", "replace").splitlines()
    assert not [line for line in pushed if line and not line.startswith(b"Force Activate: ")], what
    assert len([line for line in pushed if line]) == len(partial), (what, pushed)

    def same() -> bool:
        with murder.be1.imap() as there, murder.fe.imap() as here:
            shown, expected = listed(here), listed(there)
        with contextlib.suppress(KeyError):
            shown.remove(b"")
        return shown == expected

    wait_until(same, f"the frontend has what the backend has ({what})", 30, 0.2)


@pytest.mark.parametrize("kind", ["ours", "stock"])
def test_a_literal_dot_makes_no_slave_lose_a_user(kind: MasterKind, root: Root, new_state: Callable[[], Path]) -> None:
    """john.doe is a dot to mailboxes.db and a ^ to strcmp, on the two sides of john2."""
    extra = {"unixhierarchysep": "yes"}
    with Murder(root, new_state(), kind, extra=extra) as murder, murder.be1.imap() as admin:
        for user in ("john.doe", "john2", "kay.x"):
            imap.create(admin, f"user/{user}")
        murder.frontend_sees(lambda known: "user.kay^x" in known, "all three")
        murder.fe.stop()
        imap.delete(admin, "user/john.doe")
        murder.fe.start()
        if kind == "stock":
            assert "user.john2" not in murder.fe.mailboxes()
            return
        murder.frontend_sees(lambda known: "user.john2" in known and "user.john^doe" not in known, "john2 again")
