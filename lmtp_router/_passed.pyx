# cython: language_level=3, boundscheck=False, wraparound=False
"""What the journal is told of a transaction that went the short way: its log lines and its figures.

Rule: both are those that the same recipients would get one by one (a test compares the two).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcmp

from lmtp_router._lines cimport Text, put_head, put_tail
from lmtp_router.protocol._envelope cimport Envelope, Part, Rcpt


cdef class Taken(Part):
    """The part of an envelope that the backend `server` took, all of it.

    On the clock of the loop: when it was `asked`, when it `opened` (354), when the message `ended`, and `at` which time
    the last reply came.
    """

    def __init__(self, Envelope envelope not None, str server not None):
        self.belong(envelope)
        self.server = server


# Room for the lines of one transaction, used for one after the other.
cdef Text TEXT = Text(), HEAD = Text(), TAIL = Text()


cpdef bytes passed_lines(str event, str session, bytes mail_from, list parts, long long size):
    """The lines of all recipients of `parts` (Taken), as `recipient_lines` has them."""
    cdef Text text = TEXT, head = HEAD, tail = TAIL
    cdef Taken part
    cdef Rcpt *rcpt
    cdef const char *paths
    cdef Py_ssize_t i, before
    text.size = head.size = 0
    put_head(head, event, session, mail_from)
    for part in parts:
        paths = PyBytes_AS_STRING(part.envelope.octets)
        before, i = -1, part.first
        while i >= 0:
            rcpt = &part.envelope.rcpts[i]
            if before < 0 or not is_same(part, &part.envelope.rcpts[before], rcpt):
                tail.size = 0
                put_tail(tail, part.server, size, part.after[rcpt.final : rcpt.final + rcpt.final_size - 2], part.asked,
                         part.asked, part.asked, part.opened, part.ended, part.at)
            before = i
            text.put(head.start, head.size)
            text.put_value(PyBytes_FromStringAndSize(paths + rcpt.path, rcpt.path_size))
            text.put(tail.start, tail.size)
            i = rcpt.following
    return PyBytes_FromStringAndSize(text.start, <Py_ssize_t>text.size)


cdef bint is_same(Taken part, const Rcpt *one, const Rcpt *other):
    """Was the same said of both in the end?"""
    cdef const char *said = PyBytes_AS_STRING(part.after)
    return one.final_size == other.final_size and memcmp(said + one.final, said + other.final, one.final_size) == 0


cdef class Sum:
    """Of one server."""


cdef class Sums:
    """Counts what was passed on until the tally is asked for it: that is once a second, this for each message."""

    def __init__(self, bounds):
        """`bounds` are the upper ends of the ranges of a phase, in seconds."""
        cdef int i
        if len(bounds) > MOST_BOUNDS:
            raise ValueError(f"at most {MOST_BOUNDS} ranges")
        self.servers = {}
        self.bounds = len(bounds)
        for i in range(self.bounds):
            self.bound[i] = bounds[i]

    cdef void observe(self, int phase, double seconds) noexcept:
        cdef int i = 0
        while i < self.bounds and self.bound[i] < seconds:
            i += 1
        self.counts[phase][i] += 1
        self.totals[phase] += seconds

    cpdef count(self, list parts, long long size):
        """A message of `size` octets was taken by all `parts`."""
        cdef Taken part
        cdef Sum of
        self.transactions += 1
        self.octets += size
        for part in parts:
            of = self.servers.get(part.server)
            if of is None:
                of = self.servers[part.server] = Sum()
            of.recipients += part.count
            of.octets += size
            self.observe(0, 0.0)
            self.observe(1, part.opened - part.asked)
            self.observe(2, part.ended - part.opened)
            self.observe(3, part.at - part.ended)

    cpdef settle(self, tally):
        """Add what was counted to `tally`, and begin anew."""
        cdef int phase, i
        cdef Sum of
        if not self.transactions:
            return
        tally.transactions += self.transactions
        tally.express += self.transactions
        tally.received_bytes += self.octets
        self.transactions = self.octets = 0
        for server, of in self.servers.items():
            verdicts = tally.recipients.setdefault(server, {})
            verdicts["delivered"] = verdicts.get("delivered", 0) + of.recipients
            tally.delivered_bytes[server] = tally.delivered_bytes.get(server, 0) + of.octets
        self.servers.clear()
        for phase, name in enumerate(("connect", "envelope", "data", "final")):
            counts = tally.phases[name]
            for i in range(self.bounds + 1):
                counts.counts[i] += self.counts[phase][i]
                self.counts[phase][i] = 0
            counts.total += self.totals[phase]
            self.totals[phase] = 0.0
