"""MUPDATE lines, written from the store's own bytes without a Python object for each record.

Rule: equal to codec.encode_records, which is the specification.  Nothing here needs the GIL.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, strlen

from cyrusext.index._library cimport CYX_ACTIVE, CYX_DELETED, CYX_RESERVED, cyx_entry

cdef enum:
    MAX_TAG = 128
    LINE = 512  # more than a line has besides its tag and strings

ctypedef struct Lines:
    char *data
    size_t used, size


cdef inline int make_room(Lines *out, size_t needed) noexcept nogil:
    """Let `needed` bytes fit in behind what is there; -1 where there is no memory."""
    cdef char *data
    cdef size_t size
    if out.size - out.used >= needed:
        return 0
    size = 2 * (out.used + needed)
    data = <char *>realloc(out.data, size)
    if data is NULL:
        return -1
    out.data, out.size = data, size
    return 0


cdef inline void release(Lines *out) noexcept nogil:
    free(out.data)
    out.data = NULL
    out.used = out.size = 0


cdef inline void put(Lines *out, const char *data, size_t size) noexcept nogil:
    memcpy(out.data + out.used, data, size)
    out.used += size


cdef inline void announce(Lines *out, size_t size) noexcept nogil:
    """Write ``{size+}CRLF``."""
    cdef char digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = <char>(c"0" + size % 10)
        size //= 10
        if size == 0:
            break
    put(out, b"{", 1)
    put(out, digits + at, <size_t>(20 - at))
    put(out, b"+}\r\n", 4)


cdef inline void put_literal(Lines *out, const char *data, size_t size) noexcept nogil:
    announce(out, size)
    put(out, data, size)


cdef inline int put_entry(Lines *out, const char *tag, size_t tag_size, const cyx_entry *entry) noexcept nogil:
    """Write the line that reports `entry`; -1 where there is no memory."""
    cdef size_t server, partition, mark
    cdef bint active = entry.location.state == CYX_ACTIVE
    if entry.location.state == CYX_DELETED:
        if make_room(out, tag_size + entry.name_len + LINE):
            return -1
        put(out, tag, tag_size)
        put(out, b" DELETE ", 8)
        put_literal(out, entry.name, entry.name_len)
        put(out, b"\r\n", 2)
        return 0
    server, partition = strlen(entry.location.server), strlen(entry.location.partition)
    mark = server > 0   # in mode replicated a location is the partition alone
    if make_room(out, tag_size + entry.name_len + server + partition + entry.acl_len + LINE):
        return -1
    put(out, tag, tag_size)
    put(out, b" MAILBOX " if active else b" RESERVE ", 9)
    put_literal(out, entry.name, entry.name_len)
    put(out, b" ", 1)
    announce(out, server + mark + partition)
    put(out, entry.location.server, server)
    put(out, b"!", mark)
    put(out, entry.location.partition, partition)
    if active:
        put(out, b" ", 1)
        put_literal(out, entry.acl, entry.acl_len)
    put(out, b"\r\n", 2)
    return 0


cdef inline size_t stride(size_t size) noexcept nogil:
    """What a kept name of `size` bytes takes, its size before it included."""
    return sizeof(size_t) + (size + sizeof(size_t) - 1) // sizeof(size_t) * sizeof(size_t)


cdef inline int keep(Lines *names, const char *name, size_t size) noexcept nogil:
    """Append a name to a list of them; -1 where there is no memory."""
    if make_room(names, stride(size)):
        return -1
    (<size_t *>(names.data + names.used))[0] = size
    memcpy(names.data + names.used + sizeof(size_t), name, size)
    names.used += stride(size)
    return 0


cdef inline list split(Lines *names):
    """Return the kept names, and keep none of them any longer."""
    cdef size_t at = 0
    cdef size_t size
    cdef list found = []
    while at < names.used:
        size = (<size_t *>(names.data + at))[0]
        found.append(PyBytes_FromStringAndSize(names.data + at + sizeof(size_t), <Py_ssize_t>size))
        at += stride(size)
    names.used = 0
    return found
