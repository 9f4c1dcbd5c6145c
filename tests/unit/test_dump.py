"""Dumps of mailboxes: lines as real Cyrus servers print them, and what they become."""

from __future__ import annotations

import json

import pytest

from cyrusext.directory.batch import Wanted
from cyrusext.errors import InvalidName
from cyrusext.manage.dump import DumpFormat, detect, parser, write_csv, write_ctl, write_map
from cyrusext.model import MailboxRecord, State
from cyrusext.names import NameRules

ACL = b"alice\tlrswipkxtecdan\tanyone\tp\t"

CYRUS_36 = b"""{
"user.alice": {"name": "user.alice", "mtime": "1792875867", "uidvalidity": "1792875867", "createdmodseq": "1", \
"foldermodseq": "4", "mbtype": "e", "partition": "default", "server": "be1.lab", "acl": {"alice": "lrswipkxtecdan", \
"anyone": "p"}, "uniqueid": "7kxgbn2y0v", "name_history": [{"name": "user.al", "mtime": "1", "uidvalidity": "2", \
"createdmodseq": "1", "foldermodseq": "1", "mbtype": "e", "partition": "default"}]},
"user.bob": {"name": "user.bob", "mtime": "0", "uidvalidity": "0", "createdmodseq": "0", "foldermodseq": "0", \
"mbtype": "ez", "partition": "", "server": "be2.lab", "acl": {}, "name_history": []},
"user.gone": {"name": "user.gone", "mtime": "0", "mbtype": "d", "partition": "default", "acl": {}},
"user.alice.x": {"name": "user.alice.x", "mbtype": "ei", "partition": "default", "acl": {}}
}
"""


def _parse(text: bytes, server: str = "", rules: NameRules | None = None) -> list[Wanted | None]:
    parse = parser(detect(text), rules or NameRules(), server)
    return [parse(line) for line in text.splitlines(keepends=True)]


def test_the_json_of_cyrus_36() -> None:
    assert detect(CYRUS_36) is DumpFormat.CTL
    assert [change for change in _parse(CYRUS_36) if change] == [
        Wanted(b"user.alice", 2, "be1.lab", "default", ACL),
        Wanted(b"user.bob", 1, "be2.lab", "", b""),
    ]


def test_a_backends_dump_needs_the_servers_name() -> None:
    text = b'{\n"user.alice": {"mbtype": "e", "partition": "default", "acl": {"alice": "lrs"}}\n}\n'
    assert _parse(text, "be1")[1] == Wanted(b"user.alice", 2, "be1", "default", b"alice\tlrs\t")
    with pytest.raises(InvalidName, match="--server"):
        _parse(text)


@pytest.mark.parametrize(
    ("line", "change"),
    [
        (b"user.alice\t0 default " + ACL + b"\n", Wanted(b"user.alice", 2, "here", "default", ACL)),
        (b"user.alice\t1 be1.lab!default " + ACL + b"\n", Wanted(b"user.alice", 2, "be1.lab", "default", ACL)),
        (b"user.alice\t1 be1.lab! " + ACL + b"\r\n", Wanted(b"user.alice", 2, "be1.lab", "", ACL)),
        (b"user.alice\t3 be1.lab!default (null)\n", Wanted(b"user.alice", 1, "be1.lab", "default", b"")),
        (b"user.alice\t9 be1.lab!default\n", Wanted(b"user.alice", 1, "be1.lab", "default", b"")),
        (b"user.alice\t16 default " + ACL + b"\n", None),
        (
            b"user.alice\t0 default " + ACL + b">7kxgbn2y0v 1792875867 1792875867 4 1 \n",
            Wanted(b"user.alice", 2, "here", "default", ACL),
        ),
        (b"user.\xff\t0 default a b>c\tlrs\t\n", Wanted(b"user.\xff", 2, "here", "default", b"a b>c\tlrs\t")),
    ],
)
def test_the_lines_of_older_versions(line: bytes, change: Wanted | None) -> None:
    assert detect(line) is DumpFormat.CTL_LINES
    assert _parse(line, "here") == [change]


