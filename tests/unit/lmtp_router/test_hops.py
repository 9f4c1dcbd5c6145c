"""Received fields: how many a header has, however it is cut, and the one that is written."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtp_router.protocol.hops import MAX_HEADER, Hops
from lmtp_router.protocol.identity import Origin
from lmtp_router.protocol.received import build_received, with_protocol

FIELD = b"Received: from a (b [10.0.0.1])\r\n\tby c with LMTP id d;\r\n\tMon, 30 Nov 2026 21:00:00 +0000\r\n"


def exceeds(message: bytes, limit: int, size: int) -> bool:
    hops = Hops(limit)
    hops.begin()
    found = False
    for at in range(0, len(message), size):
        if hops.active:
            found = hops.feed(message[at : at + size]) or found
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 9, 10, 11, 100, 100_000])
@pytest.mark.parametrize(
    ("message", "count"),
    [
        (b"", 0),
        (b"\r\n", 0),
        (b"\r\nReceived: x\r\n" * 5, 0),
        (FIELD, 1),
        (FIELD * 3 + b"Subject: x\r\n\r\nbody\r\n", 3),
        (b"Subject: x\r\n" + FIELD * 3 + b"\r\n" + FIELD * 9, 3),
        (b"Subject: Received:\r\n Received: folded\r\nX-Received: x\r\n" + FIELD * 2 + b"\r\n", 2),
        (FIELD * 2 + b"no header end", 2),
    ],
)
def test_fields_are_counted_in_the_header_only(message: bytes, count: int, size: int) -> None:
    assert not exceeds(message, count, size)
    assert count == 0 or exceeds(message, count - 1, size)


@given(st.lists(st.sampled_from([FIELD, b"To: x\r\n", b" folded\r\n"]), max_size=12), st.integers(1, 80))
def test_cuts_do_not_matter(lines: list[bytes], size: int) -> None:
    message = b"".join(lines) + b"\r\n" + FIELD
    count = lines.count(FIELD)
    assert not exceeds(message, count, size)
    assert count == 0 or exceeds(message, count - 1, size)


def test_a_header_without_end_is_not_looked_at_for_ever() -> None:
    hops = Hops(1)
    hops.begin()
    fed = 0
    while hops.active:
        hops.feed(b"X: " + b"x" * 995 + b"\r\n")
        fed += 1000
    assert fed < MAX_HEADER + 2000
    hops.begin()
    assert hops.active
    assert hops.feed(FIELD * 2 + b"\r\n")


@pytest.mark.parametrize(
    ("smtp", "extended", "utf8", "secure", "login", "name"),
    [
        (False, True, False, False, False, "LMTP"),
        (False, True, False, True, True, "LMTPSA"),
        (False, True, True, True, False, "UTF8LMTPS"),
        (True, True, False, False, True, "ESMTPA"),
        (True, False, False, False, False, "SMTP"),
        (True, True, True, True, True, "UTF8SMTPSA"),
    ],
)
def test_how_a_message_came(smtp: bool, extended: bool, utf8: bool, secure: bool, login: bool, name: str) -> None:
    assert with_protocol(smtp=smtp, extended=extended, utf8=utf8, secure=secure, login=login) == name


def test_the_field() -> None:
    origin = Origin("c.example.org", "10.0.0.1", 25, helo="client")
    assert build_received(origin, "router", "LMTP", "1-2") == (
        b"Received: from client (c.example.org [10.0.0.1])\r\n\tby router (cyrusext) with LMTP id 1-2;\r\n\t"
    )
    assert b"from unknown ([IPv6:2001:db8::1])" in build_received(Origin(address="2001:db8::1"), "r", "LMTP", "1")
    assert b"from x (local)" in build_received(Origin(helo="x"), "r", "LMTP", "1")
    assert b"from [10.0.0.1] (" in build_received(Origin(helo="[10.0.0.1]"), "r", "LMTP", "1")


@given(st.text(max_size=80), st.text(max_size=80))
def test_nobody_writes_his_own_header(helo: str, name: str) -> None:
    field = build_received(Origin(name, "10.0.0.1", helo=helo), "router", "LMTP", "1-2")
    assert re.fullmatch(
        rb"Received: from \S+ \((?:\S+ )?\[10\.0\.0\.1\]\)\r\n\tby router \(cyrusext\) with LMTP id 1-2;\r\n\t", field
    )
