"""What goes the short way, for the log and for the figures (_passed.pyx)."""

from lmtp_router.protocol._envelope cimport Part

cdef enum:
    PHASES = 4
    MOST_BOUNDS = 31


cdef class Taken(Part):
    cdef public str server
    cdef public double asked, opened, ended, at


cdef class Sum:
    cdef long long recipients, octets


cdef class Sums:
    cdef dict servers
    cdef int bounds
    cdef double bound[MOST_BOUNDS]
    cdef long long transactions, octets
    cdef long long counts[PHASES][MOST_BOUNDS + 1]
    cdef double totals[PHASES]

    cdef void observe(self, int phase, double seconds) noexcept
    cpdef count(self, list parts, long long size)
    cpdef settle(self, tally)


cpdef bytes passed_lines(str event, str session, bytes mail_from, list parts, long long size)
