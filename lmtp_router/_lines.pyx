# cython: language_level=3, boundscheck=False, wraparound=False
"""The log lines of a transaction's recipients, written as octets.

Rule: what stands here is what cyrusext.runtime.logging would write of the same fields (a test compares the two); a
value with anything but plain ASCII in it is given to that.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport llrint
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy
from libc.time cimport gmtime_r, time_t, tm

from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from cyrusext.runtime.logging import format_value


cdef class Text:
    """Octets that grow."""

    def __cinit__(self):
        self.room = 4096
        self.start = <char *>malloc(self.room)
        if self.start is NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.start)

    cdef int reserve(self, size_t more) except -1:
        cdef char *wider
        if self.room - self.size < more:
            wider = <char *>realloc(self.start, 2 * (self.size + more))
            if wider is NULL:
                raise MemoryError
            self.start, self.room = wider, 2 * (self.size + more)
        return 0

    cdef int put(self, const char *octets, size_t size) except -1:
        self.reserve(size)
        memcpy(self.start + self.size, octets, size)
        self.size += size
        return 0

    cdef int put_number(self, long long number) except -1:
        cdef char digits[24]
        cdef int at = 24
        cdef unsigned long long rest = <unsigned long long>number if number >= 0 else 0ULL - <unsigned long long>number
        while True:
            at -= 1
            digits[at] = <char>(48 + rest % 10)
            rest //= 10
            if not rest:
                break
        if number < 0:
            at -= 1
            digits[at] = 45
        return self.put(digits + at, 24 - at)

    cdef int put_ms(self, const char *name, size_t size, double seconds) except -1:
        """A field with milliseconds and one decimal."""
        cdef char digits[40]
        cdef long long tenths
        self.put(name, size)
        if not -99.0 < seconds < 99.0:
            return self.put(digits, <size_t>snprintf(digits, 40, b"%.6g", seconds * 1000))
        tenths = llrint(seconds * 10000)
        if tenths < 0:
            self.put(b"-", 1)
            tenths = -tenths
        self.put_number(tenths // 10)
        if tenths % 10:
            self.put(b".", 1)
            self.put_number(tenths % 10)
        return 0

    cdef int put_value(self, bytes value) except -1:
        """One logfmt value."""
        cdef const unsigned char *octets = <const unsigned char *>PyBytes_AS_STRING(value)
        cdef size_t size = <size_t>PyBytes_GET_SIZE(value), i
        cdef unsigned char octet
        cdef bint quoted = size == 0
        cdef bint escaped = False
        for i in range(size):
            octet = octets[i]
            if octet < 0x20 or octet > 0x7e:
                value = format_value(value).encode("utf-8", "backslashreplace")
                return self.put(PyBytes_AS_STRING(value), <size_t>PyBytes_GET_SIZE(value))
            quoted = quoted or octet == 0x20 or octet == 0x3d or octet == 0x22
            escaped = escaped or octet == 0x22 or octet == 0x5c
        if not quoted:
            return self.put(<const char *>octets, size)
        if escaped:
            value = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        self.put(b'"', 1)
        self.put(PyBytes_AS_STRING(value), <size_t>PyBytes_GET_SIZE(value))
        return self.put(b'"', 1)


cdef time_t stamped = 0
cdef char stamp[40]
cdef size_t stamp_size = 0


cdef int put_now(Text text) except -1:
    """The time of now; all but the milliseconds is made once a second."""
    global stamped, stamp_size
    cdef timespec now
    cdef tm parts
    cdef time_t seconds
    cdef int ms
    cdef char last[4]
    clock_gettime(CLOCK_REALTIME, &now)
    seconds = now.tv_sec
    if seconds != stamped or not stamp_size:
        gmtime_r(&seconds, &parts)
        stamp_size = <size_t>snprintf(
            stamp, 40, b"%04d-%02d-%02dT%02d:%02d:%02d.", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
            parts.tm_hour, parts.tm_min, parts.tm_sec)
        stamped = seconds
    ms = <int>(now.tv_nsec // 1000000)
    last[0], last[1], last[2], last[3] = 48 + ms // 100, 48 + ms // 10 % 10, 48 + ms % 10, 90
    text.put(stamp, stamp_size)
    return text.put(last, 4)


cdef int put_head(Text head, str event, str session, bytes mail_from) except -1:
    """The beginning of each line."""
    head.put(b"ts=", 3)
    put_now(head)
    head.put(b" level=info event=", 18)
    head.put_value(event.encode())
    head.put(b" session=", 9)
    head.put_value(session.encode())
    head.put(b" from=", 6)
    head.put_value(mail_from)
    head.put(b" to=", 4)
    return 0


cdef int put_tail(Text text, str server, long long size, bytes words, double started, double asked, double linked,
                  double opened, double ended, double at) except -1:
    """What stands behind the address; a time is 0 where it did not come so far."""
    text.put(b" backend=", 9)
    text.put_value(server.encode("utf-8", "backslashreplace"))
    text.put(b" size=", 6)
    text.put_number(size)
    text.put(b" reply=", 7)
    text.put_value(words)
    text.put_ms(b" took_ms=", 9, at - started)
    if linked:
        text.put_ms(b" connect_ms=", 12, linked - asked)
    if opened:
        text.put_ms(b" envelope_ms=", 13, opened - linked)
    if ended:
        text.put_ms(b" data_ms=", 9, ended - opened)
        if size and at:
            text.put_ms(b" final_ms=", 10, at - ended)
    return text.put(b"\n", 1)


def recipient_lines(str event, str session, bytes mail_from, done):
    """The lines of `done` (recipient, final, size, at) with every address in them."""
    cdef Text text = Text(), head = Text()
    cdef double at, asked, linked, opened, ended
    cdef long long size
    put_head(head, event, session, mail_from)
    for recipient, final, size, at in done:
        text.put(head.start, head.size)
        text.put_value(recipient.rcpt.path)
        asked = linked = opened = ended = 0.0
        times = recipient.times
        if times is not None:
            asked, linked, opened, ended = times.asked, times.linked, times.opened, times.ended
        put_tail(text, recipient.server, size, text_of(final), recipient.started, asked, linked, opened, ended, at)
    return PyBytes_FromStringAndSize(text.start, <Py_ssize_t>text.size)


cdef bytes text_of(final):
    """The whole reply on one line, as Reply.text has it."""
    cdef bytes raw = final.raw
    cdef Py_ssize_t size = PyBytes_GET_SIZE(raw)
    cdef Py_ssize_t end = raw.find(b"\r\n")
    if end == size - 2 and end > 3 and raw[3] == 0x20:
        return raw[:end]
    return final.text.encode("utf-8", "backslashreplace")
