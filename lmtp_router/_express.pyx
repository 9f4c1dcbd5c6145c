# cython: language_level=3, boundscheck=False, wraparound=False
"""A transaction of the common kind, passed on without taking it apart.

Most clients say MAIL, RCPT and DATA in one piece, most backends answer each with 250, and most messages are short.
Such a transaction needs no objects for each recipient and no decision for each reply: the envelope is split once, the
replies are compared with what they will be, and the body goes through the same scanner as ever.

Rule: this is never a second router.  Whatever is not as expected (another reply, an octet too many, a lost connection,
a bad or a long message, a second gone by) makes it `leave`: what has been said so far is said again to session,
transaction and delivery, who hold it against what was written (`turn.Outlet.expect`) and go on from there.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from libc.string cimport memcmp

from lmtp_router._passed cimport Taken
from lmtp_router.backends cimport BackendPools
from lmtp_router.channel cimport Channel
from lmtp_router.protocol._envelope cimport OPEN, OVER, Envelope, Part, read_envelope, woven_finals, woven_replies
from lmtp_router.protocol._scan cimport BodyScanner
from lmtp_router.protocol.lines cimport LongLines
from lmtp_router.routing cimport Routing

from lmtp_router.channel import GO_AHEAD, SENDER_OK
from lmtp_router.protocol import codec
from lmtp_router.protocol.lines import PIECE
from lmtp_router.protocol.types import Mail

cdef enum:
    MAX_RECIPIENTS = 200
    MAX_MAIL = 1000         # octets of MAIL
    MAX_BODY = 64 << 10     # octets of a message up to which it is kept, to be said again

cdef double PATIENCE_S = 0.5    # how long it may take; deadlines are the long way's

cdef bytes SENDER_TAKEN = SENDER_OK.raw
cdef bytes ASKED = GO_AHEAD.raw
cdef bytes END = codec.END_OF_DATA
cdef Py_ssize_t SHORT = PIECE


cdef class Leg(Taken):
    """One backend and its recipients; the `Borrower` of the link to it."""

    cdef send(self, bytes octets):
        """Write to the backend."""
        self.told.append(octets)
        self.link.pass_on(octets)

    cpdef heard(self, bytes octets):
        """The backend said this."""
        if not Part.hear(self, octets):
            self.express.leave()
        elif self.stage == OPEN:
            self.express.opened_by(self)
        elif self.stage == OVER:
            self.express.over_for(self)

    cpdef leave(self):
        """Something else happened on the link."""
        self.express.leave()

    cdef reclaim(self):
        """Give the link to the delivery that asks next, which will say the same again."""
        self.link.reclaim(b"".join(self.told))
        self.pool.put_back(self.link)


cdef Leg new_leg(Express express, Envelope envelope, route):
    cdef Leg leg = Leg.__new__(Leg)
    leg.belong(envelope)
    leg.express = express
    leg.server, leg.route = route.server, route
    leg.told = []
    return leg


cdef class Express:
    """The transactions of one session that go this way, one after the other."""

    def __init__(self, session, Channel channel not None, Routing routing not None, BackendPools pools not None, clock):
        """`channel` is the session, too."""
        self.session = session
        self.channel = channel
        self.hops = session.hops
        self.max_size = channel.max_size
        self.replaces = channel.replace_bare_newlines
        self.routing = routing
        self.pools = pools
        self.clock = clock
        self.forget()

    cpdef bint is_idle(self):
        """Is there no transaction that goes this way?"""
        return self.stage == IDLE

    cpdef bint begin(self, bytes octets) except -1:
        """Take an envelope, if it is of the common kind and a connection to each backend is free; False if not."""
        cdef Envelope envelope
        cdef list legs
        cdef Leg leg
        cdef bytes line
        cdef Py_ssize_t size = PyBytes_GET_SIZE(octets)
        if size < 6 or memcmp(PyBytes_AS_STRING(octets) + size - 6, b"DATA\r\n", 6) != 0:
            return False
        envelope = read_envelope(octets)
        if envelope is None or envelope.count > MAX_RECIPIENTS or PyBytes_GET_SIZE(envelope.line) > MAX_MAIL:
            return False
        mail = codec.parse_command(envelope.line)
        if type(mail) is not Mail or not self.channel.would_take(mail, envelope.count):
            return False
        legs = self.plan(envelope)
        if legs is None or not self.borrow(legs, mail):
            return False
        self.stage = ENVELOPE
        self.mail, self.envelope = mail, envelope
        self.legs, self.due = legs, <int>PyList_GET_SIZE(legs)
        self.began = self.clock()
        for leg in legs:
            leg.asked = self.began
            line = codec.build_mail(mail, leg.link.extensions)
            leg.send(octets if leg.count == envelope.count and is_line_of(line, envelope) else line + leg.rcpts())
            if self.stage == IDLE:
                break   # a link that takes no more has made us leave
        return True

    cdef list plan(self, Envelope envelope):
        """Who gets the message; None where that takes more than a look."""
        cdef list routes = self.routing.at_once(envelope.addresses())
        cdef list legs = []
        cdef Leg leg = None
        cdef int number
        if routes is None:
            return None
        for number in range(envelope.count):
            route = routes[number]
            if leg is None or leg.route is not route:
                for leg in legs:
                    if leg.route == route:
                        break
                else:
                    leg = new_leg(self, envelope, route)
                    legs.append(leg)
            leg.add(number)
        return legs

    cdef bint borrow(self, list legs, mail) except -1:
        """Take a link for each leg, or none at all."""
        cdef Leg leg, borrowed
        for leg in legs:
            leg.pool = self.pools.pool(leg.route)
            leg.link = leg.pool.borrow()
            if leg.link is None or not mail.needs <= leg.link.extensions:
                for borrowed in legs:
                    if borrowed.link is not None:
                        borrowed.pool.put_back(borrowed.link)
                return False
        for leg in legs:
            leg.link.lend(leg)
        return True

    cdef tell(self, bytes octets):
        """Write to the client."""
        self.told.append(octets)
        self.channel.tell(octets)

    cdef opened_by(self, Leg leg):
        """A backend took all its recipients and said 354."""
        cdef bytes first
        leg.opened = self.clock()
        self.due -= 1
        if self.due:
            return
        self.stage = BODY
        self.opened = leg.opened
        if self.scanner is None:
            self.scanner = BodyScanner(self.replaces)
        self.scanner.begin()
        if self.hops is not None:
            self.hops.begin()
        self.told, self.chunks, self.kept, self.passed = [], [], 0, 0
        self.tell(woven_replies(self.envelope, self.legs, SENDER_TAKEN, ASKED))
        if self.stage == BODY:
            first = self.channel.first_octets(self.mail)
            if first:
                self.send(first)

    cdef send(self, bytes octets):
        """Write to all backends; one that takes no more makes us leave, and who has it then says the rest."""
        cdef list legs = self.legs
        cdef Leg leg
        for leg in legs:
            if self.legs is not legs:
                break
            leg.send(octets)

    cpdef bint client_said(self, bytes octets) except -1:
        """Take what the client sends; False, and it has to be taken the long way, where that is not to be passed on."""
        if self.stage != BODY or not self.pass_on(octets):
            self.leave()
            return False
        return True

    cdef bint pass_on(self, bytes octets) except -1:
        cdef Py_ssize_t end = -1
        cdef BodyScanner scanner = self.scanner
        cdef bint rewritten = self.replaces or scanner._held
        cdef bytes chunk = scanner.take(octets, 0, &end)
        cdef Leg leg
        if 0 <= end < PyBytes_GET_SIZE(octets):
            # Postfix says QUIT in one piece with the end of its last message.
            octets, self.rest = octets[:end], octets[end:]
        self.kept += PyBytes_GET_SIZE(octets)
        if self.kept > MAX_BODY or self.kept > self.max_size or (scanner._bad and not self.replaces):
            return False
        if self.is_long(chunk) or (self.hops is not None and self.is_looping(chunk)):
            return False
        self.chunks.append(octets)
        if end < 0:
            if chunk:
                self.send(chunk)
            return True
        self.stage = FINAL
        self.ended = self.clock()
        self.due = <int>PyList_GET_SIZE(self.legs)
        self.told_finals = 0
        for leg in self.legs:
            leg.ended = self.ended
            leg.sent()
        self.send(chunk + END if rewritten else octets)
        return True

    cdef bint is_looping(self, bytes chunk) except -1:
        """Has the message been passed on too often, by what there is of it?"""
        return chunk and self.hops.active and self.hops.feed(chunk)

    cdef bint is_long(self, bytes chunk) except -1:
        """Is there an end in the middle of a line, for who reads in pieces?  In less than one there is none."""
        cdef Py_ssize_t size = self.passed
        self.passed += PyBytes_GET_SIZE(chunk)
        if self.passed <= SHORT:
            self.head = self.head + chunk if size else chunk
            return False
        if size <= SHORT:
            self.lines = LongLines()
            if size:
                self.lines.feed(self.head)
        return self.lines.feed(chunk)

    cdef over_for(self, Leg leg):
        """A backend has the message."""
        cdef bytes known
        leg.at = self.clock()
        self.due -= 1
        if not self.due:
            self.finish()
            return
        # What is known must not wait: it would be sent again if we died now.
        known = woven_finals(self.envelope, self.legs, self.told_finals)
        if known:
            while self.envelope.rcpts[self.told_finals].final_size:
                self.told_finals += 1
            self.tell(known)

    cdef finish(self):
        cdef list legs = self.legs
        cdef Py_ssize_t size = self.kept - PyBytes_GET_SIZE(END)
        cdef bytes rest = self.rest, finals = woven_finals(self.envelope, legs, self.told_finals)
        cdef Leg leg
        mail = self.mail
        self.forget()
        self.channel.tell(finals)
        for leg in legs:
            leg.link.reclaim()
            leg.pool.give_back(leg.link)
        self.session.note(mail, legs, size)
        if rest:
            self.session.retrace_said(rest)

    cdef forget(self):
        self.stage = IDLE
        self.mail = self.envelope = self.legs = self.chunks = self.told = self.lines = None
        self.rest = self.head = b""

    cpdef bint expire(self, double now) except -1:
        """True while it may go on; where it has taken too long, the long way has it."""
        if now - self.began < PATIENCE_S:
            return True
        self.leave()
        return False

    cpdef leave(self):
        """Let session, transaction and deliveries have it from here on, as if it had been theirs from the start."""
        cdef Envelope envelope = self.envelope
        cdef list legs = self.legs, chunks = self.chunks, routes
        cdef double began = self.began, opened = self.opened, ended = self.ended
        cdef Stage stage = self.stage
        cdef bytes told, rest = self.rest
        cdef Leg leg
        if stage == IDLE:
            return
        told = b"".join(self.told) if stage != ENVELOPE else b""
        self.forget()
        routes = [None] * envelope.count
        for leg in reversed(legs):
            # The first one last: of two at one endpoint, that is the one which is asked for first.
            leg.reclaim()
            for number in leg.numbers:
                routes[number] = leg.route
        session = self.session
        self.channel.expect(told)
        session.retrace(envelope.octets, routes)
        session.backdate(began, 0.0, 0.0)
        for leg in legs:
            leg.link.catch_up(leg.before)
        if stage == ENVELOPE:
            return
        session.backdate(began, opened, 0.0)
        for chunk in chunks:
            session.retrace_said(chunk)
        if stage == FINAL:
            session.backdate(began, opened, ended)
            if rest:
                session.retrace_said(rest)
        for leg in legs:
            if leg.after:
                leg.link.catch_up(leg.after)


cdef bint is_line_of(bytes line, Envelope envelope):
    """Is `line`, with CRLF, what the client said?"""
    return (PyBytes_GET_SIZE(line) == envelope.rcpt_at
            and memcmp(PyBytes_AS_STRING(line), PyBytes_AS_STRING(envelope.octets), envelope.rcpt_at) == 0)
