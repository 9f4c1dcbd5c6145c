"""The commands that change, against a node that runs: nothing between them but the control socket and the index."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cyrusext.cli.commands import cli
from tests.harness.waiting import wait_until

ACL = b"alice\tlrswipkxtecdan\tanyone\tp\t"


class Node:
    """A node in a directory of its own, as a process."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.config = place / "cyrusext.toml"
        self.passwords = place / "passwords"
        self.log = place / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.passwords.write_text("murder:secret\n")
        self.passwords.chmod(0o600)
        self.config.write_text(
            f'[node]\nstate_dir = "{self.place}/state"\nrun_dir = "{self.place}/run"\n'
            f'[mupdate]\nlisten = ["unix:{self.place}/mupdate"]\npwcheck = "file"\npassword_file = "{self.passwords}"\n'
        )
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "cyrusext", "node", "-c", str(self.config)]
            self.process = subprocess.Popen(command, stderr=log)
        wait_until(lambda: self.ended() or b"event=node.ready" in self.log.read_bytes(), "the node is ready", 60)
        assert not self.ended(), self.log.read_text()

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(30) == 0, self.log.read_text()
            self.process = None

    def run(self, *words: str | Path) -> Result:
        return CliRunner().invoke(cli, [*map(str, words), "-c", str(self.config)])

    def dump(self) -> bytes:
        result = self.run("mailbox", "export")
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout_bytes

    def write(self, name: str, text: bytes) -> Path:
        path = self.place / name
        path.write_bytes(text)
        return path

    def records(self) -> dict[str, tuple[str, str, str]]:
        rows = json.loads(self.run("mailbox", "list", "--format", "json").stdout)
        return {row["name"]: (row["state"], f"{row['server']}!{row['partition']}", row["acl"]) for row in rows}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("node"))
    node.start()
    yield node
    node.stop()


@pytest.fixture
def node(running: Node) -> Iterator[Node]:
    """The running node, empty again after each test."""
    yield running
    for name in running.records():
        assert running.run("mailbox", "delete", name).exit_code == 0


def counts(result: Result) -> dict[str, int]:
    return {row["what"]: row["mailboxes"] for row in json.loads(result.stdout)}


def test_status(node: Node) -> None:
    node.run("mailbox", "set", "user.alice", "be1!default")
    status = json.loads(node.run("status", "--format", "json").stdout)
    assert node.process is not None
    assert (status["pid"], status["active"], status["servers"]) == (node.process.pid, 1, {"be1": 1})
    rows = dict(line.split("\t") for line in node.run("status", "--format", "tsv").stdout.splitlines())
    assert (rows["node"], rows["servers be1"], rows["fresh"]) == ("node1", "1", "yes")


def test_status_tells_of_the_hot_table(node: Node) -> None:
    node.run("mailbox", "set", "user.alice", "be1!default")

    def hot() -> dict[str, float]:
        shown: dict[str, float] | str = json.loads(node.run("status", "--format", "json").stdout)["hot"]
        return shown if isinstance(shown, dict) else {}

    wait_until(lambda: hot().get("seq"), "the table is built", 10)
    shown = hot()
    assert shown["generation"] >= 1 and shown["collisions"] == 0 and shown["routes"] >= 1
    assert shown["bytes_per_mailbox"] == shown["bytes"] > 4096  # alice is alone in it
    assert 0 < shown["load"] < 0.01
    assert 0 <= shown["age_s"] < 60


def test_set_is_quiet_and_repeatable(node: Node) -> None:
    for _ in range(2):
        result = node.run("mailbox", "set", "user.alice", "be1!default", "alice lrswipkxtecdan anyone p")
        assert (result.exit_code, result.output) == (0, "")
    assert node.records() == {"user.alice": ("ACTIVE", "be1!default", ACL.decode())}
    assert node.run("lookup", "alice").exit_code == 0
    assert node.run("lookup", "bob").exit_code == 1


def test_set_keeps_the_acl_that_it_is_not_given(node: Node) -> None:
    node.run("mailbox", "set", "user.alice", "be1!default", "alice\tlrs\t")
    assert node.run("mailbox", "set", "user.alice", "be1!fast").exit_code == 0
    assert node.records() == {"user.alice": ("ACTIVE", "be1!fast", "alice\tlrs\t")}
    assert node.run("mailbox", "set", "user.alice", "be1!fast", "").exit_code == 0
    assert node.records()["user.alice"][2] == ""
    assert node.run("mailbox", "set", "user.alice", "be1!fast", "alice").exit_code == 2


