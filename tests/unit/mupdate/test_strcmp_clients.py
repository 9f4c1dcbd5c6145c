"""Clients that merge by strcmp, as Cyrus before 3.6 does: right with `order`, wrong without, so that this can fail.

No Debian release that is tested has such a Cyrus (in 3.6 only cyr_dbtool heeds `improved_mboxlist_sort`), so the two
merges are written here as that Cyrus does them: the slave's after UPDATE, and the one of ``ctl_mboxlist -m``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyrusext.mupdate.service import Network, Order
from tests.harness.inprocess import InProcessMaster
from tests.harness.mupdate import Entry, Mupdate

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
ELSEWHERE = ipaddress.ip_network("10.0.0.0/8")
BELOW_DOT = [bytes([byte]) for byte in range(0x20, 0x2E)]
NAMES = [
    *(b"user.a" + odd + b"b" for odd in BELOW_DOT),
    *(b"user.a.c" + odd for odd in BELOW_DOT),
    b"user.a",
    b"user.a.c",
    b"user.a0",
    b"user.\xc3\xa9",
    b"user.b^c.x",
    b"user.john^doe",
    b"user.john2",
    b"user.johnA^",
    b"example.org!user.a",
    b"example.org!user.a.b",
    b"example.org!user.a-b",
    b"example.org.uk!user.a",
    b"example-a.org!user.a",
    b"DELETED.user.a.6B047356",
]


@pytest.fixture(params=[LOOPBACK, ELSEWHERE], ids=["its network", "another network"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[InProcessMaster, bool]]:
    """A master with all NAMES, half of them on be2, and whether `order` is for our clients."""
    orders: list[tuple[Network, Order]] = [(request.param, "strcmp")]
    with InProcessMaster(tmp_path, orders=orders) as master:
        client = master.connect()
        for number, name in enumerate(NAMES):
            client.ok(b"ACTIVATE", name, b"be%d!default" % (1 + number % 2), b"a\tlrs\t")
        yield master, request.param is LOOPBACK


def merge(known: set[bytes], told: list[bytes]) -> tuple[set[bytes], set[bytes]]:
    """What a slave has after UPDATE, and what it deleted or wrote: two lists, both taken to be in strcmp's order."""
    local, result, touched = sorted(known), set(known), set()
    here = there = 0
    while here < len(local) or there < len(told):
        if there == len(told) or (here < len(local) and local[here] < told[there]):
            result.discard(local[here])  # the master does not have it
            touched.add(local[here])
            here += 1
        elif here == len(local) or told[there] < local[here]:
            result.add(told[there])
            touched.add(told[there])
            there += 1
        else:
            here, there = here + 1, there + 1
    return result, touched


def push(client: Mupdate, local: list[bytes], server: bytes) -> list[bytes]:
    """What ends ``ctl_mboxlist -m`` of `server`: mailboxes that are its own, and not where LIST had to have them."""
    listed = [entry.name for entry in client.list(server + b"!")]
    confused = []
    for name in sorted(local):
        if listed and listed[0] == name:
            listed.pop(0)
        elif (found := client.find(name)) is not None and found.location.startswith(server + b"!"):
            confused.append(name)  # "mupdate said not us before it said us": it ends here
    return confused


def names(entries: list[Entry]) -> list[bytes]:
    return [entry.name for entry in entries]


def test_the_slaves_merge_is_exact(served: tuple[InProcessMaster, bool]) -> None:
    master, ordered = served
    told = [line.arguments[0] for line in master.stream().first]
    assert sorted(told) == sorted(NAMES)
    # while it was away two mailboxes went, two came
    changed = {b"user.a.c.gone", b"user.gone", b"user.a-b", b"example.org!user.a.b"}
    for known, expected in ((set(NAMES), set()), (set(NAMES) ^ changed, changed)):
        result, touched = merge(known, told)
        assert result == set(NAMES)
        assert (touched == expected) is ordered, "without `order` mailboxes are deleted and written anew"


def test_the_push_of_a_backend_is_exact(served: tuple[InProcessMaster, bool]) -> None:
    master, ordered = served
    client = master.connect()
    for server in (b"be1", b"be2"):
        local = [name for number, name in enumerate(NAMES) if b"be%d" % (1 + number % 2) == server]
        assert names(client.list(server + b"!")) != [] and bool(push(client, local, server)) is not ordered


def test_every_list_is_in_its_order(served: tuple[InProcessMaster, bool]) -> None:
    master, ordered = served
    client = master.connect()
    for told in (names(client.list()), names(client.list(b"be1!")), names(client.list(b"be2"))):
        assert told and (told == sorted(told)) is ordered
    partial = [line.arguments[0] for line in master.stream(b"be1").first]
    assert (partial == sorted(partial)) is ordered
