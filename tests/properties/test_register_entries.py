"""Ballots and entries of registers: their texts keep order, and what was written is what is read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cyrusext.directory import schema
from cyrusext.directory.ballots import MAX_COUNTER, MAX_PROPOSER, MAX_ROUND, Ballot, parse_ballot
from cyrusext.directory.register import Copy, Value
from cyrusext.model import Flag, MailboxRecord, State

BALLOT = st.builds(Ballot, st.integers(0, MAX_COUNTER), st.integers(0, MAX_PROPOSER), st.integers(0, MAX_ROUND))
CLEAN = b"\0\r\n\x1d\x1f"
RECORD = st.builds(
    MailboxRecord,
    name=st.binary(min_size=1, max_size=490).map(lambda name: name.translate(None, CLEAN) or b"x"),
    state=st.sampled_from(State),
    server=st.text(max_size=20),
    partition=st.text(max_size=20),
    acl=st.binary(max_size=60).map(lambda acl: acl.translate(None, b"\0\r\n")),
    seq=st.integers(1, 1 << 60),
    flags=st.integers(0, 7).map(Flag),
    changed_at=st.integers(0, 1 << 60),
    changed_by=st.text(max_size=20),
)


@given(BALLOT, BALLOT)
def test_the_order_of_texts_is_that_of_ballots(a: Ballot, b: Ballot) -> None:
    assert (a < b) == (a.text < b.text)
    assert parse_ballot(a.text) == a and len(a.text) == 38


@given(RECORD, BALLOT, BALLOT, st.binary(min_size=1, max_size=32), st.booleans())
def test_an_entry_is_read_as_it_was_written(
    record: MailboxRecord, a: Ballot, b: Ballot, op: bytes, empty: bool
) -> None:
    copy = Copy(max(a, b)) if empty else Copy(max(a, b), min(a, b), Value(record, op))
    written = dict(schema.entry(record.name, copy))
    assert schema.parse(written, schema.key_of(record.name)) == (record.name, copy)


@given(st.dictionaries(st.sampled_from(schema.ATTRIBUTES), st.lists(st.binary(max_size=45), max_size=2)))
def test_nothing_else_is_believed(attributes: dict[str, list[bytes]]) -> None:
    """Parse it, or raise EntryInvalid: never another error."""
    try:
        schema.parse(attributes)
    except schema.EntryInvalid:
        return
    raise AssertionError("no ballot comes about by chance")