def test_user_and_server() -> None:
    text = b"# who is where\n\nalice\tbe1\nal.ice\tbe2.example:143\r\nbob@example.net\tbe1\n"
    assert detect(text) is DumpFormat.MAP
    assert _parse(text, rules=NameRules(virtdomains=True, default_domain="example.org")) == [
        None,
        None,
        Wanted(b"user.alice", 2, "be1"),
        Wanted(b"user.al^ice", 2, "be2.example:143"),
        Wanted(b"example.net!user.bob", 2, "be1"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"alice", "user<TAB>server"),
        (b"alice\tbe1\tx", "user<TAB>server"),
        (b"\tbe1", "user<TAB>server"),
        (b"alice\t", "names no server"),
        (b"alice\tbe 1", "blank"),
        (b"alice\tbe1!default", "without partition"),
        (b"alice@example.net\tbe1", "virtdomains"),
        (b"user.a\t0 default x\nrubbish", "name<TAB>type"),
        (b"user.a\t1 be1!\xff x", "8-bit"),
        (b"user.a\t0 \xff x", "not ASCII"),
        (b'{\n"user.a": {"mbtype": "e", "partition": "x"', "ctl_mboxlist"),
        (b'{\n"user.a": 3,', "ctl_mboxlist"),
        (b'{\n"user.a": {"acl": 3}', "ctl_mboxlist"),
        (b'{\n"user.a": {"acl": {"a": 1}}', "ctl_mboxlist"),
        (b'{\n"user.a": {}, "user.b": {}', "one mailbox on a line"),
        (b'{\n"user.a": {},', "neither server nor partition"),
        (b'{\n"": {"server": "be1"}', "empty"),
        (b'{\n"user.a": {"server": "b e"}', "blank"),
        (b'{\n"\\ud800": {"server": "be1"}', "escape"),
        (b'{\n"user.a": {"server": "be1", "acl": "\\ud800"}', "escape"),
        (b'{\n"user.a\\u0000": {"server": "be1"}', "NUL"),
        (b'{\n"user.a": {"server": "be1", "acl": {"a\\n": "lrs"}}', "ACL"),
        (b'{\n"user.a": {"server": "\\u00e9"}', "8-bit"),
        (b"{\n" + b'"user.a": ' + b"[" * 100_000, "ctl_mboxlist"),
        (b'{\n"' + b"a" * 491 + b'": {"server": "be1"}', "490"),
    ],
)
def test_unreadable_lines(text: bytes, reason: str) -> None:
    with pytest.raises(InvalidName, match=reason):
        _parse(text, "here")


def test_a_closing_brace_on_the_last_line_is_taken() -> None:
    line = b'{"user.a": {"server": "be1", "partition": "}}", "acl": {"a}": "lrs"}}}\n'
    assert _parse(line) == [Wanted(b"user.a", 2, "be1", "}}", b"a}\tlrs\t")]


def test_the_dump_that_is_written_is_json_for_others_too() -> None:
    records = [
        MailboxRecord(b"user.alice", State.ACTIVE, "be1", "default", ACL, changed_at=1_700_000_000_123_456),
        MailboxRecord(b"user.bob", State.RESERVED, "be2", ""),
    ]
    text = b"".join(write_ctl(records))
    read = json.loads(text)
    assert read["user.alice"]["acl"] == {"alice": "lrswipkxtecdan", "anyone": "p"}
    assert read["user.alice"]["mtime"] == "1700000000"
    assert read["user.bob"]["mbtype"] == "ez"
    assert text.count(b"\n") == 4
    assert json.loads(b"".join(write_ctl([]))) == {}


def test_maps_and_csv() -> None:
    records = [
        MailboxRecord(b"user.al^ice", State.ACTIVE, "be1", "default", ACL),
        MailboxRecord(b"user.al^ice.Sent", State.ACTIVE, "be1", "default", ACL),
        MailboxRecord(b"user.bob", State.RESERVED, "be1", "default"),
        MailboxRecord(b"shared.\xff", State.ACTIVE, "be2", "default", b'a"b\tlrs\t'),
    ]
    assert b"".join(write_map(records, NameRules())) == b"al.ice\tbe1\n"
    lines = b"".join(write_csv(records)).split(b"\r\n")
    assert lines[0] == b"name,state,server,partition,acl"
    assert lines[3] == b"user.bob,RESERVED,be1,default,"
    assert lines[4] == b'shared.\xff,ACTIVE,be2,default,"a""b\tlrs\t"'
