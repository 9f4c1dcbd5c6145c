"""kill -9 of a worker, of the router's parent, of all of it, of a backend and of Postfix, at every phase of a message.

Real Postfix, router and two real Cyrus backends, messages to two users of each.  Counted at the end of each run:
1. every message that Postfix took is in every mailbox, and nobody was bounced;
2. where only a backend was killed, no recipient is given again to the backend that had said 250 for it: one copy;
3. where only the router was killed, Postfix is told 250 for each recipient, and once;
4. more copies than one are as few as the messages that were under way when something fell.

Short: a thousand messages and a seeded half of the blows; long (CYREXT_LONG): ten thousand, and every blow many times.
"""

from __future__ import annotations

import os
import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.wired import BACK, FRONT, POINTS, Flood, Wired, told
from tests.harness import imap
from tests.harness.cyrus import LOSES_MASTER
from tests.harness.roots import Root
from tests.harness.waiting import wait_until
from tests.plugins.points import announce, count

pytestmark = [pytest.mark.faults, pytest.mark.slow]

LONG = bool(os.environ.get("CYREXT_LONG"))
SEED = os.environ.get("CYREXT_SEED", "20261130")
IN_FLIGHT = 20 * 4
"""Deliveries that Postfix has going at most, and so what one blow may make it repeat."""
SHORT = {"lmtp": {"timeouts": {"connect": 2, "greeting": 2, "envelope": 2, "data": 3, "final": 3, "idle": 60}}}
VICTIMS = {"be1": [BACK], "worker": [FRONT, BACK], "parent": [FRONT, BACK], "router": [FRONT, BACK], "postfix": [FRONT]}
"""Who is killed -> on which wire."""
MESSAGES = {"be1": 250, "router": 500, "postfix": 250}
"""In each run of the short version; ten times as many in the long one."""


@pytest.fixture(scope="module")
def group(root: Root, new_state: Callable[[], Path]) -> Iterator[Wired]:
    with Wired(root, new_state(), SHORT) as delivery:
        for backend in delivery.backends:
            backend.expect(*LOSES_MASTER)
        delivery.router.expect(r"event=\S+")  # it complains of what we do to the others
        delivery.postfix.expect(r"fatal: ", r"error: ")  # its processes lose each other when all of them are killed
        yield delivery


def blows(victims: list[str]) -> list[tuple[str, str, str]]:
    """Victim, wire, point: all that these victims can be hit by; a half of them, each point of a wire among it."""
    chance = random.Random(f"{SEED} {victims}")
    every = [(victim, where, point) for victim in victims for where in VICTIMS[victim] for point in POINTS]
    chance.shuffle(every)
    if LONG or len(victims) == 1:
        return every
    kept: list[tuple[str, str, str]] = []
    for case in every:
        if sum(case[1:] == other[1:] for other in kept) < 1:
            kept.append(case)
    return kept


def kill(group: Wired, victim: str) -> None:
    match victim:
        case "worker":
            os.kill(group.worker(), signal.SIGKILL)
        case "parent":
            os.kill(group.router.pid, signal.SIGKILL)
        case "router":
            group.router.kill()
        case "be1":
            group.be1.kill()
        case "postfix":
            group.postfix.kill()


def restore(group: Wired, victim: str) -> None:
    match victim:
        case "worker":
            wait_until(group.router.ready, "the parent has put another worker in its place", 20)
        case "parent" | "router":
            group.router.kill()  # what is left of it
            group.router.start()
        case "be1":
            group.be1.start()
        case "postfix":
            group.postfix.start()


@pytest.mark.parametrize(
    "victims", [["be1"], ["worker", "parent", "router"], ["postfix"]], ids=["be1", "router", "postfix"]
)
@pytest.mark.timeout(1200)
def test_every_message_arrives_whoever_is_killed_when(
    group: Wired, victims: list[str], request: pytest.FixtureRequest
) -> None:
    messages = MESSAGES[victims[-1]] * (10 if LONG else 1)
    users = [(group.user(), backend) for backend in group.backends for _ in range(2)]
    for user, backend in users:
        with backend.imap() as admin:
            imap.create(admin, f"user.{user}")
    before = {name: told(wire) for name, wire in group.wires.items()}
    mark = group.postfix.mark()
    flood = Flood(group, [f"{user}@example.org" for user, _ in users], 0)
    cases = blows(victims) * (5 if LONG else 1)
    each = messages // (len(cases) + 1)
    for victim, where, point in cases:
        name = f"{victim} killed between {where}: {point}"
        announce(request.config, name)
        group.strike(where, point, lambda victim=victim: kill(group, victim), lambda: flood.allow(each))  # type: ignore[misc]
        count(request.config, name)
        restore(group, victim)
    flood.finish(messages)
    group.postfix.wait_empty(60 + messages / 20)
    assert not group.postfix.log_contains("status=bounced", since=mark), "mail was bounced"

    heard = {name: told(wire) - before[name] for name, wire in group.wires.items()}
    copies: Counter[tuple[int, str]] = Counter()
    for user, backend in users:
        with backend.imap(user) as connection:
            copies.update((number_of(text), user) for text in imap.messages(connection))
    wanted = {(number, user) for number in range(messages) for user, _ in users}
    assert wanted - copies.keys() == set(), f"seed {SEED}: lost after {cases}"
    assert copies.keys() == wanted
    again = copies.total() - len(wanted)
    assert again <= (len(cases) * IN_FLIGHT + flood.again * len(users)), f"seed {SEED}: {again} copies too many"
    print(
        f"{victims}: {messages} messages, {len(cases)} blows, {len(wanted)} deliveries owed, {copies.total()} copies,"
        f" 0 lost; {sum(n > 1 for n in copies.values())} more than once; {flood.again} sent again by the client"
    )
    if victims == ["be1"]:
        twice = [case for case, times in heard[BACK].items() if times > 1]
        assert twice == [], f"seed {SEED}: be1 had said 250 and was given it again"
        assert not [case for case, times in heard[FRONT].items() if times > 1]
    if "postfix" not in victims:
        twice = [case for case, times in heard[FRONT].items() if times > 1]
        assert twice == [], f"seed {SEED}: Postfix had heard 250 and sent it again"
        assert {(case.number, case.user) for case in heard[FRONT]} == wanted


def number_of(text: bytes) -> int:
    found = re.search(rb"^Subject: flood-(\d+)\r$", text, re.MULTILINE)
    assert found is not None, text[:200]
    return int(found[1])
