# cython: language_level=3, boundscheck=False, wraparound=False
"""The commands of nearly all mail, read without a regular expression.

Rule: what is returned is what codec.parse_command would return (a test compares the two); None for anything that has
parameters, quotes, a source route, octets that are not printable ASCII, or is not one of these commands.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcmp

from lmtp_router.protocol._tuples import record
from lmtp_router.protocol.types import NOTHING, Data, Mail, Quit, Rcpt

cdef object DATA = Data(), QUIT = Quit()
cdef enum:
    LONGEST = 512


cdef bint is_path(const unsigned char *path, Py_ssize_t size) noexcept:
    """Is it `<`, plain octets, `>` and nothing else?"""
    cdef Py_ssize_t i
    cdef unsigned char octet
    if size < 2 or size > LONGEST or path[0] != 0x3C or path[size - 1] != 0x3E or path[1] == 0x40:
        return False
    for i in range(1, size - 1):
        octet = path[i]
        if octet <= 0x20 or octet >= 0x7F or octet == 0x3C or octet == 0x3E or octet == 0x22 or octet == 0x5C:
            return False
    return True


def plain_command(bytes line not None):
    """The command in `line`, or None where that takes more thought."""
    cdef const char *raw = PyBytes_AS_STRING(line)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(line)
    if size == 4:
        return DATA if memcmp(raw, b"DATA", 4) == 0 else QUIT if memcmp(raw, b"QUIT", 4) == 0 else None
    if size > 10 and memcmp(raw, b"RCPT TO:", 8) == 0 and is_path(<const unsigned char *>raw + 8, size - 8):
        return record(Rcpt, line[8:], b"", False)
    if size > 11 and memcmp(raw, b"MAIL FROM:", 10) == 0 and is_path(<const unsigned char *>raw + 10, size - 10):
        return record(Mail, line[10:], 0, b"", b"", NOTHING, False, False)
    return None
