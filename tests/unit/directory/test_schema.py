"""An entry says what a copy is, and nothing else is believed."""

from __future__ import annotations

import pytest

from cyrusext.directory import schema
from cyrusext.directory.ballots import Ballot
from cyrusext.directory.register import Copy, Request, Step, Value
from cyrusext.model import Flag, MailboxRecord, State

NAME = b"user.alice"
BASE = "dc=x"
BALLOT = Ballot(1, 2, 3)
VALUE = Value(MailboxRecord(NAME, State.ACTIVE, "be1", "", b"a\tl", 4, Flag.HELD, 5, "murder@10.0.0.1"), b"op")


def good() -> dict[str, list[bytes]]:
    return dict(schema.entry(NAME, Copy(BALLOT, BALLOT, VALUE)))


def test_a_request_is_one_operation() -> None:
    prepare = Request(0, 1, Step.PREPARE, BALLOT)
    text = "000000000001.0000000000000002.00000003"
    asked = schema.operation(prepare, NAME, BASE)
    assert asked.assertion == f"(!(cyxPromised>={text}))" and asked.post_read
    assert asked.changes == [(2, "cyxPromised", [text.encode()])] and asked.attributes is None
    accept = schema.operation(Request(0, 1, Step.ACCEPT, BALLOT, VALUE), NAME, BASE)
    assert accept.assertion == f"(cyxPromised<={text})" and not accept.post_read
    assert accept.changes is not None and (2, "cyxPartition", None) in accept.changes
    follow = schema.operation(Request(0, 1, Step.FOLLOW, BALLOT, VALUE, BALLOT), NAME, BASE)
    assert follow.assertion == f"(&(cyxPromised={text})(cyxAccepted={text}))"
    assert schema.operation(Request(0, 1, Step.LOOK, BALLOT), NAME, BASE) == (follow.dn, None, None, "", False)
    new = schema.operation(Request(0, 1, Step.ACCEPT, BALLOT, VALUE, create=True), NAME, BASE)
    assert new.attributes is not None and schema.parse(dict(new.attributes)) == (NAME, Copy(BALLOT, BALLOT, VALUE))
    empty = schema.operation(prepare._replace(create=True), NAME, BASE)
    assert empty.attributes is not None and schema.parse(dict(empty.attributes)) == (NAME, Copy(BALLOT))


def test_names_that_a_textual_rdn_would_merge() -> None:
    names = [
        b"user.a",
        b"user.A",
        b"user.a ",
        b" user.a",
        b"user.a  b",
        b"user.a b",
        b"user.\xc3\xa9",
        b"user.e\xcc\x81",
    ]
    assert len({schema.dn_of(name, BASE) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("attribute", "values"),
    [
        ("cyxMailbox", [b""]),
        ("cyxMailbox", [b"user.bob"]),
        ("cyxMailbox", []),
        ("cyxPromised", [b"7"]),
        ("cyxPromised", [Ballot(1, 2, 2).text]),
        ("cyxAccepted", [b"x" * 38]),
        ("cyxOp", []),
        ("cyxOp", [b"a", b"b"]),
        ("cyxOp", [b"x" * 33]),
        ("cyxSeq", [b"0"]),
        ("cyxSeq", [b"-1"]),
        ("cyxSeq", [b"9" * 30]),
        ("cyxState", [b"4"]),
        ("cyxFlags", [b"8"]),
        ("cyxAcl", [b"a\0"]),
        ("cyxServer", [b"\xff"]),
        ("cyxChangedAt", [b"now"]),
    ],
)
def test_nonsense_is_named(attribute: str, values: list[bytes]) -> None:
    with pytest.raises(schema.EntryInvalid):
        schema.parse({**good(), attribute: values}, schema.key_of(NAME))


def test_a_value_without_its_ballot_is_nonsense() -> None:
    found = good()
    del found["cyxAccepted"]
    with pytest.raises(schema.EntryInvalid, match="cyxOp without cyxAccepted"):
        schema.parse(found)
