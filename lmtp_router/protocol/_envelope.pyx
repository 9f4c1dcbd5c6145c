# cython: language_level=3, boundscheck=False, wraparound=False
"""An envelope that came in one piece, its parts for each backend, and what these say to it, read in one pass.

Rule: what is taken here the codec would take the same way (a test compares the two); anything else is left to it.
Nothing is cut out of what was read: a path and a reply are an offset and a size until somebody wants to see them.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy

cdef enum:
    LONGEST_PATH = 512
    LONGEST_LINE = 2048
    FEW = 2
    LARGEST = 1 << 20   # octets of an envelope, or of what a backend says to it


cdef Py_ssize_t path_size(const unsigned char *path, Py_ssize_t size) noexcept:
    """The size of `<`, plain octets, `>` when CRLF follows; 0 for anything else."""
    cdef Py_ssize_t i
    cdef unsigned char octet
    if size < 5 or path[0] != 0x3C or path[1] == 0x40 or path[1] == 0x3E:
        return 0
    if size > LONGEST_PATH + 2:
        size = LONGEST_PATH + 2
    for i in range(1, size - 2):
        octet = path[i]
        if octet == 0x3E:
            return i + 1 if path[i + 1] == 0x0D and path[i + 2] == 0x0A else 0
        if octet <= 0x20 or octet >= 0x7F or octet == 0x3C or octet == 0x22 or octet == 0x5C:
            return 0
    return 0


cdef Py_ssize_t reply_size(const unsigned char *reply, Py_ssize_t size, const char *code,
                           const unsigned char *known, Py_ssize_t known_size) noexcept:
    """The size of the reply of one line at `reply` that begins with `code` and a blank; -1: it is another one.

    0: its end has not come.  `known` is such a reply, and needs not be looked at again.
    """
    cdef const unsigned char *found
    cdef Py_ssize_t end, i
    if known_size and size >= known_size and memcmp(reply, known, known_size) == 0:
        return known_size
    found = <const unsigned char *>memchr(reply, 0x0A, size)
    end = (found - reply if found is not NULL else size) + 1
    if end > LONGEST_LINE:
        return -1
    if found is NULL:
        return 0
    if end < 6 or reply[end - 2] != 0x0D or memcmp(reply, code, 4) != 0:
        return -1
    for i in range(4, end - 2):
        if reply[i] == 0x7F or (reply[i] < 0x20 and reply[i] != 0x09):
            return -1
    return end


cdef class Envelope:
    """MAIL, RCPT once or more often, DATA, and nothing else.

    `octets` is all of it, `line` MAIL without CRLF, which is not looked at, `count` how many RCPTs there are.  Their
    paths have no quotes, no source route, no parameters, nothing but ASCII.
    """

    def __cinit__(self):
        self.rcpts = self.few
        self.room = FEW

    def __dealloc__(self):
        if self.rcpts is not self.few:
            free(self.rcpts)

    cdef bint split(self, bytes octets) except -1:
        """Read `octets`; False for anything else."""
        cdef const unsigned char *raw = <const unsigned char *>PyBytes_AS_STRING(octets)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(octets), at, length
        cdef const unsigned char *newline = <const unsigned char *>memchr(raw, 0x0A, size)
        cdef Rcpt *rcpt
        if newline is NULL or newline - raw < 2 or newline[-1] != 0x0D or size > LARGEST:
            return False
        self.rcpt_at = at = newline - raw + 1
        while size - at > 8 and memcmp(raw + at, b"RCPT TO:", 8) == 0:
            length = path_size(raw + at + 8, size - at - 8)
            if length == 0:
                return False
            rcpt = self.another()
            rcpt.path, rcpt.path_size = <unsigned int>(at + 8), <unsigned int>length
            at += 8 + length + 2
        if not self.count or size - at != 6 or memcmp(raw + at, b"DATA\r\n", 6) != 0:
            return False
        self.octets = octets
        self.line = PyBytes_FromStringAndSize(<const char *>raw, self.rcpt_at - 2)
        return True

    cdef Rcpt *another(self) except NULL:
        cdef Rcpt *wider
        cdef Rcpt *rcpt
        if self.count == self.room:
            wider = <Rcpt *>malloc(2 * self.room * sizeof(Rcpt))
            if wider is NULL:
                raise MemoryError
            memcpy(wider, self.rcpts, self.room * sizeof(Rcpt))
            if self.rcpts is not self.few:
                free(self.rcpts)
            self.rcpts = wider
            self.room *= 2
        rcpt = &self.rcpts[self.count]
        self.count += 1
        rcpt.reply_size = rcpt.final_size = 0
        rcpt.part = rcpt.following = -1
        return rcpt

    cpdef list addresses(self):
        """What stands between `<` and `>`, in RCPT order."""
        cdef const char *raw = PyBytes_AS_STRING(self.octets)
        cdef Rcpt *rcpt
        cdef list found = []
        cdef int i
        for i in range(self.count):
            rcpt = &self.rcpts[i]
            found.append(PyBytes_FromStringAndSize(raw + rcpt.path + 1, rcpt.path_size - 2))
        return found


cpdef Envelope read_envelope(bytes octets):
    """The envelope in `octets`, or None where they are anything else."""
    cdef Envelope envelope = Envelope.__new__(Envelope)
    return envelope if octets is not None and envelope.split(octets) else None


cdef class Part:
    """Those recipients of an envelope that one backend has, and what it said, as far as it has come."""

    def __init__(self, Envelope envelope not None):
        self.belong(envelope)

    cdef belong(self, Envelope envelope):
        """Be a new part of `envelope`."""
        self.envelope = envelope
        self.number = envelope.parts
        envelope.parts += 1
        self.before = self.after = b""
        self.first = self.last = self.due = -1

    cpdef add(self, int number):
        """RCPT `number` (from 0) is one of them; they come in order."""
        cdef Envelope envelope = self.envelope
        if not self.last < number < envelope.count or envelope.rcpts[number].part >= 0:
            raise IndexError(f"no RCPT {number}, or it is somebody's already")
        if self.last < 0:
            self.first = self.due = number
        else:
            envelope.rcpts[self.last].following = number
        self.last = number
        self.count += 1
        envelope.rcpts[number].part = self.number

    cpdef bytes rcpts(self):
        """What is said to the backend behind MAIL."""
        cdef Envelope envelope = self.envelope
        cdef const char *raw = PyBytes_AS_STRING(envelope.octets)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(envelope.octets)
        cdef bytes said
        cdef char *out
        cdef Rcpt *rcpt
        cdef int i
        if self.count == envelope.count:
            return PyBytes_FromStringAndSize(raw + envelope.rcpt_at, size - envelope.rcpt_at)
        size, i = 6, self.first
        while i >= 0:
            size += envelope.rcpts[i].path_size + 10
            i = envelope.rcpts[i].following
        said = PyBytes_FromStringAndSize(NULL, size)
        out = PyBytes_AS_STRING(said)
        i = self.first
        while i >= 0:
            rcpt = &envelope.rcpts[i]
            memcpy(out, raw + rcpt.path - 8, rcpt.path_size + 10)
            out += rcpt.path_size + 10
            i = rcpt.following
        memcpy(out, b"DATA\r\n", 6)
        return said

    @property
    def numbers(self):
        """Which RCPTs these are."""
        cdef list found = []
        cdef int i = self.first
        while i >= 0:
            found.append(i)
            i = self.envelope.rcpts[i].following
        return found

    @property
    def paths(self):
        """Their paths, with `<` and `>`."""
        cdef list found = []
        cdef Rcpt *rcpt
        cdef int i = self.first
        while i >= 0:
            rcpt = &self.envelope.rcpts[i]
            found.append(self.envelope.octets[rcpt.path : rcpt.path + rcpt.path_size])
            i = rcpt.following
        return found

    @property
    def finals(self):
        """The last replies for them; empty where one has not come."""
        cdef list found = []
        cdef Rcpt *rcpt
        cdef int i = self.first
        while i >= 0:
            rcpt = &self.envelope.rcpts[i]
            found.append(self.after[rcpt.final : rcpt.final + rcpt.final_size])
            i = rcpt.following
        return found

    @property
    def is_open(self):
        """The backend took all of them, and asked for the message."""
        return self.stage == OPEN

    @property
    def is_over(self):
        """The backend has the message, for all of them."""
        return self.stage == OVER

    cpdef bint hear(self, bytes octets) except -1:
        """The backend said this; False where it is not what all say, or is said too early."""
        if self.stage == BEFORE:
            self.before = self.before + octets if self.before else octets
            return self.hear_before()
        self.after = self.after + octets if self.after else octets
        return self.stage == AFTER and self.hear_after()

    cdef bint hear_before(self) except -1:
        cdef Rcpt *rcpts = self.envelope.rcpts
        cdef Rcpt *rcpt
        cdef const unsigned char *raw = <const unsigned char *>PyBytes_AS_STRING(self.before)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.before), known = 0, length
        if size > LARGEST:
            return False
        while not self.said_mail or self.due >= 0:
            length = reply_size(raw + self.at, size - self.at, b"250 ", raw + self.at - known, known)
            if length <= 0:
                return length == 0
            if self.said_mail:
                rcpt = &rcpts[self.due]
                rcpt.reply, rcpt.reply_size = <unsigned int>self.at, <unsigned int>length
                self.due = rcpt.following
            self.said_mail = True
            self.at += length
            known = length
        length = reply_size(raw + self.at, size - self.at, b"354 ", raw, 0)
        if length <= 0:
            return length == 0
        self.stage = OPEN
        return self.at + length == size

    cpdef sent(self):
        """The end of the message was said."""
        self.stage = AFTER
        self.due, self.at = self.first, 0

    cdef bint hear_after(self) except -1:
        cdef Rcpt *rcpts = self.envelope.rcpts
        cdef Rcpt *rcpt
        cdef const unsigned char *raw = <const unsigned char *>PyBytes_AS_STRING(self.after)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.after), known = 0, length
        if size > LARGEST:
            return False
        while self.due >= 0:
            length = reply_size(raw + self.at, size - self.at, b"250 ", raw + self.at - known, known)
            if length <= 0:
                return length == 0
            rcpt = &rcpts[self.due]
            rcpt.final, rcpt.final_size = <unsigned int>self.at, <unsigned int>length
            self.due = rcpt.following
            self.at += length
            known = length
        self.stage = OVER
        return self.at == size


cdef const char *heard(list parts, const Rcpt *rcpt, bint after) except NULL:
    """What the backend of a recipient said, before or after the message."""
    cdef Part part
    if not 0 <= rcpt.part < PyList_GET_SIZE(parts):
        raise IndexError("a recipient that no part has")
    part = <Part>parts[rcpt.part]
    return PyBytes_AS_STRING(part.after if after else part.before)


cpdef bytes woven_replies(Envelope envelope, list parts, bytes head, bytes tail):
    """`head`, what the `parts` were told to each RCPT, in the order in which the client said them, and `tail`."""
    cdef Py_ssize_t head_size = PyBytes_GET_SIZE(head), tail_size = PyBytes_GET_SIZE(tail), size = head_size + tail_size
    cdef Rcpt *rcpt
    cdef bytes woven
    cdef char *out
    cdef int i
    for i in range(envelope.count):
        size += envelope.rcpts[i].reply_size
    woven = PyBytes_FromStringAndSize(NULL, size)
    out = PyBytes_AS_STRING(woven)
    memcpy(out, PyBytes_AS_STRING(head), head_size)
    out += head_size
    for i in range(envelope.count):
        rcpt = &envelope.rcpts[i]
        memcpy(out, heard(parts, rcpt, False) + rcpt.reply, rcpt.reply_size)
        out += rcpt.reply_size
    memcpy(out, PyBytes_AS_STRING(tail), tail_size)
    return woven


cpdef bytes woven_finals(Envelope envelope, list parts, int first):
    """The last replies for the recipients from `first` on, in their order, up to the first one that has not come."""
    cdef Py_ssize_t size = 0
    cdef Rcpt *rcpt
    cdef bytes woven
    cdef char *out
    cdef int i, last = first
    while last < envelope.count and envelope.rcpts[last].final_size:
        size += envelope.rcpts[last].final_size
        last += 1
    woven = PyBytes_FromStringAndSize(NULL, size)
    out = PyBytes_AS_STRING(woven)
    for i in range(first, last):
        rcpt = &envelope.rcpts[i]
        memcpy(out, heard(parts, rcpt, True) + rcpt.final, rcpt.final_size)
        out += rcpt.final_size
    return woven