def test_another_owner_needs_force(node: Node) -> None:
    node.run("mailbox", "set", "user.alice", "be1!default")
    result = node.run("mailbox", "set", "user.alice", "be2!default")
    assert result.exit_code == 1
    assert result.stderr == "cyrusext: user.alice: mailbox is active on be1\n"
    assert node.records()["user.alice"][1] == "be1!default"
    assert node.run("mailbox", "set", "user.alice", "be2!default", "--force").exit_code == 0
    assert node.records()["user.alice"][1] == "be2!default"


def test_delete(node: Node) -> None:
    node.run("mailbox", "set", "user.alice", "be1!default")
    assert node.run("mailbox", "delete", "user.alice").output == ""
    result = node.run("mailbox", "delete", "user.alice")
    assert (result.exit_code, result.stderr) == (1, "cyrusext: user.alice: no such mailbox\n")
    # An address of a mailbox that was there a moment ago must not bounce: it may be a RENAME.
    assert node.run("lookup", "user.alice").exit_code == 1
    assert node.run("lookup", "alice@example.org").exit_code == 75


def test_dry_runs_change_nothing(node: Node) -> None:
    assert node.run("mailbox", "set", "user.a", "be1!default", "--dry-run").stdout == "would create user.a\n"
    assert node.run("mailbox", "delete", "user.a", "--dry-run").exit_code == 1
    assert node.records() == {}
    node.run("mailbox", "set", "user.a", "be1!default")
    assert node.run("mailbox", "set", "user.a", "be1!default", "--dry-run").stdout == "would leave user.a as it is\n"
    assert node.run("mailbox", "set", "user.a", "be1!fast", "--dry-run").stdout == "would change user.a\n"
    assert node.run("mailbox", "delete", "user.a", "--dry-run").stdout == "would delete user.a\n"
    result = node.run("mailbox", "import", node.write("dry", b"a\tbe2\nb\tbe2\n"), "--dry-run", "--format", "json")
    assert result.exit_code == 1
    assert counts(result) == {"created": 1, "refused": 1, "on be2": 2}
    assert list(node.records().values()) == [("ACTIVE", "be1!default", "")]
    assert not list(node.place.glob("dry.undo*"))


def test_a_dump_goes_in_and_comes_out_and_is_undone(node: Node) -> None:
    node.run("mailbox", "set", "user.alice", "be1!old", "alice lrs")
    before = node.records()
    text = (
        b'{\n"user.alice": {"name": "user.alice", "mbtype": "e", "partition": "default", "server": "be1",'
        b' "acl": {"alice": "lrswipkxtecdan", "anyone": "p"}},\n'
        b'"user.bob": {"name": "user.bob", "mbtype": "ez", "partition": "", "server": "be2", "acl": {}},\n'
        b'"user.bob.\\udcff\\t": {"mbtype": "e", "partition": "p", "server": "be2", "acl": "odd"}\n}\n'
    )
    result = node.run("mailbox", "import", node.write("dump", text), "--format", "json")
    assert result.exit_code == 0
    assert counts(result) == {"created": 2, "changed": 1, "on be1": 1, "on be2": 2}
    assert node.records() == {
        "user.alice": ("ACTIVE", "be1!default", ACL.decode()),
        "user.bob": ("RESERVED", "be2!", ""),
        "user.bob.\udcff\t": ("ACTIVE", "be2!p", "odd"),
    }
    after = node.dump()
    undo = next(node.place.glob("dump.undo-*"))
    assert str(undo) in result.stderr
    again = node.run("mailbox", "import", node.write("after", after), "--format", "json")
    assert counts(again) == {"unchanged": 3, "on be1": 1, "on be2": 2}
    assert not list(node.place.glob("after.undo-*"))
    redo = node.place / "redo"
    result = node.run("mailbox", "import", undo, "--undo", redo, "--format", "json")
    assert (result.exit_code, counts(result)) == (0, {"changed": 1, "deleted": 2, "on be1": 1})
    assert node.records() == before
    assert node.run("mailbox", "import", redo).exit_code == 0
    assert json.loads(node.dump()).keys() == json.loads(after).keys()


def test_a_mailbox_named_twice_is_undone_to_what_it_was(node: Node) -> None:
    node.run("mailbox", "set", "user.alice", "be1!default", "alice lrs")
    before = node.records()
    twice = b"user.alice\t1 be2!default x\t1\t\nuser.new\t1 be1!default \nuser.alice\t1 be3!default y\t2\t\n"
    undo = node.place / "undo-twice"
    result = node.run("mailbox", "import", node.write("twice", twice), "--force", "--undo", undo)
    assert result.exit_code == 0
    assert node.records()["user.alice"] == ("ACTIVE", "be3!default", "y\t2\t")
    refused = node.run("mailbox", "import", undo)
    assert refused.exit_code == 1
    assert node.run("mailbox", "import", undo, "--force").exit_code == 0
    assert node.records() == before


