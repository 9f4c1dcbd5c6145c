"""Which records are repeated to a stock slave."""

from __future__ import annotations

import pytest

from cyrusext.mupdate.healing import Repeats


def cyrus_key(name: bytes) -> bytes:
    domain, mark, local = name.partition(b"!")
    if mark:
        return domain + b"\x1d" + cyrus_key(local)
    return name.replace(b".", b"\x1f").replace(b"^", b".")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (b"user.alice", False),
        (b"user.a-b", True),
        (b"user.a.Sent Items", True),
        (b"user.a+b", True),
        (b"user.a^b", True),  # sorts as user.a.b would if that were one name
        (b"user.a/b", False),
        (b"user.\xc3\xa9", False),
        (b"example.org!user.alice", False),
        (b"example.org!user.a-b", True),
        (b"my-site.org!user.alice", True),
    ],
)
def test_names_with_a_byte_that_parts_the_orders(name: bytes, wanted: bool) -> None:
    repeats = Repeats()
    repeats.learn(name)
    assert repeats.wants(name) is wanted


def test_a_domain_counts_only_beside_one_that_it_is_a_dotted_prefix_of() -> None:
    domains = [b"a.org", b"example.org", b"example.org.uk", b"x.example.org.uk", b"example.orgs", b"example.org.uk.co"]
    repeats = Repeats()
    for name in sorted((domain + b"!user.u" for domain in domains for _ in range(2)), key=cyrus_key):
        repeats.learn(name)
    assert {domain for domain in domains if repeats.wants(domain + b"!user.u")} == {
        b"example.org",
        b"example.org.uk",
        b"example.org.uk.co",
    }
    assert not repeats.wants(b"user.u")


def test_names_left_out_agree_in_both_orders() -> None:
    """What is not repeated is in the same order for strcmp as for Cyrus: the merge can not lose it."""
    names = [b"user.a", b"user.a.b", b"user.a0", b"user.aa", b"user.a-b", b"user.a.b c", b"d.e!user.x", b"d!user.y"]
    names += [b"user.a^b", b"user.aB", b"user.a1.c", b"user.a/b", b"d!user.y^z", b"d!user.y0"]
    repeats = Repeats()
    for name in sorted(names, key=cyrus_key):
        repeats.learn(name)
    kept = [name for name in names if not repeats.wants(name)]
    assert sorted(kept, key=cyrus_key) == sorted(kept)
    assert b"user.a.b" in kept


def test_beside_literal_dots_names_left_out_agree_in_both_orders() -> None:
    names = [
        b"user.john^doe",
        b"user.john2",
        b"user.johnny",
        b"user.john^",
        b"user.kay^x.A",
        b"d!user.a^b",
        b"d!user.a0",
    ]
    repeats = Repeats()
    kept = [name for name in names if not repeats.wants(name) and not repeats.wants_beside_dots(name)]
    assert sorted(kept, key=cyrus_key) == sorted(kept)
    assert {b"user.john2", b"user.kay^x.A", b"d!user.a0"} <= set(names) - set(kept)
    assert sorted(names, key=cyrus_key) != sorted(names)
