# cython: language_level=3, boundscheck=False, wraparound=False
"""LIST and UPDATE in compiled code: a walk over the records that comes out as lines, a piece at a time.

Rule: one piece is short work, done without the GIL.  Between two pieces the walk may hold a snapshot of the store; its
owner calls `be_brief` after a while, and from then on each piece is of the records as they are then.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, strlen

from cyrusext.index._cyx cimport Reader
from cyrusext.index._library cimport CYX_ABSENT, CYX_ENOMEM, CYX_OK, cyx_entry
from cyrusext.mupdate._lines cimport keep, make_room, put, put_entry, release, split

cdef enum:
    SHARE = 4096
    SHARE_LOOKED_UP = 1024


cdef bint is_odd(const char *name, size_t size) noexcept nogil:
    """Return whether a byte below ``.`` or a ``^`` is in it: there Cyrus' order and strcmp's part (healing.Repeats)."""
    cdef size_t at
    for at in range(size):
        if <unsigned char>name[at] < c"." or name[at] == c"^":
            return True
    return False


cdef bint dot_to_caret(const char *name, size_t size) noexcept nogil:
    """Return whether a byte between ``.`` and ``^`` is in it: there they part beside a literal dot."""
    cdef size_t at
    for at in range(size):
        if c"." < <unsigned char>name[at] < c"^":
            return True
    return False


@cython.no_gc_clear
cdef class Walk:
    """All live records on one of `servers` (none: on any) whose location begins with `prefix`, as lines."""

    def __init__(self, Reader reader not None, bytes tag not None, *, servers=(), bytes prefix not None=b""):
        self._reader, self._tag, self._prefix = reader, tag, prefix
        self._tag_data, self._tag_size = PyBytes_AS_STRING(tag), <size_t>PyBytes_GET_SIZE(tag)
        self._prefix_data, self._prefix_size = PyBytes_AS_STRING(prefix), <size_t>PyBytes_GET_SIZE(prefix)
        self._servers = tuple(servers)
        self._picks = len(self._servers) > 0
        self._share = SHARE_LOOKED_UP if len(self._servers) == 1 else SHARE
        self.rewind()

    def __dealloc__(self):
        if self._listing is not NULL:
            self._reader.unlist(&self._listing)
        release(&self._out)
        release(&self._domain)
        release(&self._domains)

    cdef int rewind(self) except -1:
        """Begin again at the first record."""
        cdef bytes server
        self.close()
        if len(self._servers) == 1:
            server = self._servers[0]
            self._listing = self._reader.listing(server)
        else:
            self._listing = self._reader.listing(NULL)
        self.done = False
        return 0

    def close(self):
        """End the walk and let go of the store."""
        self.done = True
        if self._listing is not NULL:
            self._reader.unlist(&self._listing)

    def be_brief(self):
        """Let go of the snapshot, now and after each piece."""
        self._brief = True
        if self._listing is not NULL:
            self._reader.let_go(self._listing)

    def piece(self, size_t limit):
        """Return the next lines, about `limit` bytes; there may be none in a piece before `done`.

        Raises what the Reader raises.
        """
        cdef int code
        self._out.used = self._domains.used = 0
        with nogil:
            code = self.begin()
            if code == CYX_OK:
                code = self.fill(limit)
        self.end(code)
        return PyBytes_FromStringAndSize(self._out.data, <Py_ssize_t>self._out.used)

    def domains(self):
        """Return the domains of the last piece, but for the one with which the piece before ended."""
        return split(&self._domains)

    def odd_names(self, frozenset entangled not None, size_t most, *, bint beside_dots=False):
        """Return which of the next names are to be repeated (healing.Repeats.wants), maybe none before `done`.

        `literal_dots` tells afterwards whether there was a name with ``^``.
        """
        cdef cyx_entry entry
        cdef int code
        self._out.used = self._kept = 0
        with nogil:
            code = self.begin()
            while code == CYX_OK:
                code = self.next(&entry)
                if code == CYX_OK:
                    code = self.keep_beside_dots(&entry) if beside_dots else self.keep_odd(&entry, entangled)
                if code == CYX_OK and self._kept >= most:
                    code = self.stop(MORE)
        self.end(code)
        self._domains.used = 0
        return split(&self._out)

    cdef int begin(self) noexcept nogil:
        """Begin a turn."""
        self._seen = 0
        if self.done or self._listing is NULL:
            return CYX_ABSENT
        self._server = NULL
        return self._reader.resume(self._listing)

    cdef int end(self, int code) except -1:
        """Take the outcome of a turn.  The lock and the snapshot are given back by `next`, for every code but OK."""
        if code == CYX_ABSENT:
            self.done = True
        elif code != MORE:
            self._reader.check(code)
        return 0

    cdef int next(self, cyx_entry *entry) noexcept nogil:
        """Give the next record of interest; CYX_ABSENT after the last, MORE at the end of the turn."""
        cdef int code
        while True:
            self._seen += 1
            code = MORE if self._seen > self._share else self._reader.next(self._listing, entry)
            if code != CYX_OK:
                break
            if self.of_interest(entry):
                return CYX_OK
        return self.stop(code)

    cdef int stop(self, int code) noexcept nogil:
        """End the turn in the store; return `code`."""
        self._reader.pause(self._listing)
        if self._brief:
            self._reader.let_go(self._listing)
        return code

    cdef int fill(self, size_t limit) noexcept nogil:
        cdef cyx_entry entry
        cdef const char *mark
        cdef int code = CYX_OK
        while code == CYX_OK:
            code = self.next(&entry)
            if code != CYX_OK:
                break
            mark = <const char *>memchr(entry.name, c"!", entry.name_len)
            if mark is not NULL and self.learn_domain(entry.name, <size_t>(mark - entry.name)) < 0:
                return self.stop(CYX_ENOMEM)
            if put_entry(&self._out, self._tag_data, self._tag_size, &entry):
                return self.stop(CYX_ENOMEM)
            if self._out.used >= limit:
                return self.stop(MORE)
        return code

    cdef bint of_interest(self, const cyx_entry *entry) noexcept nogil:
        cdef const char *server = entry.location.server
        cdef const char *partition = entry.location.partition
        # A reader's texts stay where they are.
        if server is self._server and partition is self._partition:
            return self._wanted
        self._server, self._partition = server, partition
        self._wanted = self.begins_so(server, partition)
        if self._wanted and self._picks:
            with gil:
                self._wanted = <bytes>server in self._servers
        return self._wanted

    cdef bint begins_so(self, const char *server, const char *partition) noexcept nogil:
        """Return whether server!partition (without a server: partition) begins with the prefix."""
        cdef const char *prefix = self._prefix_data
        cdef size_t size = self._prefix_size
        cdef size_t length = strlen(server)
        if size <= length:
            return memcmp(prefix, server, size) == 0
        if length:
            if memcmp(prefix, server, length) or prefix[length] != c"!":
                return False
            prefix += length + 1
            size -= length + 1
        return size <= strlen(partition) and memcmp(prefix, partition, size) == 0

    cdef int learn_domain(self, const char *name, size_t size) noexcept nogil:
        """Note the domain of a record: 1 where it is another than the one before, -1 where there is no memory."""
        if self._domain.data is not NULL and self._domain.used == size and memcmp(self._domain.data, name, size) == 0:
            return 0
        self._domain.used = 0
        if make_room(&self._domain, size + 1) or keep(&self._domains, name, size):
            return -1
        put(&self._domain, name, size)
        return 1

    cdef int keep_odd(self, const cyx_entry *entry, entangled) noexcept nogil:
        cdef const char *name = entry.name
        cdef size_t size = entry.name_len
        cdef const char *mark = <const char *>memchr(name, c"!", size)
        cdef int another
        if not self.literal_dots and memchr(name, c"^", size) is not NULL:
            self.literal_dots = True
        if mark is not NULL:
            size = <size_t>(mark - name)
            another = self.learn_domain(name, size)
            if another < 0:
                return self.stop(CYX_ENOMEM)
            if another:
                with gil:
                    self._entangled = is_odd(name, size) or PyBytes_FromStringAndSize(name, size) in entangled
            if not self._entangled and not is_odd(mark + 1, entry.name_len - size - 1):
                return CYX_OK
        elif not is_odd(name, size):
            return CYX_OK
        self._kept += 1
        return self.stop(CYX_ENOMEM) if keep(&self._out, entry.name, entry.name_len) else CYX_OK

    cdef int keep_beside_dots(self, const cyx_entry *entry) noexcept nogil:
        cdef const char *end = entry.name + entry.name_len
        cdef const char *mark = <const char *>memchr(entry.name, c"!", entry.name_len)
        cdef const char *local = entry.name if mark is NULL else mark + 1
        if not dot_to_caret(local, <size_t>(end - local)):
            return CYX_OK
        self._kept += 1
        return self.stop(CYX_ENOMEM) if keep(&self._out, entry.name, entry.name_len) else CYX_OK
