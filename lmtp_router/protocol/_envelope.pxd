"""An envelope that came in one piece, and what its backends say to it (_envelope.pyx)."""

cdef enum:
    BEFORE      # what the backend says to the envelope is not all there
    OPEN        # it asked for the message
    AFTER       # it has the message, its last replies are not all there
    OVER        # they are

cdef struct Rcpt:
    # By offset and size: the path in the envelope, the replies in what its backend said before and after the message.
    unsigned int path, path_size
    unsigned int reply, reply_size
    unsigned int final, final_size
    int part
    int following   # the next one of the same part, or -1


cdef class Envelope:
    cdef readonly bytes octets
    cdef readonly bytes line
    cdef readonly int count
    cdef int parts
    cdef Py_ssize_t rcpt_at
    cdef int room
    cdef Rcpt *rcpts
    cdef Rcpt few[2]

    cdef bint split(self, bytes octets) except -1
    cdef Rcpt *another(self) except NULL
    cpdef list addresses(self)


cdef class Part:
    cdef readonly Envelope envelope
    cdef readonly int count
    cdef readonly bytes before
    cdef readonly bytes after
    cdef int number
    cdef int first
    cdef int last
    cdef int stage
    cdef bint said_mail
    cdef int due
    cdef Py_ssize_t at

    cdef belong(self, Envelope envelope)
    cpdef add(self, int number)
    cpdef bytes rcpts(self)
    cpdef bint hear(self, bytes octets) except -1
    cdef bint hear_before(self) except -1
    cdef bint hear_after(self) except -1
    cpdef sent(self)


cpdef Envelope read_envelope(bytes octets)
cpdef bytes woven_replies(Envelope envelope, list parts, bytes head, bytes tail)
cpdef bytes woven_finals(Envelope envelope, list parts, int first)
