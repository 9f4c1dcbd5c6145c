"""Addresses that the index reads itself mean the mailbox that cyrusext.names says."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cyrusext.errors import InvalidName
from cyrusext.index._lookup import Addresses
from cyrusext.names import NameRules, mailbox_of_address

alphabet = st.sampled_from([*'aAbZ09.+-_=!/@"\\ <>:%^é', "user", "example.org", "post", "EXAMPLE.org", "@example.org"])
rules = st.builds(
    NameRules,
    virtdomains=st.booleans(),
    default_domain=st.sampled_from(["", "example.org", "Example.ORG"]),
    recipient_delimiter=st.sampled_from(["+", "", "+-", "="]),
    postuser=st.sampled_from(["", "post", "Post"]),
    downcase=st.booleans(),
)


@given(st.lists(alphabet, max_size=8).map(lambda parts: "".join(parts).encode()), rules)
@settings(max_examples=2000)
@example(b"post@example.org", NameRules(postuser="post"))
@example(b"POST+@example.org", NameRules(postuser="post"))
def test_plain_addresses(address: bytes, names: NameRules) -> None:
    plain = Addresses(
        names.virtdomains,
        names.default_domain.encode(),
        names.recipient_delimiter.encode(),
        names.postuser.encode(),
        names.downcase,
    )
    found = plain.mailbox(address)
    try:
        wanted = mailbox_of_address(address, names)
    except InvalidName:
        assert found is None
    else:
        assert found in (None, wanted)


def test_most_addresses_are_plain() -> None:
    plain = Addresses(True, b"example.org", b"+", b"", True)
    assert plain.mailbox(b"Alice.B+lists@example.net") == b"example.net!user.alice^b"
    assert plain.mailbox(b"alice@Example.org") == b"user.alice"
    assert plain.mailbox(b"a" * 600 + b"@example.org") is None
