"""Register writes on three real slapds beside one slapd's plain ones, and what the registers rely on.

    python benchmarks/ldap_write.py [--push N] [--entries N] [--rounds N]

Some 4 minutes with the defaults; `--push 1000000` and `--entries 10000000` take what they take, ended after two hours.
All of it on disk, slapds, proposer and streams on the same two CPUs.  The slapds share one disk: what they wait for one
after the other here, they wait for at the same time on machines of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ldap
from ldap.syncrepl import SyncDoneControl, SyncRequestControl

from benchmarks.rig.ldap_load import Load, Report, Wire, changed, load_on
from benchmarks.rig.masters import say, workplace
from benchmarks.rig.script import Bench, run
from cyrusext.directory import schema
from cyrusext.directory.ballots import Ballot
from cyrusext.directory.register import Copy, Value
from tests.harness import roots
from tests.harness.network import Network
from tests.harness.slapd import BASE, OPERATOR, SECRET, WRITER, Slapd, voters
from tests.harness.wallclock import WallClock

LIMIT_S = 7200
IN_FLIGHT = (1, 8, 64)
KNOWN = 2000
NOBODY = f"cn=generation-2,ou=writers,{BASE}".encode()


NOTE = (
    "Nothing is pinned here: slapds and proposer share both CPUs. A row is the round with the median rate, with its own"
    " latencies:"
)


def names(prefix: str, first: int = 0) -> Iterator[bytes]:
    """Mailboxes of users with some folders each."""
    folders = (b"", b".Sent", b".Drafts", b".Archive.2026", b".Junk")
    return (b"user.%s%07d%s" % (prefix.encode(), number // 5, folders[number % 5]) for number in itertools.count(first))


Way = tuple[Load, Callable[[bytes, Callable[[], None]], None], Callable[[], Iterator[bytes]]]
"""Who writes, how, and which mailboxes."""


def figures(report: Report) -> list[str]:
    return [f"{report.per_s:,.0f}", f"{report.p50_ms:.2f}", f"{report.p99_ms:.2f}", f"{report.cpu:.0%}"]


def row(label: str, in_flight: int, ratio: str, report: Report) -> str:
    return "| " + " | ".join([label, str(in_flight), ratio, *figures(report)]) + " |"


def middle(reports: Sequence[Report]) -> Report:
    """The round with the median rate (of an even number the lower one), with its own latencies."""
    return sorted(reports)[(len(reports) - 1) // 2]


def writes(bench: Bench, slapds: Sequence[Slapd]) -> list[str]:
    """The rates: every way of writing at 1, 8, 64 in flight, in turn within each round."""
    seconds, known = bench.size(2.0, 0.2), list(itertools.islice(names("known"), bench.size(KNOWN, 200)))
    found: dict[tuple[str, int], list[Report]] = {}
    with load_on(slapds) as three, load_on(slapds[:1]) as one:
        three.run(iter(known), 64, partial(three.register_write, absent=True))
        new, plain_new = names("new"), names("plain")
        plain = list(itertools.islice(names("old"), len(known)))
        one.run(iter(plain), 64, partial(one.plain_write, add=True))
        ways: dict[str, Way] = {
            "modify, one slapd, plain": (one, partial(one.plain_write), lambda: itertools.cycle(plain)),
            "one round (sticky), three slapds": (
                three,
                partial(three.register_write, sticky=True),
                lambda: itertools.cycle(known),
            ),
            "two rounds, three slapds": (three, partial(three.register_write), lambda: itertools.cycle(known)),
            "add, one slapd, plain": (one, partial(one.plain_write, add=True), lambda: plain_new),
            "two rounds, new mailbox, three slapds": (
                three,
                partial(three.register_write, absent=True),
                lambda: new,
            ),
        }
        for round_ in range(bench.rounds):
            for in_flight in IN_FLIGHT:
                for label in list(ways)[:: -1 if round_ % 2 else 1]:
                    load, write, source = ways[label]
                    report = load.run(source(), in_flight, write, seconds)
                    found.setdefault((label, in_flight), []).append(report)
                    say(f"{label}, {in_flight} in flight: {report.per_s:,.0f}/s, p50 {report.p50_ms:.2f} ms")
    lines = ["| | in flight | to plain | per s | p50 ms | p99 ms | proposer's CPU |", "|---|---|---|---|---|---|---|"]
    for in_flight in IN_FLIGHT:
        for label in ways:
            peer = "add, one slapd, plain" if "new" in label or label.startswith("add") else "modify, one slapd, plain"
            ratio = middle(found[label, in_flight]).per_s / middle(found[peer, in_flight]).per_s
            shown = f"{ratio:.2f}×" if label != peer else "1"
            lines.append(row(label, in_flight, shown, middle(found[label, in_flight])))
    return [NOTE, "", *lines, ""]


def push(slapds: Sequence[Slapd], count: int) -> list[str]:
    """The first push of so many mailboxes, each a register of its own."""
    with load_on(slapds) as load:
        report = load.run(itertools.islice(names("push"), count), 64, partial(load.register_write, absent=True))
    say(f"push of {count:,}: {report.per_s:,.0f}/s")
    took = count / report.per_s
    return [
        f"A first push of {count:,} mailboxes by ACTIVATE, 64 in flight, took {took:,.1f} s: {report.per_s:,.0f}/s.",
        "",
    ]


def entry_size(slapd: Slapd, count: int) -> list[str]:
    """So many registers by slapadd, and what they take on disk."""

    def ldif() -> Iterator[str]:
        for number, name in enumerate(itertools.islice(names("size"), count), 1):
            record = changed(name)(None).record
            assert record is not None
            ballot = Ballot(number, 0x1234567890ABCDEF)
            copy = Copy(ballot, ballot, Value(record._replace(seq=2), b"%032d" % number))
            yield f"dn: {schema.dn_of(name, BASE)}\n"
            for attribute, [value] in schema.entry(name, copy):
                yield f"{attribute}: {value.decode()}\n"
            yield "\n"

    before, began = slapd.database_bytes(), time.monotonic()
    slapd.load(ldif(), timeout_s=LIMIT_S)
    took, grown = time.monotonic() - began, slapd.database_bytes() - before
    say(f"slapadd of {count:,}: {took:.1f} s, {grown / count:,.0f} bytes each")
    return [
        f"slapadd -q of {count:,} registers took {took:,.1f} s, the making of their text included; each takes"
        f" {grown / count:,.0f} bytes on disk.",
        "",
    ]


def generation(slapd: Slapd, moves: int) -> list[str]:
    """Take the right to write away while writes are in flight, and kill slapd at once, again and again.

    What is granted after the change was, or is newer by entryCSN, would be a write of a generation that is over.
    """
    late = newer = granted = lost = 0
    writer_entry = f"cn=generation,{BASE}"
    for turn in range(moves):
        wire, operator = Wire(slapd), ldap.initialize(slapd.uri)
        operator.simple_bind_s(OPERATOR, SECRET)
        numbers = []
        for number in range(40):
            text = b"%d" % number
            numbers.append(wire.connection.add(f"cn=t{turn}-{number},ou=nodes,{BASE}", beat(f"t{turn}-{number}", text)))
            if number == 20:
                move = operator.modify(writer_entry, [(ldap.MOD_REPLACE, "cyxWriter", [NOBODY])])
        operator.result(move, timeout=20)
        after = [
            wire.connection.add(f"cn=l{turn}-{number},ou=nodes,{BASE}", beat(f"l{turn}-{number}", b"0"))
            for number in range(8)
        ]
        granted += sum(succeeded(wire, number) for number in numbers)
        late += sum(succeeded(wire, number) for number in after)
        if turn % 5 == 0:
            slapd.kill()
            slapd.start()
            operator = ldap.initialize(slapd.uri)
            operator.simple_bind_s(OPERATOR, SECRET)
        [(_, found)] = operator.search_s(writer_entry, ldap.SCOPE_BASE, attrlist=["cyxWriter", "entryCSN"])
        lost += found["cyxWriter"] != [NOBODY]
        operator.modify_s(writer_entry, [(ldap.MOD_REPLACE, "cyxWriter", [WRITER.encode()])])
        reader = ldap.initialize(slapd.uri)
        reader.simple_bind_s(WRITER, SECRET)
        there = reader.search_s(f"ou=nodes,{BASE}", ldap.SCOPE_ONELEVEL, f"(cn=t{turn}-*)", ["entryCSN"])
        newer += sum(entry["entryCSN"][0] > found["entryCSN"][0] for _, entry in there)
    say(f"generation: {moves} changes, {granted} granted, {late} late, {newer} newer, {lost} rules lost")
    if late or lost:
        raise AssertionError(f"{late} writes were granted after the right was gone, {lost} changes of it were lost")
    return [
        f"The right to write was taken away {moves} times with writes in flight (every fifth time slapd was killed at"
        f" once): {granted:,} adds granted before it, {late} asked for after it, {newer} newer than it by entryCSN;"
        f" {lost} of the changes were lost by a kill.",
        "",
    ]


def beat(name: str, number: bytes) -> list[tuple[str, list[bytes]]]:
    return [("objectClass", [b"cyxNodeEntry"]), ("cn", [name.encode()]), ("cyxBeat", [number])]


def succeeded(wire: Wire, number: int) -> bool:
    try:
        wire.connection.result(number, timeout=20)
    except (ldap.INSUFFICIENT_ACCESS, ldap.NO_SUCH_OBJECT):
        return False
    return True


def refresh(slapd: Slapd, cookie: str | None) -> tuple[int, str | None]:
    """A refresh from `cookie`: how many entries came, and the new cookie (the old one where none came)."""
    connection = ldap.initialize(slapd.uri)
    connection.simple_bind_s(WRITER, SECRET)
    control = SyncRequestControl(criticality=True, cookie=cookie, mode="refreshOnly")
    number = connection.search_ext(f"ou=nodes,{BASE}", ldap.SCOPE_SUBTREE, attrlist=["cn"], serverctrls=[control])
    entries = 0
    while True:
        kind, data, _, controls = connection.result3(number, all=0, timeout=20)
        entries += sum(1 for _ in data) if kind == ldap.RES_SEARCH_ENTRY else 0
        if kind == ldap.RES_SEARCH_RESULT:
            done = [each.cookie for each in controls if isinstance(each, SyncDoneControl)]
            return entries, (done[0] if done and done[0] else cookie)


class Stream:
    """A node that follows: refreshAndPersist, the entries counted."""

    def __init__(self, slapd: Slapd) -> None:
        self.connection = ldap.initialize(slapd.uri)
        self.connection.simple_bind_s(WRITER, SECRET)
        control = SyncRequestControl(criticality=True, mode="refreshAndPersist")
        self.number = self.connection.search_ext(
            f"ou=nodes,{BASE}", ldap.SCOPE_SUBTREE, attrlist=["cn"], serverctrls=[control]
        )

    def heard(self, wanted: int, timeout_s: float) -> int:
        """How many entries come until there are as many as wanted, or for so long none comes."""
        entries = 0
        with contextlib.suppress(ldap.TIMEOUT):
            while entries < wanted:
                kind, data = self.connection.result(self.number, all=0, timeout=timeout_s)
                entries += len(data) if kind == ldap.RES_SEARCH_ENTRY else 0
        return entries


def clock_back(root: roots.Root, place: Path, network: Network, bench: Bench) -> list[str]:
    """A slapd whose clock goes back an hour: does a node that resumes hear of what is written then?"""
    lines = []
    count = bench.size(20, 5)
    for restart in (False, True):
        clock = WallClock(place / f"clock{restart:d}")
        slapd = Slapd("clocked", network.address(60 + restart), place / f"clocked{restart:d}", root)
        slapd.sandbox.shared.append(place / f"clock{restart:d}")
        slapd.variables = clock.environment
        slapd.configure()
        slapd.start()
        wire = Wire(slapd)

        def add(prefix: str, wire: Wire) -> None:
            for number in range(count):
                name = f"{prefix}{number}"
                wire.connection.add_s(f"cn={name},ou=nodes,{BASE}", beat(name, b"1"))

        add("before", wire)
        _, cookie = refresh(slapd, None)
        stream = Stream(slapd)
        stream.heard(count + 1, 5.0)
        clock.shift(-3600)
        if restart:
            slapd.restart()
            wire, stream = Wire(slapd), Stream(slapd)
            stream.heard(count + 1, 5.0)
        add("after", wire)
        live = stream.heard(count, 1.0)
        heard, later = refresh(slapd, cookie)
        again, _ = refresh(slapd, later)
        everything, _ = refresh(slapd, None)
        how = "restarted with its clock an hour back" if restart else "set back an hour while it ran"
        say(f"clock {how}: {live} heard live, {heard} on resuming, {again} on the next, of {count}")
        lines += [
            f"A slapd {how}: of {count} entries written then a node that was following heard {live}, one that resumed"
            f" {heard}; a full refresh gives {everything - 1} of all {2 * count}.",
            "",
        ]
        slapd.close()
    return lines


def measure(bench: Bench, own: argparse.Namespace) -> Sequence[str]:
    root = roots.build(bench.root.suite, "openldap", say=say)
    lines = [f"slapd {roots.package_version(root, 'slapd')}, back-mdb, synchronous, all of them on one disk.", ""]
    with workplace("disk") as (place, network):
        with voters(root, place, network, 3) as slapds:
            lines += writes(bench, slapds)
            lines += generation(slapds[0], bench.size(50, 5))
            lines += push(slapds, bench.size(own.push, 300))
        spare = Slapd("spare", network.address(50), place / "spare", root)
        spare.configure()
        lines += entry_size(spare, bench.size(own.entries, 500))
        spare.close()
        lines += clock_back(root, place, network, bench)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--push", type=int, default=100_000, help="mailboxes of the first push")
    parser.add_argument("--entries", type=int, default=200_000, help="registers whose size on disk is measured")
    own, rest = parser.parse_known_args()
    title = "Register writes on three slapds"
    return run(__file__, title, LIMIT_S, partial(measure, own=own), rest)


if __name__ == "__main__":
    sys.exit(main())
