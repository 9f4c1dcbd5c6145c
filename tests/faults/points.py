"""The named points at which the node is killed or stopped, and the operations of a backend that pass them.

Rule: this table is all there is.  A run of each operation without a fault shows that it passes exactly these points
(test_named_points.py), and a point of the table that no case hit fails the run.

A point is where the node is when the blow falls.  The session's: the client has *connected* and hears nothing, has its
*greeting*, has sent *half the login*, *the login* without an answer, the *login granted* is on its way, it says LOGOUT.
A command's, as ``ACTIVATE sent``: *sent* and not there yet; the steps of the commit by their names in libcyrusext
(``put-start``: received; ``commit-before``: nothing is on disk yet; ``commit-after``: committed, and the hot table does
not have it yet; ``hot-applied-one``: a part of it is there); *answered* and the answer not there yet.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.harness.failpoints import FailingNode
from tests.harness.wirefault import TO_CLIENT, WireFault

BEFORE_LOGIN = ("connected", "greeting", "half the login", "the login")
"""Here the client's own time limit, client_timeout, holds; later it waits for ever."""
SESSION = (*BEFORE_LOGIN, "login granted", "LOGOUT")
COMMIT = (
    "put-start",
    "put-unmarked",
    "put-record",
    "put-marked",
    "put-logged",
    "commit-start",
    "commit-trimmed",
    "commit-counts",
    "commit-seq",
    "commit-before",
    "commit-after",
    "hot-applied-one",
)
STEPS = ("sent", *COMMIT, "answered")
COMMANDS = ("RESERVE", "ACTIVATE", "DEACTIVATE", "DELETE")
FAULTS = ("kill", "stop")

SENT: dict[str, tuple[str, ...]] = {
    "create": ("RESERVE", "ACTIVATE"),
    "rename": ("DELETE", "RESERVE", "ACTIVATE"),
    "delete": ("DELETE", "RESERVE", "ACTIVATE"),
    "setacl": ("ACTIVATE",),
    "xfer": ("DEACTIVATE", "DEACTIVATE", "ACTIVATE", "ACTIVATE"),
}
"""Operation -> the changes that the backends send for it, in order; XFER for each of the user's two mailboxes."""
SESSIONS = {"xfer": 2}
"""How many connections an operation needs, where it is not one: XFER is the source's, then the target's."""


class Case(NamedTuple):
    """One blow: at the `turn`-th time that `operation` passes `point`."""

    operation: str
    point: str
    turn: int
    fault: str

    @property
    def before_login(self) -> bool:
        """No client has logged in yet: each of them ends its own wait."""
        return self.point in BEFORE_LOGIN and self.turn == 1

    @property
    def granted(self) -> bool:
        """The client has heard of every change that it is granted: only then may it say OK (XFER says it always)."""
        last_answered = f"{SENT[self.operation][-1]} answered"
        return self.point == "LOGOUT" or (self.fault == "stop" and self.point == last_answered)

    def __str__(self) -> str:
        return f"{self.operation}: {self.fault} at {self.point}{f' ({self.turn})' if self.turn > 1 else ''}"


def points_of(operation: str) -> Iterator[tuple[str, int]]:
    """Every point that `operation` passes, with the turns at which it does."""
    for point, turn in itertools.product(SESSION, range(1, SESSIONS.get(operation, 1) + 1)):
        yield point, turn
    sent = SENT[operation]
    for command in dict.fromkeys(sent):
        for step, turn in itertools.product(STEPS, range(1, sent.count(command) + 1)):
            yield f"{command} {step}", turn


ALL = [
    Case(operation, point, turn, fault)
    for operation in SENT
    for point, turn in points_of(operation)
    for fault in FAULTS
]
POINTS = tuple(dict.fromkeys(case.point for case in ALL))


def sample(chance: random.Random) -> list[Case]:
    """Choose few cases: every session point, every step of a commit, and sent, received, committed and answered of
    every command, each operation with each fault."""
    wanted: list[Callable[[Case], bool]] = [lambda case, p=point: case.point == p for point in SESSION]  # type: ignore[misc]
    for command, step in itertools.product(COMMANDS, ("sent", "put-start", "commit-after", "answered")):
        wanted.append(lambda case, p=f"{command} {step}": case.point == p)  # type: ignore[misc]
    for step in COMMIT:
        wanted.append(lambda case, s=step: case.point.endswith(f" {s}"))  # type: ignore[misc]
    for operation, fault in itertools.product(SENT, FAULTS):
        wanted.append(lambda case, o=operation, f=fault: (case.operation, case.fault) == (o, f))  # type: ignore[misc]
    chosen: list[Case] = []
    for wish in wanted:
        if not any(wish(case) for case in chosen):
            chosen.append(chance.choice([case for case in ALL if wish(case)]))
    return sorted(chosen, key=ALL.index)


def lay(case: Case, wire: WireFault, node: FailingNode, strike: Callable[[], None]) -> None:
    """Have the blow fall when its moment comes; `strike` deals it, for a step of the commit the node does itself.

    With a kill what was on its way is lost; a node that stops has said what it has said.
    """
    lose = case.fault == "kill"
    command, _, step = case.point.partition(" ")
    match case.point:
        case "connected":
            wire.on_connect(strike, turn=case.turn)
        case "greeting":
            wire.on_match(b"* OK MUPDATE", strike, TO_CLIENT, turn=case.turn)
        case "half the login":
            wire.on_match(b" AUTHENTICATE ", strike, turn=case.turn, cut_after=True)
        case "the login":
            wire.on_match(b" AUTHENTICATE ", strike, turn=case.turn, lose=lose)
        case "login granted":
            wire.on_answer(b" AUTHENTICATE ", strike, turn=case.turn, lose=lose)
        case "LOGOUT":
            wire.on_match(b" LOGOUT", strike, turn=case.turn, lose=lose)
        case _ if step == "sent":
            wire.on_match(f" {command} ".encode(), strike, turn=case.turn, lose=lose)
        case _ if step == "answered":
            wire.on_answer(f" {command} ".encode(), strike, turn=case.turn, lose=lose)
        case _:
            blow = "kill" if lose else "stop"
            wire.on_match(f" {command} ".encode(), lambda: node.arm(step, blow), turn=case.turn)  # type: ignore[arg-type]
