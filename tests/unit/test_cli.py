"""The commands that read: on a real store, with what they print and the status they end with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cyrusext.cli.commands import cli
from cyrusext.cli.exit_codes import document, error_kinds
from cyrusext.errors import CyrusExtError
from cyrusext.model import Flag, MailboxRecord, State
from cyrusext.store import Store

ROOT = Path(__file__).parents[2]

RECORDS = [
    MailboxRecord(b"user.alice", State.ACTIVE, "be1", "default", b"alice\tlrswipkxtecdan\t"),
    MailboxRecord(b"user.alice.Sent", State.ACTIVE, "be1", "default", b"alice\tlrswipkxtecdan\t"),
    MailboxRecord(b"user.al^ice", State.ACTIVE, "be2", "", b""),
    MailboxRecord(b"user.held", State.ACTIVE, "be2", "default", b"", 0, Flag.HELD | Flag.MOVING),
    MailboxRecord(b"user.new", State.RESERVED, "be2", "default"),
    MailboxRecord(b"shared.\xff\t\\x", State.ACTIVE, "be2", "default", b"a\tlrs\t"),
    MailboxRecord(b"shared.dept", State.ACTIVE, "be2", "default"),
]


class House:
    """A state and run directory with a configuration, and the command line on it."""

    def __init__(self, place: Path) -> None:
        self.state_dir, self.run_dir = place / "state", place / "run"
        self.state_dir.mkdir()
        self.run_dir.mkdir()
        self.config = place / "cyrusext.toml"
        self.configure("")

    def configure(self, more: str) -> None:
        places = f'[node]\nstate_dir = "{self.state_dir}"\nrun_dir = "{self.run_dir}"\n'
        # A test may be held up for longer than the two seconds for which a heartbeat counts by default.
        self.config.write_text(f"{places}[lookup]\nno_max_age_s = 600\n{more}")

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(cli, [*words, "-c", str(self.config)])


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def store(house: House) -> Iterator[Store]:
    """A store with RECORDS whose node has just said that it is current."""
    store = Store.open(house.state_dir, run_dir=house.run_dir, map_size=64 << 20)
    try:
        with store.begin() as transaction:
            transaction.put_many(RECORDS)
        store.beat(fresh=True)
        yield store
    finally:
        store.close()


def test_lookup_of_all_kinds_of_words(house: House, store: Store) -> None:
    words = ["user.alice", "alice", "alice+x@example.org", "al.ice", "+shared.dept@example.org"]
    result = house.run("lookup", *words, "--format", "tsv")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split("\t") for line in result.stdout.splitlines()] == [
        ["user.alice", "user.alice", "ACTIVE", "be1", "default", ""],
        ["alice", "user.alice", "ACTIVE", "be1", "default", ""],
        ["alice+x@example.org", "user.alice", "ACTIVE", "be1", "default", ""],
        ["al.ice", "user.al^ice", "ACTIVE", "be2", "", ""],
        ["+shared.dept@example.org", "shared.dept", "ACTIVE", "be2", "default", ""],
    ]


def test_lookup_reads_external_names(house: House, store: Store) -> None:
    house.configure("[names]\nunix_hierarchy_separator = true\n")
    result = house.run("lookup", "user/alice/Sent", "user/al.ice", "--format", "json")
    assert [row["mailbox"] for row in json.loads(result.stdout)] == ["user.alice.Sent", "user.al^ice"]
    assert store.seq


@pytest.mark.parametrize(
    ("word", "status", "words"),
    [
        ("bob", 1, "bob: no such mailbox"),
        ("bob@example.org", 1, "bob@example.org: no such mailbox"),
        ("b ob@example.org", 1, "needs quotes"),
        ("x" * 500, 1, "no mailbox can have this name"),
        ("new", 75, "new: can not be said now: mailbox is being created"),
        ("new@example.org", 75, "being created"),
        ("held", 75, "mailbox is held"),
    ],
)
def test_lookup_of_what_is_not_there(house: House, store: Store, word: str, status: int, words: str) -> None:
    result = house.run("lookup", word)
    assert result.exit_code == status
    assert words in result.stderr


def test_a_held_mailbox_is_shown_with_its_flags(house: House, store: Store) -> None:
    result = house.run("lookup", "held", "--format", "json")
    assert json.loads(result.stdout)[0]["flags"] == "held,moving"
    assert store.seq


def test_no_is_not_said_without_a_node(house: House, store: Store) -> None:
    store.beat(fresh=False)
    assert house.run("lookup", "alice").exit_code == 0
    result = house.run("lookup", "alice", "bob")
    assert result.exit_code == 75
    assert "bob: can not be said now: mailbox list is not known to be up to date" in result.stderr


def test_no_store_is_unavailable(house: House) -> None:
    for words in (["lookup", "alice"], ["mailbox", "list"], ["mailbox", "export"]):
        result = house.run(*words)
        assert (result.exit_code, result.stdout) == (69, "")
        assert result.stderr.startswith("cyrusext: ")


def test_list(house: House, store: Store) -> None:
    result = house.run("mailbox", "list", "--format", "tsv")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        "shared.dept",
        "shared.\\xff\\t\\\\x",
        "user.al^ice",
        "user.alice",
        "user.alice.Sent",
        "user.held",
        "user.new",
    ]
    table = house.run("mailbox", "list", "--prefix", "user.alice", "--server", "be1").stdout.splitlines()
    assert table[0].split() == ["NAME", "STATE", "SERVER", "PARTITION", "ACL"]
    assert [line.split()[0] for line in table[1:]] == ["user.alice", "user.alice.Sent"]
    records = json.loads(house.run("mailbox", "list", "--server", "be2", "--format", "json").stdout)
    odd = next(r for r in records if r["name"].startswith("shared.") and r["name"] != "shared.dept")
    assert odd == {
        "name": "shared.\udcff\t\\x",
        "state": "ACTIVE",
        "server": "be2",
        "partition": "default",
        "acl": "a\tlrs\t",
    }


def test_an_empty_list_is_empty_in_every_form(house: House, store: Store) -> None:
    for form, text in (("table", ""), ("tsv", ""), ("json", "[]\n")):
        result = house.run("mailbox", "list", "--prefix", "nothing", "--format", form)
        assert (result.exit_code, result.stdout) == (0, text)


def test_a_list_that_may_be_old_says_so(house: House, store: Store) -> None:
    store.beat(fresh=False)
    result = house.run("mailbox", "list")
    assert result.exit_code == 0
    assert "no running node" in result.stderr


def test_history(house: House, store: Store) -> None:
    with store.begin() as transaction:
        moved = RECORDS[0]._replace(server="be2", changed_at=1_700_000_000_000_001, changed_by="murder@10.0.0.2")
        transaction.put(moved)
        transaction.put(moved._replace(state=State.DELETED, acl=b"", changed_at=1_700_000_001_000_000))
    shown = house.run("mailbox", "history", "user.alice", "--format", "tsv")
    assert shown.exit_code == 0
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert [line[2:8] for line in lines] == [
        ["apply", "ACTIVE", "be1", "default", "", "changed"],
        ["activate", "ACTIVE", "be2", "default", "be1!default", ""],
        ["delete", "DELETED", "", "", "be2!default", "changed"],
    ]
    assert lines[1][0] == "2023-11-14T22:13:20.000001Z"
    assert lines[2][8] == "murder@10.0.0.2"
    unknown = house.run("mailbox", "history", "user.nobody")
    assert unknown.exit_code == 1
    assert unknown.stderr == "cyrusext: user.nobody: no change is remembered\n"


def test_export(house: House, store: Store) -> None:
    assert json.loads(house.run("mailbox", "export", "--prefix", "user.alice").stdout)["user.alice"]["server"] == "be1"
    assert house.run("mailbox", "export", "--format", "map").stdout_bytes == b"al.ice\tbe2\nalice\tbe1\nheld\tbe2\n"
    text = house.run("mailbox", "export", "--format", "csv", "--prefix", "shared.\udcff").stdout_bytes
    assert text.splitlines()[1] == b"shared.\xff\t\\x,ACTIVE,be2,default,a\tlrs\t"


def test_status_of_no_node(house: House) -> None:
    result = house.run("status")
    assert result.exit_code == 69
    assert "no node is running" in result.stderr


def test_changes_need_the_node(house: House, store: Store) -> None:
    for words in (["set", "user.x", "be1!default"], ["delete", "user.x"]):
        result = house.run("mailbox", *words)
        assert result.exit_code == 69
        assert "no node is running" in result.stderr
    assert store.seq


def test_an_import_without_a_node_leaves_no_undo_file(house: House, tmp_path: Path) -> None:
    (tmp_path / "map").write_text("alice\tbe1\n")
    assert house.run("mailbox", "import", str(tmp_path / "map")).exit_code == 69
    assert not list(tmp_path.glob("*undo*"))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["lookup"],
        ["lookup", "x", "--format", "xml"],
        ["mailbox", "set", "user.x"],
        ["mailbox", "set", "user.x", "be1"],
        ["mailbox", "set", "", "be1!default"],
        ["mailbox", "delete", "x" * 491],
        ["mailbox", "export", "--format", "gdbm"],
    ],
)
def test_usage(house: House, words: list[str]) -> None:
    assert (CliRunner().invoke(cli, []) if not words else house.run(*words)).exit_code == 2


def test_config_show_and_check(house: House) -> None:
    assert f'state_dir = "{house.state_dir}"' in house.run("config", "show").stdout
    result = house.run("config", "check")
    assert (result.exit_code, result.output) == (0, "")
    house.configure('[discover]\nadmin = "cyrus"\n')
    result = house.run("config", "check")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"cyrusext: notice: {house.config}: [discover] admin: not available")
    house.configure('[mupdate]\nlisten = ["0.0.0.0:3905"]\n')
    assert house.run("config", "check").exit_code == 78
    house.configure('[mupdate]\nlisten = "x"\nfoo = 1')
    for words in (["config", "check"], ["config", "show"], ["status"], ["lookup", "x"], ["node"]):
        result = house.run(*words)
        assert result.exit_code == 78
        assert result.stderr.splitlines() == [
            f"cyrusext: {house.config}: [mupdate] listen: expected list, got str",
            f"cyrusext: {house.config}: [mupdate] foo: unknown key",
        ]


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["status", "-c", str(tmp_path / "absent")])
    assert result.exit_code == 78
    assert "no such file" in result.stderr


def test_the_command_as_a_process(house: House, store: Store) -> None:
    """Bytes in arguments, and a reader that closes early."""
    command = [sys.executable, "-m", "cyrusext"]
    where = ["-c", str(house.config)]
    done = subprocess.run(
        [*command, "lookup", b"shared.\xff\t\\x", *where], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert b"shared.\\xff\\t\\\\x" in done.stdout
    with store.begin() as transaction:
        transaction.put_many([MailboxRecord(b"user.u%05d" % n, State.ACTIVE, "be1", "default") for n in range(20_000)])
    reading, writing = os.pipe()
    process = subprocess.Popen([*command, "mailbox", "list", *where], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"Traceback" not in complaints
    assert b"Broken" not in complaints


def test_exit_codes_are_those_of_the_contract_and_written_down() -> None:
    assert {kind.exit_code for kind in error_kinds()} <= {1, 2, 69, 75, 78}
    assert CyrusExtError in error_kinds()
    written = (ROOT / "docs/exit-codes.md").read_text()
    assert written == document(), "run: python -m cyrusext.cli.exit_codes > docs/exit-codes.md"


def test_output_on_a_full_disk_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("")
    command = [sys.executable, "-m", "cyrusext", "config", "show", "-c", str(tmp_path / "c.toml")]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (75, "cyrusext: can not be written: No space left on device\n")
