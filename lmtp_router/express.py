"""A transaction of the common kind, passed on without taking it apart.

Most clients say MAIL, RCPT and DATA in one piece, most backends answer each with 250, and most messages are short.
Such a transaction needs no objects for each recipient and no decision for each reply: the envelope is split once, the
replies are compared with what they will be, and the body goes through the same scanner as ever.

Rule: this is never a second router.  Whatever is not as expected (another reply, an octet too many, a lost connection,
a bad or a long message, a second gone by) makes it `leave`: what has been said so far is said again to session,
transaction and delivery, who hold it against what was written (`turn.Outlet.expect`) and go on from there.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from lmtp_router.backends import BackendPool
from lmtp_router.journal import Passed
from lmtp_router.link import BackendLink
from lmtp_router.protocol import codec
from lmtp_router.protocol._envelope import plain_envelope, take_lines
from lmtp_router.protocol._scan import BodyScanner
from lmtp_router.protocol.hops import Hops
from lmtp_router.protocol.lines import LongLines
from lmtp_router.protocol.types import Mail
from lmtp_router.routing import Route, Routing

MAX_RECIPIENTS = 200
MAX_MAIL = 1000
"""Octets of MAIL."""
MAX_BODY = 64 << 10
"""Octets of a message up to which it is kept, to be said again."""
PATIENCE_S = 0.5
"""How long it may take; deadlines are the long way's."""

_TAKEN = b"250 "
_GO_AHEAD = b"354 "


class Pools(Protocol):
    """All backends."""

    def pool(self, route: Route) -> BackendPool: ...


class Traveller(Protocol):
    """The session whose transactions these are."""

    @property
    def hops(self) -> Hops | None: ...

    @property
    def max_size(self) -> int: ...

    @property
    def replace_bare_newlines(self) -> bool: ...

    def would_take(self, mail: Mail, recipients: int) -> bool:
        """Would it take the envelope as it is?"""

    def first_octets(self, mail: Mail) -> bytes:
        """What stands in front of the message (Received)."""

    def tell_taken(self, replies: list[bytes]) -> bytes:
        """Write the replies to MAIL, to each RCPT and to DATA; return them."""

    def tell(self, octets: bytes) -> None:
        """Write to the client."""

    def note(self, mail: Mail, passed: list[Passed], size: int) -> None:
        """The transaction is over, and every recipient has the message."""

    def retrace(self, octets: bytes, routes: list[Route]) -> None:
        """Take what the client said as its envelope, whose recipients go by `routes`."""

    def backdate(self, began: float, opened: float, ended: float) -> None:
        """Say when that was."""

    def expect(self, octets: bytes) -> None:
        """The client has heard this already."""

    def retrace_said(self, octets: bytes) -> None:
        """Take what the client said behind its envelope."""


class Stage(enum.Enum):
    """How far the transaction, or one backend, is."""

    __hash__ = object.__hash__

    IDLE = "idle"
    ENVELOPE = "envelope"
    BODY = "body"
    FINAL = "final"


class Leg:
    """One backend and its recipients; the `Borrower` of the link to it."""

    __slots__ = (
        "_at",
        "_finals",
        "_replies",
        "at",
        "express",
        "finals",
        "link",
        "numbers",
        "opened",
        "paths",
        "pool",
        "replies",
        "route",
        "sent",
        "stage",
    )

    def __init__(self, express: Express, route: Route) -> None:
        self.express = express
        self.route = route
        self.paths: list[bytes] = []
        self.numbers: list[int] = []
        """Which RCPTs these are, from 0."""
        self.pool: BackendPool | None = None
        self.link: BackendLink | None = None
        self.stage = Stage.ENVELOPE
        self.sent: list[bytes] = []
        """All that was written to the backend."""
        self._replies = b""
        """What it said before the body, as far as it has come."""
        self._finals = b""
        """What it said after the body."""
        self._at = 0
        self.replies: list[bytes] = []
        """To MAIL, each RCPT and DATA."""
        self.finals: list[bytes] = []
        self.opened = 0.0
        self.at = 0.0

    def send(self, octets: bytes) -> None:
        """Write to the backend."""
        self.sent.append(octets)
        link = self.link
        if link is not None:
            link.pass_on(octets)

    def heard(self, octets: bytes) -> None:
        """The backend said this."""
        if self.stage is Stage.ENVELOPE:
            self._replies = octets = self._replies + octets if self._replies else octets
            if self._hear_envelope(octets):
                return
        else:
            self._finals = octets = self._finals + octets if self._finals else octets
            if self.stage is Stage.FINAL and self._hear_finals(octets):
                return
        self.express.leave()

    def _hear_envelope(self, octets: bytes) -> bool:
        replies, due = self.replies, 1 + len(self.paths)
        at = self._at
        if len(replies) < due:
            at = take_lines(octets, at, due - len(replies), _TAKEN, replies)
        if at >= 0 and len(replies) == due:
            at = take_lines(octets, at, 1, _GO_AHEAD, replies)
        if at < 0 or (len(replies) > due and at < len(octets)):
            return False
        self._at = at
        if len(replies) > due:
            self.stage = Stage.BODY
            self._at = 0
            self.express.leg_open(self)
        return True

    def _hear_finals(self, octets: bytes) -> bool:
        finals, due = self.finals, len(self.paths)
        at = take_lines(octets, self._at, due - len(finals), _TAKEN, finals)
        if at < 0 or (len(finals) == due and at < len(octets)):
            return False
        self._at = at
        if len(finals) == due:
            self.express.leg_over(self)
        return True

    def leave(self) -> None:
        """Something else happened on the link."""
        self.express.leave()

    def reclaim(self) -> None:
        """Give the link to the delivery that asks next, which will say the same again."""
        if self.link is not None and self.pool is not None:
            self.link.reclaim(b"".join(self.sent))
            self.pool.put_back(self.link)

    def retrace_replies(self) -> None:
        """Tell the delivery what the backend said before the body."""
        if self.link is not None:
            self.link.catch_up(self._replies)

    def retrace_finals(self) -> None:
        """Tell the delivery what the backend said after the body."""
        if self.link is not None and self._finals:
            self.link.catch_up(self._finals)


