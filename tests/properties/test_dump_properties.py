"""Dumps: what is written reads back to the last octet, and no text makes the reader fail in another way."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cyrusext.directory.batch import Wanted
from cyrusext.errors import InvalidName
from cyrusext.manage.dump import DumpFormat, detect, parser, write_ctl, write_map
from cyrusext.manage.transfer import ImportFile
from cyrusext.manage.undo import UndoWriter, lines_backwards, parse_undo_line
from cyrusext.model import MailboxRecord, State
from cyrusext.names import NameRules

_ALLOWED = bytes(byte for byte in range(256) if byte not in b"\0\r\n\x1d\x1f")
NAME = st.one_of(
    st.lists(st.sampled_from(_ALLOWED), min_size=1, max_size=30).map(bytes),
    st.text(alphabet='abäö日.!^\t"\\{}', min_size=1, max_size=20).map(str.encode),
)
IDENTIFIER = st.lists(st.sampled_from(bytes(set(_ALLOWED) - {9})), max_size=6).map(bytes)
ACL = st.one_of(
    st.lists(st.sampled_from(_ALLOWED + bytes([1, 9, 31])), max_size=30).map(bytes),
    st.lists(IDENTIFIER, max_size=6).map(lambda fields: b"".join(field + b"\t" for field in fields)),
)
SERVER = st.from_regex(r"[a-z][a-z0-9.:-]{0,12}", fullmatch=True)
PARTITION = st.from_regex(r"[!-~]{0,8}", fullmatch=True)
RECORD = st.builds(
    MailboxRecord, NAME, st.sampled_from([State.RESERVED, State.ACTIVE]), SERVER, PARTITION, ACL, st.just(0)
)


@given(st.lists(RECORD, max_size=5))
def test_a_dump_reads_back_as_it_was(records: list[MailboxRecord]) -> None:
    text = b"".join(write_ctl(records))
    assert detect(text) is DumpFormat.CTL
    parse = parser(DumpFormat.CTL, NameRules(), "")
    changes = [change for line in text.splitlines() if (change := parse(line))]
    assert changes == [Wanted(r.name, int(r.state), r.server, r.partition, r.acl) for r in records]


@given(st.lists(st.from_regex(rb"[a-z][a-z.]{0,8}", fullmatch=True), unique=True, max_size=5), SERVER)
def test_a_map_reads_back_as_it_was(users: list[bytes], server: str) -> None:
    records = [MailboxRecord(b"user." + u.replace(b".", b"^"), State.ACTIVE, server, "p") for u in users]
    text = b"".join(write_map(records, NameRules()))
    parse = parser(DumpFormat.MAP, NameRules(), "")
    assert [parse(line) for line in text.splitlines()] == [Wanted(r.name, 2, server) for r in records]


@given(st.lists(RECORD, max_size=8), st.integers(min_value=1, max_value=3))
def test_an_undo_file_reads_back_backwards(records: list[MailboxRecord], size: int) -> None:
    changes = [Wanted(r.name, int(r.state), r.server, r.partition, r.acl) for r in records]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "undo"
        with UndoWriter(path, "list") as undo:
            for start in range(0, len(changes), size):
                undo.write(changes[start : start + size])
        if changes:
            with ImportFile(path, NameRules()) as source:
                assert list(source.changes()) == changes[::-1]


@given(st.binary(max_size=200), st.sampled_from(list(DumpFormat)))
def test_any_line_is_a_change_nothing_or_refused(line: bytes, form: DumpFormat) -> None:
    for parse in (parser(form, NameRules(), "be1"), parse_undo_line):
        try:
            parse(line)
        except InvalidName:
            continue


@given(st.text(alphabet='"{}[]:,\\ud8f0aclserver partition', max_size=60).map(str.encode))
def test_any_json_like_line_is_a_change_nothing_or_refused(text: bytes) -> None:
    for line in (b'"user.a": ' + text, b'"user.a": {"server": "be1", "acl": ' + text + b"}", text):
        for parse in (parser(DumpFormat.CTL, NameRules(), "be1"), parse_undo_line):
            try:
                parse(line)
            except InvalidName:
                continue


@given(st.binary(max_size=300))
def test_the_form_of_any_text_is_found(text: bytes) -> None:
    assert detect(text) in DumpFormat
    assert list(lines_backwards(io.BytesIO(text))) == [line for line in text.split(b"\n") if line][::-1]
