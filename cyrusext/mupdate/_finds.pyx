# cython: language_level=3, boundscheck=False, wraparound=False
"""FIND in compiled code: as many commands as lie in the framer's buffer, answered from one short read of the store.

Rule: only the plainest form is taken, a literal ``{n+}`` or a quoted string without escapes, of a name that a record
can have; the first thing that is anything else ends the batch and goes the way of all commands, untouched.  What is
answered here is answered byte for byte as there.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memchr

from cyrusext.index._cyx cimport Reader
from cyrusext.index._library cimport CYX_ABSENT, CYX_DELETED, CYX_OK, cyx_entry
from cyrusext.mupdate._lines cimport LINE, MAX_TAG, Lines, make_room, put, put_entry, release
from cyrusext.wire._framer cimport Framer

from cyrusext.model import MAX_NAME

cdef enum:
    WHOLE, CUT, OTHER
    KEPT = 256 << 10    # more room than this is given back after a batch

cdef struct Find:
    const char *tag
    const char *name
    Py_ssize_t tag_size, name_size, size

cdef Py_ssize_t LONGEST = MAX_NAME
cdef const char *LITERAL_END = b"+}\r\n"
cdef const char *WORD = b"find"
cdef bint IN_TAG[256]


cdef void learn_tags():
    cdef int byte
    for byte in range(256):
        IN_TAG[byte] = 0x21 <= byte <= 0x7E and chr(byte) not in '"(){'


learn_tags()


cdef int literal(const char *at, const char *end, Find *found) noexcept nogil:
    """Read ``{n+}CRLF name CRLF``, of which the brace is known."""
    cdef Py_ssize_t size = 0
    cdef int digits = 0
    cdef int i
    at += 1
    while at < end and c"0" <= at[0] <= c"9":
        digits += 1
        if digits > 3:
            return OTHER
        size = size * 10 + (at[0] - c"0")
        at += 1
    for i in range(4):
        if at == end:
            return CUT
        if at[0] != LITERAL_END[i]:
            return OTHER
        at += 1
    if size == 0 or size > LONGEST:
        return OTHER
    found.name, found.name_size = at, size
    return line_end(at + size, end, found) if end - at > size else CUT


cdef int quoted(const char *at, const char *end, Find *found) noexcept nogil:
    """Read ``"name"CRLF``, of which the quote is known."""
    cdef const char *begin = at + 1
    at = begin
    while at < end and at[0] != c'"':
        if at[0] == c"\\" or at[0] == c"\r" or at[0] == c"\n" or at - begin == LONGEST:
            return OTHER
        at += 1
    if at == end:
        return CUT
    found.name, found.name_size = begin, at - begin
    return line_end(at + 1, end, found) if at > begin else OTHER


cdef int line_end(const char *at, const char *end, Find *found) noexcept nogil:
    if at < end and at[0] != c"\r":
        return OTHER
    if end - at < 2:
        return CUT
    if at[1] != c"\n" or memchr(found.name, 0, <size_t>found.name_size) is not NULL:
        return OTHER
    found.size = at + 2 - found.tag
    return WHOLE


cdef int read_find(const char *at, const char *end, Find *found) noexcept nogil:
    """Read one command: WHOLE, CUT where its end has not come yet, OTHER where it is anything else."""
    cdef int i
    found.tag = at
    while at < end and IN_TAG[<unsigned char>at[0]]:
        at += 1
    found.tag_size = at - found.tag
    if found.tag_size > MAX_TAG:
        return OTHER
    if at < end and (at[0] != c" " or found.tag_size == 0):
        return OTHER
    if found.tag_size == 1 and (found.tag[0] == c"*" or found.tag[0] == c"+"):
        return OTHER
    at += 1
    for i in range(4):
        if at >= end:
            return CUT
        if at[0] | 0x20 != WORD[i]:
            return OTHER
        at += 1
    if at < end and at[0] != c" ":
        return OTHER
    at += 1
    if at >= end:
        return CUT
    if at[0] == c"{":
        return literal(at, end, found)
    return quoted(at, end, found) if at[0] == c'"' else OTHER


cdef class Finds:
    """Answers FINDs from the store of `reader`; to be used by one thread."""

    cdef Reader _reader
    cdef Lines _out
    cdef public object asker    # who asked last

    def __init__(self, Reader reader not None):
        self._reader = reader

    def __dealloc__(self):
        release(&self._out)

    def answer(self, Framer framer not None, Py_ssize_t limit):
        """Take the FINDs at the beginning of what `framer` holds; return their answers, and if something else follows.

        Something else is any other command, or a FIND that is for others to answer.  None: the answers have `limit`
        bytes, and a FIND follows.  What is left after False is at most the beginning of one.
        """
        cdef Py_ssize_t size = 0
        cdef const char *at = framer.peek(&size)
        cdef const char *begin = at
        cdef int outcome
        if at is NULL:
            return b"", True
        self._out.used = 0
        with nogil:
            outcome = self.batch(&at, begin + size, <size_t>limit)
        framer.skip(at - begin)
        answers = PyBytes_FromStringAndSize(self._out.data, <Py_ssize_t>self._out.used)
        if self._out.size > KEPT:
            release(&self._out)
        return answers, None if outcome == WHOLE else outcome == OTHER

    cdef int batch(self, const char **at_r, const char *end, size_t limit) noexcept nogil:
        cdef Find found
        cdef int outcome = read_find(at_r[0], end, &found)
        if outcome != WHOLE or self._reader.begin() < 0:
            return outcome if outcome == CUT else OTHER
        while outcome == WHOLE and self._out.used < limit:
            if not self.one(&found):
                outcome = OTHER
                break
            at_r[0] += found.size
            outcome = read_find(at_r[0], end, &found)
        self._reader.end()
        return outcome

    cdef bint one(self, const Find *found) noexcept nogil:
        """Write one answer; False, and nothing is written, where that is not for us to do."""
        cdef cyx_entry entry
        cdef size_t before = self._out.used
        cdef size_t tag_size = <size_t>found.tag_size
        cdef int code = self._reader.entry(found.name, <size_t>found.name_size, &entry)
        if code == CYX_OK and entry.location.state != CYX_DELETED:
            # What a record is marked with is for others to weigh.
            if entry.location.flags or put_entry(&self._out, found.tag, tag_size, &entry):
                return False
        elif code != CYX_OK and code != CYX_ABSENT:
            return False
        if make_room(&self._out, tag_size + LINE):
            self._out.used = before
            return False
        put(&self._out, found.tag, tag_size)
        put(&self._out, b' OK "Search completed"\r\n', 24)
        return True
