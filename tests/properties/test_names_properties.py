"""Names: what goes out comes back, and an address never names another user's mailbox."""

from __future__ import annotations

from hypothesis import assume, example, given
from hypothesis import strategies as st

from cyrusext.errors import InvalidName
from cyrusext.model import check_name
from cyrusext.names import (
    NameRules,
    from_external,
    inbox_of_user,
    is_inbox,
    mailbox_of_address,
    to_external,
    user_of_mailbox,
)

RULES = st.builds(
    NameRules,
    virtdomains=st.booleans(),
    default_domain=st.sampled_from(["", "example.org"]),
    unix_hierarchy_separator=st.booleans(),
    recipient_delimiter=st.sampled_from(["", "+", "+-"]),
    postuser=st.sampled_from(["", "post"]),
    downcase=st.booleans(),
)
LEVEL = st.one_of(
    st.sampled_from([b"user", b"alice", b"shared", b"DELETED", b"al^ice", b"INBOX", b"a b", b"a/b", b"a@b"]),
    st.binary(min_size=1, max_size=12),
)
NAME = st.builds(
    lambda domain, levels: domain + b".".join(levels),
    st.sampled_from([b"", b"", b"example.net!", b"example.org!"]),
    st.lists(LEVEL, min_size=1, max_size=4),
)
ADDRESS = st.one_of(
    st.binary(max_size=30),
    st.builds(
        lambda local, domain: local + b"@" + domain,
        st.binary(min_size=1, max_size=10),
        st.sampled_from([b"example.org", b"EXAMPLE.org", b"example.net", b"[192.0.2.1]"]),
    ),
    st.text(alphabet='ab.+-^"\\@<>!/ä:', max_size=20).map(str.encode),
)


@given(NAME, RULES)
def test_internal_to_external_and_back(name: bytes, rules: NameRules) -> None:
    try:
        external = to_external(name, rules)
    except InvalidName:
        return
    if rules.virtdomains and rules.default_domain:
        name = name.removeprefix(rules.default_domain.encode() + b"!")
    assert from_external(external, rules) == name


@given(NAME, RULES)
@example(b"a@b.c@", NameRules(virtdomains=True))
@example(b"a@b.c@example.org", NameRules(virtdomains=True, default_domain="example.org"))
@example(b"a@b.c@example.org", NameRules(virtdomains=True))
def test_external_to_internal_and_back(text: bytes, rules: NameRules) -> None:
    try:
        internal = from_external(text, rules)
    except InvalidName:
        return
    check_name(internal)
    # Without the Unix separator `^` is already how a dot is written, so that nothing is lost either way.
    assert from_external(to_external(internal, rules), rules) == internal


@given(NAME)
def test_ordinary_names_have_an_external_form_everywhere(name: bytes) -> None:
    assume(all(byte not in b"/@!^" for byte in name) and b".." not in b"." + name + b".")
    assume(not name.upper().startswith(b"INBOX"))
    try:
        check_name(name)
    except InvalidName:
        return
    for rules in (NameRules(), NameRules(True, "example.org"), NameRules(unix_hierarchy_separator=True)):
        assert from_external(to_external(name, rules), rules) == name


@given(ADDRESS, RULES)
def test_any_address_is_a_mailbox_or_refused(address: bytes, rules: NameRules) -> None:
    try:
        name = mailbox_of_address(address, rules)
    except InvalidName:
        return
    check_name(name)
    owner = user_of_mailbox(name, rules)
    if owner is not None and is_inbox(name, rules):
        # The mailbox of an address is the INBOX of exactly one user, never a folder of another one.
        assert name.split(b"!")[-1].count(b".") == 1 or b"!" in owner


@given(st.binary(min_size=1, max_size=20), st.sampled_from([b"", b"@example.net", b"@example.org"]), RULES)
def test_a_user_owns_the_inbox_that_is_his(local: bytes, domain: bytes, rules: NameRules) -> None:
    assume(b"@" not in local and b"^" not in local and b"!" not in local)
    try:
        inbox = inbox_of_user(local + domain, rules)
    except InvalidName:
        return
    assert is_inbox(inbox, rules)
    shown = domain if rules.virtdomains and domain != b"@" + rules.default_domain.encode() else b""
    assert user_of_mailbox(inbox, rules) == local + shown


@given(
    st.from_regex(rb"[a-z][a-z.]{0,10}", fullmatch=True),
    st.from_regex(rb"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~.-]{0,10}", fullmatch=True),
    RULES,
)
def test_the_detail_never_changes_the_user(user: bytes, detail: bytes, rules: NameRules) -> None:
    assume(user != b"post")
    rules = rules._replace(recipient_delimiter=rules.recipient_delimiter or "+")
    plain = mailbox_of_address(user + b"@example.org", rules)
    assert mailbox_of_address(user + b"+" + detail + b"@example.org", rules) == plain