class Express:
    """The transactions of one session that go this way, one after the other."""

    __slots__ = (
        "_began",
        "_chunks",
        "_clock",
        "_due",
        "_ended",
        "_envelope",
        "_finals",
        "_hops",
        "_kept",
        "_legs",
        "_lines",
        "_mail",
        "_max_size",
        "_opened",
        "_pools",
        "_replaces",
        "_rest",
        "_routing",
        "_scanner",
        "_session",
        "_told",
        "_told_finals",
        "stage",
    )

    def __init__(self, session: Traveller, routing: Routing, pools: Pools, clock: Callable[[], float]) -> None:
        self.stage = Stage.IDLE
        self._session = session
        self._hops = session.hops
        self._max_size = session.max_size
        self._replaces = session.replace_bare_newlines
        self._routing = routing
        self._pools = pools
        self._clock = clock
        self._mail: Mail | None = None
        self._envelope = b""
        self._legs: list[Leg] = []
        self._due = 0
        """Legs that are behind the others."""
        self._chunks: list[bytes] = []
        """What the client said of the message."""
        self._kept = 0
        self._rest = b""
        """What it said behind the message: Postfix says QUIT in one piece with the end of its last one."""
        self._scanner = BodyScanner()
        self._lines = LongLines()
        self._told: list[bytes] = []
        """All that was written to the client."""
        self._finals: list[bytes] = []
        """The last reply for each recipient, in RCPT order; empty where it is not there."""
        self._told_finals = 0
        self._began = 0.0
        self._opened = 0.0
        self._ended = 0.0

    def begin(self, octets: bytes) -> bool:
        """Take an envelope, if it is of the common kind and a connection to each backend is free; False if not."""
        found = plain_envelope(octets)
        if found is None:
            return False
        line, paths = found
        if len(line) > MAX_MAIL or len(paths) > MAX_RECIPIENTS:
            return False
        mail = codec.parse_command(line)
        if not isinstance(mail, Mail) or not self._session.would_take(mail, len(paths)):
            return False
        legs = self._plan(paths)
        if legs is None or not self._borrow(legs, mail):
            return False
        self.stage = Stage.ENVELOPE
        self._mail, self._envelope = mail, octets
        self._legs, self._due = legs, len(legs)
        self._began = self._clock()
        for leg in legs:
            link = leg.link
            assert link is not None
            rcpts = b"\r\nRCPT TO:".join(leg.paths)
            leg.send(b"%bRCPT TO:%b\r\nDATA\r\n" % (codec.build_mail(mail, link.extensions), rcpts))
        return True

    def _plan(self, paths: list[bytes]) -> list[Leg] | None:
        """Who gets the message; None where that takes more than a look."""
        routes = self._routing.at_once([path[1:-1] for path in paths])
        if routes is None:
            return None
        legs: dict[Route, Leg] = {}
        for number, (path, route) in enumerate(zip(paths, routes, strict=True)):
            leg = legs.get(route)
            if leg is None:
                leg = legs[route] = Leg(self, route)
            leg.paths.append(path)
            leg.numbers.append(number)
        return list(legs.values())

    def _borrow(self, legs: list[Leg], mail: Mail) -> bool:
        """Take a link for each leg, or none at all."""
        pools = self._pools
        for leg in legs:
            leg.pool = pools.pool(leg.route)
            leg.link = link = leg.pool.borrow()
            if link is None or not mail.needs <= link.extensions:
                for borrowed in legs:
                    if borrowed.link is not None and borrowed.pool is not None:
                        borrowed.pool.put_back(borrowed.link)
                return False
        for leg in legs:
            if leg.link is not None:
                leg.link.lend(leg)
        return True

    def leg_open(self, leg: Leg) -> None:
        """A backend took all its recipients and said 354."""
        leg.opened = self._clock()
        self._due -= 1
        if self._due:
            return
        session, mail, legs = self._session, self._mail, self._legs
        assert mail is not None
        if len(legs) == 1:
            replies = leg.replies[1:-1]
        else:
            replies = [b""] * sum([len(leg.numbers) for leg in legs])
            for leg in legs:
                for number, raw in zip(leg.numbers, leg.replies[1:-1], strict=True):
                    replies[number] = raw
        self.stage = Stage.BODY
        self._opened = leg.opened
        self._told = [session.tell_taken(replies)]
        self._scanner = BodyScanner(self._replaces)
        self._lines = LongLines()
        self._chunks, self._kept = [], 0
        if self._hops is not None:
            self._hops.begin()
        first = session.first_octets(mail)
        if first:
            for leg in legs:
                leg.send(first)

    def client_said(self, octets: bytes) -> bool:
        """Take what the client sends; False, and it has to be taken the long way, where that is not to be passed on."""
        if self.stage is not Stage.BODY or not self._pass_on(octets):
            self.leave()
            return False
        return True

    def _pass_on(self, octets: bytes) -> bool:
        scanner = self._scanner
        end, chunk = scanner.feed(octets)
        if 0 <= end < len(octets):
            octets, self._rest = octets[:end], octets[end:]
        self._kept += len(octets)
        if self._kept > MAX_BODY or self._kept > self._max_size or (scanner.bare_newline and not self._replaces):
            return False
        if self._lines.feed(chunk):
            return False
        hops = self._hops
        if hops is not None and chunk and hops.active and hops.feed(chunk):
            return False
        self._chunks.append(octets)
        if end < 0:
            if chunk:
                for leg in self._legs:
                    leg.send(chunk)
            return True
        self.stage = Stage.FINAL
        self._ended = self._clock()
        self._due = len(self._legs)
        self._finals = [b""] * sum([len(leg.numbers) for leg in self._legs])
        self._told_finals = 0
        chunk += codec.END_OF_DATA
        for leg in self._legs:
            leg.stage = Stage.FINAL
            leg.send(chunk)
        return True

    def leg_over(self, leg: Leg) -> None:
        """A backend has the message."""
        leg.at = self._clock()
        link, pool = leg.link, leg.pool
        assert link is not None and pool is not None
        self._due -= 1
        finals = self._finals
        for number, raw in zip(leg.numbers, leg.finals, strict=True):
            finals[number] = raw
        if not self._due:
            self._finish()
        elif finals[self._told_finals]:
            # What is known must not wait: it would be sent again if we died now.
            known = finals.index(b"", self._told_finals)
            told = b"".join(finals[self._told_finals : known])
            self._told_finals = known
            self._told.append(told)
            self._session.tell(told)

    def _finish(self) -> None:
        session, mail, legs = self._session, self._mail, self._legs
        assert mail is not None
        session.tell(b"".join(self._finals[self._told_finals :]))
        size, rest = self._kept - len(codec.END_OF_DATA), self._rest
        passed = [
            Passed(leg.route.server, leg.paths, leg.finals, self._began, leg.opened, self._ended, leg.at)
            for leg in legs
        ]
        self._forget()
        for leg in legs:
            if leg.link is not None and leg.pool is not None:
                leg.link.reclaim()
                leg.pool.give_back(leg.link)
        session.note(mail, passed, size)
        if rest:
            session.retrace_said(rest)

    def _forget(self) -> None:
        self.stage = Stage.IDLE
        self._mail = None
        self._envelope = self._rest = b""
        self._legs, self._chunks, self._told, self._finals = [], [], [], []

    def expire(self, now: float) -> bool:
        """True while it may go on; where it has taken too long, the long way has it."""
        if now - self._began < PATIENCE_S:
            return True
        self.leave()
        return False

    def leave(self) -> None:
        """Let session, transaction and deliveries have it from here on, as if it had been theirs from the start."""
        if self.stage is Stage.IDLE:
            return
        session, legs, chunks, envelope = self._session, self._legs, self._chunks, self._envelope
        rest = self._rest
        told, began, opened, ended = b"".join(self._told), self._began, self._opened, self._ended
        stage = self.stage
        self._forget()
        routes: list[Route | None] = [None] * sum([len(leg.numbers) for leg in legs])
        for leg in reversed(legs):
            # The first one last: of two at one endpoint, that is the one which is asked for first.
            leg.reclaim()
            for number in leg.numbers:
                routes[number] = leg.route
        session.expect(told)
        session.retrace(envelope, [route for route in routes if route is not None])
        session.backdate(began, 0.0, 0.0)
        for leg in legs:
            leg.retrace_replies()
        if stage is Stage.ENVELOPE:
            return
        session.backdate(began, opened, 0.0)
        for chunk in chunks:
            session.retrace_said(chunk)
        if stage is Stage.FINAL:
            session.backdate(began, opened, ended)
            if rest:
                session.retrace_said(rest)
        for leg in legs:
            leg.retrace_finals()
