# cython: language_level=3, boundscheck=False, wraparound=False
"""An envelope that came in one piece, and the replies to it, read in one pass.

Rule: what is taken here the codec would take the same way (a test compares the two); anything else is left to it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp

cdef enum:
    LONGEST_PATH = 512
    LONGEST_LINE = 2048


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


def plain_envelope(bytes data not None):
    """MAIL, RCPT once or more often, DATA, and nothing else: the line of MAIL and the paths of RCPT, or None.

    The line of MAIL is not looked at; the paths have no quotes, no source route, no parameters, nothing but ASCII.
    """
    cdef const unsigned char *raw = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), at, length
    cdef const unsigned char *newline = <const unsigned char *>memchr(raw, 0x0A, size)
    cdef list paths
    if newline is NULL or newline - raw < 2 or newline[-1] != 0x0D:
        return None
    line = PyBytes_FromStringAndSize(<const char *>raw, newline - raw - 1)
    at = newline - raw + 1
    paths = []
    while size - at > 8 and memcmp(raw + at, b"RCPT TO:", 8) == 0:
        length = path_size(raw + at + 8, size - at - 8)
        if length == 0:
            return None
        paths.append(PyBytes_FromStringAndSize(<const char *>raw + at + 8, length))
        at += 8 + length + 2
    if not paths or size - at != 6 or memcmp(raw + at, b"DATA\r\n", 6) != 0:
        return None
    return line, paths


def take_lines(bytes data not None, Py_ssize_t at, Py_ssize_t count, bytes begin not None, list lines not None):
    """Append to `lines` at most `count` replies of one line that `begin` so (code and blank), from offset `at` on.

    Returns the offset behind the last one; -1 where something else stands.  A line that has not come whole is left.
    Lines that are alike, one behind the other, are the same object.
    """
    cdef const unsigned char *raw = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef const char *head = PyBytes_AS_STRING(begin)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), end, i
    cdef const unsigned char *found
    cdef bytes line = None
    if at < 0 or at > size or PyBytes_GET_SIZE(begin) != 4:
        raise ValueError("offset outside the data, or no beginning of a reply")
    for _ in range(count):
        found = <const unsigned char *>memchr(raw + at, 0x0A, size - at)
        end = (found - raw if found is not NULL else size) + 1
        if end - at > LONGEST_LINE:
            return -1
        if found is NULL:
            break
        if end - at < 6 or raw[end - 2] != 0x0D or memcmp(raw + at, head, 4) != 0:
            return -1
        if line is None or PyBytes_GET_SIZE(line) != end - at or memcmp(PyBytes_AS_STRING(line), raw + at, end - at):
            for i in range(at + 4, end - 2):
                if raw[i] == 0x7F or (raw[i] < 0x20 and raw[i] != 0x09):
                    return -1
            line = PyBytes_FromStringAndSize(<const char *>raw + at, end - at)
        lines.append(line)
        at = end
    return at
