# cython: language_level=3, boundscheck=False, wraparound=False
"""libcyrusext for Python: a Reader and a Writer, one owned handle each.

Rule: nothing is decided here.  Codes become exceptions by the table of the handle's owner (code -> class, 0 for all
others), records become MailboxRecord; everything else is in C or in cyrusext.index and cyrusext.store.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from cyrusext.index._library cimport *
from cyrusext.index._records cimport collect, fill, record_of, records_of, remember


cdef enum:
    ACL_READY = 4096    # longer ones are asked for twice


cdef object failure(int code, dict errors):
    """The exception for a code; peers are told the sentence only, the details hold paths."""
    cdef str text = cyx_strerror(code).decode()
    cdef str detail = cyx_detail().decode("utf-8", "replace")
    if code == CYX_ENOMEM:
        return MemoryError(text)
    return errors.get(code, errors[0])(f"{text}: {detail}" if detail else text, public=text)


cdef inline int checked(int code, dict errors) except -1:
    if code < 0:
        raise failure(code, errors)
    return code


cdef object single(int code, cyx_chunk *chunk, dict known, dict errors):
    """The one record of `chunk`, which is freed; None where the code says ABSENT."""
    try:
        return None if checked(code, errors) == CYX_ABSENT else record_of(chunk, &chunk.items[0], known)
    finally:
        cyx_chunk_free(chunk)


cdef class Reader:
    """A reading handle of the store below `state_dir`; any thread may use it, and any may close it.

    What keeps the GIL from looking at `closed` to the end of its call in C is safe from `close`.  Everything else holds
    the handle meanwhile (`held` or `hold`, then `drop`): the last one who drops it after `close` frees it.
    """

    def __cinit__(self, bytes state_dir not None, dict errors not None):
        self.errors = errors
        cdef const char *path = state_dir
        cdef int code
        self.known = {}
        self.closed = True
        with nogil:
            code = cyx_open(path, &self.handle)
        checked(code, self.errors)
        self.users = 1
        self.closed = False

    def __dealloc__(self):
        if not self.closed:
            self.drop()

    cdef cyx_reader *opened(self) except NULL:
        if self.closed:
            raise ValueError("the index is closed")
        return self.handle

    cdef cyx_reader *held(self) except NULL:
        self.opened()
        self.hold()
        return self.handle

    cdef int hold(self) noexcept nogil:
        if self.closed or not cyx_take_up(&self.users):
            return CYX_EMISUSE
        return CYX_OK

    cdef void drop(self) noexcept nogil:
        if cyx_put_down(&self.users):
            cyx_close(&self.handle)

    cdef int begin(self) noexcept nogil:
        cdef int code = self.hold()
        if code == CYX_OK:
            code = cyx_reader_begin(self.handle)
            if code != CYX_OK:
                self.drop()
        return code

    cdef void end(self) noexcept nogil:
        cyx_reader_end(self.handle)
        self.drop()

    cdef int entry(self, const char *name, size_t size, cyx_entry *entry_r) noexcept nogil:
        return cyx_reader_entry(self.handle, name, size, entry_r)

    cdef cyx_listing *listing(self, const char *server) except NULL:
        cdef cyx_listing *listing = NULL
        checked(cyx_listing_open(self.opened(), server, &listing), self.errors)
        return listing

    cdef int resume(self, cyx_listing *listing) noexcept nogil:
        cdef int code = self.hold()
        if code == CYX_OK:
            code = cyx_listing_resume(listing, self.handle)
            if code != CYX_OK:
                self.drop()
        return code

    cdef int next(self, cyx_listing *listing, cyx_entry *entry_r) noexcept nogil:
        return cyx_listing_next(listing, entry_r)

    cdef void pause(self, cyx_listing *listing) noexcept nogil:
        cyx_listing_pause(listing)
        self.drop()

    cdef void let_go(self, cyx_listing *listing) noexcept nogil:
        cyx_listing_let_go(listing)

    cdef void unlist(self, cyx_listing **listing) noexcept nogil:
        cyx_listing_close(listing)

    cdef int check(self, int code) except -1:
        return checked(code, self.errors)

    def close(self):
        """No call begins any more; those under way in other threads end, and the last of them frees the handle."""
        if not self.closed:
            self.closed = True
            with nogil:
                self.drop()

    def refresh(self):
        checked(cyx_refresh(self.opened()), self.errors)

    cdef int locate(self, const char *name, size_t size, cyx_location *at_r) except -1:
        if self.closed:  # as `opened` says it, without a call
            self.opened()
        cdef int code = cyx_lookup(self.handle, name, size, at_r)
        return code if code >= 0 else checked(code, self.errors)

    cdef int inspect(self, const char *name, size_t size, cyx_location *at_r) except -1:
        return checked(cyx_inspect(self.opened(), name, size, at_r), self.errors)

    cdef int locate_many(self, const cyx_name *names, size_t count, cyx_location *at_r) except -1:
        return checked(cyx_lookup_many(self.opened(), names, count, at_r), self.errors)

    @property
    def hot_generation(self):
        """Which hot table answers; 0 where it is the store."""
        return cyx_reader_hot_generation(self.opened())

    def hot_stat(self):
        """Return (generation, bytes, slots, slots in use, alike, homeless, routes, applied seq, age in ns) or None."""
        cdef cyx_hot_stat numbers
        if checked(cyx_reader_hot_stat(self.opened(), &numbers), self.errors) == CYX_ABSENT:
            return None
        return (numbers.generation, numbers.bytes, numbers.slots, numbers.placed, numbers.alike, numbers.homeless,
                numbers.routes, numbers.applied_seq, numbers.age_ns)

    def get(self, bytes name not None):
        """Return the MailboxRecord, a tombstone too, or None."""
        cdef cyx_reader *handle = self.held()
        cdef cyx_chunk chunk
        memset(&chunk, 0, sizeof(chunk))
        cdef int code = cyx_reader_get(handle, PyBytes_AS_STRING(name), <size_t>PyBytes_GET_SIZE(name), &chunk)
        try:
            return single(code, &chunk, self.known, self.errors)
        finally:
            self.drop()

    def acl(self, bytes name not None):
        """Return the ACL of a mailbox, None where there is no such mailbox."""
        cdef char ready[ACL_READY]
        cdef size_t size = ACL_READY
        cdef char *raw = PyBytes_AS_STRING(name)
        cdef size_t name_size = <size_t>PyBytes_GET_SIZE(name)
        cdef int code = cyx_acl(self.opened(), raw, name_size, ready, ACL_READY, &size)
        cdef bytes acl
        if code == CYX_OK:
            return PyBytes_FromStringAndSize(ready, <Py_ssize_t>size)
        while code == CYX_ETOOSMALL:  # again where it has grown meanwhile
            acl = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
            code = cyx_acl(self.opened(), raw, name_size, PyBytes_AS_STRING(acl), size, &size)
        return None if checked(code, self.errors) == CYX_ABSENT else acl[:size]

    def chunk(self, bytes prefix not None, bytes server, bytes after not None, size_t limit, bint tombstones):
        """Return at most `limit` records behind `after`, and whether these are the last."""
        cdef cyx_chunk chunk
        cdef cyx_range wanted
        cdef int code
        memset(&chunk, 0, sizeof(chunk))
        wanted.prefix, wanted.prefix_len = PyBytes_AS_STRING(prefix), <size_t>PyBytes_GET_SIZE(prefix)
        wanted.after, wanted.after_len = PyBytes_AS_STRING(after), <size_t>PyBytes_GET_SIZE(after)
        wanted.server = NULL
        if server is not None:
            wanted.server = PyBytes_AS_STRING(server)
        wanted.limit, wanted.tombstones = limit, tombstones
        cdef cyx_reader *handle = self.held()
        try:
            with nogil:
                code = cyx_reader_chunk(handle, &wanted, &chunk)
            checked(code, self.errors)
            return records_of(&chunk, self.known), bool(chunk.done)
        finally:
            cyx_chunk_free(&chunk)
            self.drop()

    def changed(self, uint64_t after, size_t limit):
        """Return (records, seq of the first change looked at or 0, of the last one, its mark, no more follow)."""
        cdef cyx_chunk chunk
        cdef cyx_changed changed
        cdef int code
        memset(&chunk, 0, sizeof(chunk))
        cdef cyx_reader *handle = self.held()
        try:
            with nogil:
                code = cyx_reader_changed(handle, after, limit, &chunk, &changed)
            checked(code, self.errors)
            return records_of(&chunk, self.known), changed.first, changed.upto, changed.mark, bool(chunk.done)
        finally:
            cyx_chunk_free(&chunk)
            self.drop()

    def mark(self, uint64_t seq):
        """Return the mark of the change under `seq`, None where the log does not have it."""
        cdef uint32_t mark = 0
        cdef int code = cyx_reader_mark(self.opened(), seq, &mark)
        return None if checked(code, self.errors) == CYX_ABSENT else mark

    def history(self, bytes name not None):
        """Return (seq, details or None) for each logged change of one mailbox, oldest first."""
        cdef list found = []
        cdef size_t size = <size_t>PyBytes_GET_SIZE(name)
        cdef cyx_reader *handle = self.held()
        try:
            checked(cyx_reader_history(handle, PyBytes_AS_STRING(name), size, remember, <void *>found), self.errors)
        finally:
            self.drop()
        return found

    def fresh(self, uint64_t max_age_ms):
        return checked(cyx_fresh(self.opened(), max_age_ms), self.errors) == CYX_OK

    def text(self, bytes key not None):
        """Return a text that the node left in the store, or None."""
        cdef char *text = NULL
        cdef int code = cyx_reader_text(self.opened(), key, &text)
        try:
            return None if checked(code, self.errors) == CYX_ABSENT else <bytes>text
        finally:
            free(text)

    def copy(self, int fd):
        """Write the whole store, as it is now, to the empty file `fd`."""
        cdef cyx_reader *handle = self.held()
        cdef int code
        with nogil:
            code = cyx_reader_copy(handle, fd)
            self.drop()
        checked(code, self.errors)

    def stat(self):
        """Return (active, reserved, tombstones, seq, bytes used, map size, live records by server)."""
        cdef cyx_stat numbers
        cdef dict servers = {}
        cdef cyx_reader *handle = self.held()
        cdef int code = cyx_reader_stat(handle, &numbers)
        if code >= 0:
            code = cyx_reader_servers(handle, collect, <void *>servers)
        self.drop()
        checked(code, self.errors)
        return (numbers.counts.active, numbers.counts.reserved, numbers.counts.tombstones, numbers.seq,
                numbers.bytes_used, numbers.map_size, servers)


cdef class Writer:
    """The writing handle of a store.  A transaction belongs to the thread that began it."""

    cdef cyx_writer *handle
    cdef dict errors

    def __cinit__(self, bytes state_dir not None, bytes run_dir not None, bytes reader_group not None, size_t map_size,
                  dict errors not None):
        cdef const char *state = state_dir
        cdef const char *run = run_dir
        cdef const char *group = reader_group
        cdef int code
        self.errors = errors
        with nogil:
            code = cyx_writer_open(state, run, group, map_size, &self.handle)
        checked(code, self.errors)

    def __dealloc__(self):
        cyx_writer_close(&self.handle)

    cdef cyx_writer *opened(self) except NULL:
        if self.handle is NULL:
            raise ValueError("the store is closed")
        return self.handle

    def close(self):
        cdef cyx_writer *handle = self.handle
        self.handle = NULL
        with nogil:
            cyx_writer_close(&handle)

    @property
    def seq(self):
        return cyx_writer_seq(self.opened())

    @property
    def hot_wanted(self):
        return bool(cyx_writer_hot_wanted(self.opened()))

    def build_hot(self):
        """Build the hot table anew; not to be closed meanwhile."""
        cdef cyx_writer *handle = self.opened()
        cdef int code
        with nogil:
            code = cyx_writer_build_hot(handle)
        checked(code, self.errors)

    def cancel_hot(self):
        cyx_writer_cancel_hot(self.opened())

    def begin(self):
        cdef cyx_writer *handle = self.opened()
        cdef int code
        with nogil:
            code = cyx_writer_begin(handle)
        checked(code, self.errors)

    def commit(self):
        cdef cyx_writer *handle = self.opened()
        cdef int code
        with nogil:
            code = cyx_writer_commit(handle)
        checked(code, self.errors)

    def abort(self):
        cyx_writer_abort(self.opened())

    def get(self, bytes name not None):
        cdef cyx_chunk chunk
        memset(&chunk, 0, sizeof(chunk))
        cdef int code = cyx_writer_get(self.opened(), PyBytes_AS_STRING(name), <size_t>PyBytes_GET_SIZE(name), &chunk)
        return single(code, &chunk, None, self.errors)

    def put(self, record, bint keep_seq=False):
        """Put a MailboxRecord; return it with the next seq (`keep_seq`: its own) and, where it had none, the time."""
        cdef cyx_put_record raw
        cdef uint64_t seq = 0
        cdef int64_t at = 0
        fill(&raw, record)
        if keep_seq:
            raw.seq = record.seq
        checked(cyx_writer_put(self.opened(), &raw, &seq, &at), self.errors)
        return record._replace(seq=seq, changed_at=at)

    def put_many(self, records):
        cdef cyx_writer *handle = self.opened()
        cdef list kept = list(records)
        cdef size_t count = <size_t>len(kept), i
        cdef int code
        cdef cyx_put_record *raw = <cyx_put_record *>malloc((count + 1) * sizeof(cyx_put_record))
        if raw is NULL:
            raise MemoryError
        try:
            for i in range(count):
                fill(&raw[i], kept[i])
            with nogil:
                code = cyx_writer_put_many(handle, raw, count)
        finally:
            free(raw)
        checked(code, self.errors)
        return count

    def purge(self, int64_t before, uint64_t limit):
        cdef uint64_t purged = 0
        checked(cyx_writer_purge(self.opened(), before, limit, &purged), self.errors)
        return purged

    def set_text(self, bytes key not None, bytes text not None):
        checked(cyx_writer_set_text(self.opened(), key, text, <size_t>PyBytes_GET_SIZE(text)), self.errors)

    def set_number(self, bytes key not None, uint64_t number):
        checked(cyx_writer_set_number(self.opened(), key, number), self.errors)

    def check_readers(self):
        cdef int dead = 0
        checked(cyx_writer_check_readers(self.opened(), &dead), self.errors)
        return dead

    def beat(self, bint fresh):
        cyx_writer_beat(self.opened(), fresh)