def test_a_map_leaves_known_acls_alone(node: Node) -> None:
    node.run("mailbox", "set", "user.alice", "be1!fast", "alice lrs")
    node.run("mailbox", "set", "user.al^ice", "be1!fast", "al.ice lrs")
    file = node.write("map", b"alice\tbe1\nal.ice\tbe2\nbob\tbe2\n")
    result = node.run("mailbox", "import", file, "--format", "json")
    assert result.exit_code == 1
    assert counts(result) == {"created": 1, "unchanged": 1, "refused": 1, "on be1": 1, "on be2": 2}
    assert "refused user.al^ice: mailbox is active on be1" in result.stderr
    assert node.run("mailbox", "import", file, "--force").exit_code == 0
    assert node.records() == {
        "user.al^ice": ("ACTIVE", "be2!", "al.ice\tlrs\t"),
        "user.alice": ("ACTIVE", "be1!fast", "alice\tlrs\t"),
        "user.bob": ("ACTIVE", "be2!", ""),
    }
    assert node.run("mailbox", "export", "--format", "map").stdout_bytes == b"al.ice\tbe2\nalice\tbe1\nbob\tbe2\n"


def test_nothing_is_changed_by_a_file_with_a_bad_line(node: Node) -> None:
    file = node.write("bad", b"alice\tbe1\nrubbish\n")
    result = node.run("mailbox", "import", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"cyrusext: {file}:2: expected user<TAB>server\n"
    assert node.records() == {}


def test_refusals_are_counted_and_the_first_ones_told(node: Node) -> None:
    users = [b"u%02d" % number for number in range(30)]
    assert node.run("mailbox", "import", node.write("one", b"".join(u + b"\tbe1\n" for u in users))).exit_code == 0
    result = node.run("mailbox", "import", node.write("two", b"".join(u + b"\tbe2\n" for u in users)))
    assert result.exit_code == 1
    complaints = result.stderr.splitlines()
    assert len([line for line in complaints if "refused user.u" in line]) == 20
    assert complaints[-1] == "cyrusext: and 10 more were refused"
    assert not list(node.place.glob("two.undo-*"))


def test_many_batches_and_a_progress_bar(node: Node) -> None:
    file = node.write("many", b"".join(b"m%05d\tbe%d\n" % (number, number % 3) for number in range(12_000)))
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "cyrusext", "mailbox", "import", str(file), "-c", str(node.config)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(controller, 4096):
            shown += part
    except OSError:
        pass  # a terminal nobody has open any more ends so
    out, _ = process.communicate(timeout=60)
    os.close(controller)
    assert process.returncode == 0, shown
    assert b"importing" in shown
    assert [line.split() for line in out.decode().splitlines()[1:]] == [
        ["created", "12000"],
        *(["on", f"be{number}", "4000"] for number in range(3)),
    ]
    assert node.run("mailbox", "export", "--format", "map").stdout_bytes == file.read_bytes()
    undo = next(node.place.glob("many.undo-*"))
    assert node.run("mailbox", "import", undo).exit_code == 0
    assert node.records() == {}


def test_reads_go_on_when_the_node_is_gone(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.start()
    try:
        node.run("mailbox", "set", "user.alice", "be1!default")
        node.write("map", b"bob\tbe1\n")
    finally:
        node.stop()
    assert node.run("lookup", "alice").exit_code == 0
    result = node.run("lookup", "bob")
    assert result.exit_code == 75
    assert "not known to be up to date" in result.stderr
    assert node.run("status").exit_code == 69
    assert node.run("mailbox", "import", node.place / "map").exit_code == 69
    assert node.run("mailbox", "list").exit_code == 0


def test_a_second_node_on_the_same_directory_refuses(running: Node) -> None:
    command = [sys.executable, "-m", "cyrusext", "node", "-c", str(running.config)]
    second = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert second.returncode in (75, 78)
    assert b"Traceback" not in second.stderr
    assert running.run("status").exit_code == 0


def test_compare_shows_what_differs(node: Node) -> None:
    node.run("mailbox", "set", "user.alice", "be1!default", "alice lrs")
    node.run("mailbox", "set", "user.bob", "be2!default")
    dump = node.write("dump", node.dump())
    same = node.run("mailbox", "compare", dump)
    assert (same.exit_code, same.output) == (0, "")
    node.run("mailbox", "delete", "user.bob")
    node.run("mailbox", "set", "user.alice", "be3!default", "--force")
    node.run("mailbox", "set", "user.new", "be1!default")
    other = node.run("mailbox", "compare", dump, "--format", "tsv")
    assert other.exit_code == 1
    assert other.stdout.splitlines() == [
        "user.alice\tserver\tbe3\tbe1",
        "user.bob\tonly there\t\tbe2!default",
        "user.new\tonly here\tbe1!default\t",
    ]
    assert node.run("mailbox", "compare", dump, "--server", "be1").exit_code == 1
