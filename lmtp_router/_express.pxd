"""A transaction of the common kind, passed on without taking it apart (_express.pyx)."""

from lmtp_router._passed cimport Taken
from lmtp_router.backends cimport BackendPool, BackendPools
from lmtp_router.channel cimport Channel
from lmtp_router.link cimport BackendLink
from lmtp_router.protocol._envelope cimport Envelope
from lmtp_router.protocol._scan cimport BodyScanner
from lmtp_router.protocol.hops cimport Hops
from lmtp_router.protocol.lines cimport LongLines
from lmtp_router.routing cimport Routing

cdef enum Stage:
    IDLE
    ENVELOPE
    BODY
    FINAL


cdef class Leg(Taken):
    cdef Express express
    cdef readonly object route
    cdef BackendPool pool
    cdef BackendLink link
    cdef list told

    cdef send(self, bytes octets)
    cpdef heard(self, bytes octets)
    cpdef leave(self)
    cdef reclaim(self)


cdef class Express:
    cdef object session
    cdef Channel channel
    cdef Hops hops
    cdef Routing routing
    cdef BackendPools pools
    cdef object clock
    cdef BodyScanner scanner
    cdef LongLines lines
    cdef bint replaces
    cdef Py_ssize_t max_size
    cdef Stage stage
    cdef object mail
    cdef Envelope envelope
    cdef list legs
    cdef int due
    cdef list chunks
    cdef Py_ssize_t kept    # octets of the message, as the client says them
    cdef Py_ssize_t passed  # and as they are passed on
    cdef bytes head         # the first of these
    cdef bytes rest
    cdef list told
    cdef int told_finals
    cdef double began, opened, ended

    cpdef bint is_idle(self)
    cpdef bint begin(self, bytes octets) except -1
    cdef list plan(self, Envelope envelope)
    cdef bint borrow(self, list legs, mail) except -1
    cdef tell(self, bytes octets)
    cdef opened_by(self, Leg leg)
    cpdef bint client_said(self, bytes octets) except -1
    cdef send(self, bytes octets)
    cdef bint pass_on(self, bytes octets) except -1
    cdef bint is_looping(self, bytes chunk) except -1
    cdef bint is_long(self, bytes chunk) except -1
    cdef over_for(self, Leg leg)
    cdef finish(self)
    cdef forget(self)
    cpdef bint expire(self, double now) except -1
    cpdef leave(self)
