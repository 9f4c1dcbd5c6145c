# cython: language_level=3, boundscheck=False, wraparound=False
"""libcyrusext for Python: a Reader and a Writer, one owned handle each.

Rule: nothing is decided here.  Codes become exceptions by the table of the handle's owner (code -> class, 0 for all
others), records become MailboxRecord; everything else is in C or in cyrusext.index and cyrusext.store.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset, strlen

from cyrusext.index._records cimport fill

from cyrusext.model import Flag, MailboxRecord, State

cdef tuple STATES = (None, State.RESERVED, State.ACTIVE, State.DELETED)
cdef dict FLAGS = {int(flag): flag for flag in (Flag(number) for number in range(8))}


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


cdef object flags_of(uint32_t number):
    flag = FLAGS.get(number)
    return Flag(number) if flag is None else flag


cdef inline str text_of(const char *text):
    return PyUnicode_DecodeUTF8(text, <Py_ssize_t>strlen(text), NULL)


cdef object record_of(const cyx_chunk *chunk, const cyx_chunk_item *item, dict known):
    """Build a MailboxRecord; `known` keeps one str per server and partition (their C strings live as long as it)."""
    cdef const char *data = <const char *>chunk.bytes
    return tuple.__new__(MailboxRecord, (
        PyBytes_FromStringAndSize(data + item.name_at, <Py_ssize_t>item.name_len),
        STATES[item.location.state],
        interned(item.location.server, known),
        interned(item.location.partition, known),
        PyBytes_FromStringAndSize(data + item.acl_at, <Py_ssize_t>item.acl_len),
        item.location.seq,
        flags_of(item.location.flags),
        item.location.changed_at,
        PyUnicode_DecodeUTF8(data + item.by_at, <Py_ssize_t>item.by_len, "replace"),
    ))


cdef object single(int code, cyx_chunk *chunk, dict known, dict errors):
    """The one record of `chunk`, which is freed; None where the code says ABSENT."""
    try:
        return None if checked(code, errors) == CYX_ABSENT else record_of(chunk, &chunk.items[0], known)
    finally:
        cyx_chunk_free(chunk)


cdef inline str interned(const char *text, dict known):
    if known is None:
        return text_of(text)
    found = known.get(<uintptr_t>text)
    if found is None:
        found = known[<uintptr_t>text] = text_of(text)
    return <str>found


cdef int collect(void *context, const char *server, uint64_t count) noexcept with gil:
    (<dict>context)[text_of(server)] = count
    return 0


cdef int remember(void *context, const cyx_history_item *item) noexcept with gil:
    """Append one change of a mailbox's history as a tuple; what its entry does not say is None."""
    cdef const cyx_location *at = &item.location
    cdef const cyx_location *was = &item.was
    if not item.detailed:
        (<list>context).append((item.seq, None))
        return 0
    before = (STATES[was.state], text_of(was.server), text_of(was.partition)) if was.state else None
    (<list>context).append((item.seq, (
        at.changed_at, STATES[at.state], text_of(at.server), text_of(at.partition), flags_of(at.flags), before,
        bool(item.acl_changed), PyUnicode_DecodeUTF8(item.by, <Py_ssize_t>item.by_len, "replace"))))
    return 0


cdef class Reader:
    """A reading handle of the store below `state_dir`; any thread may use it."""

    def __cinit__(self, bytes state_dir not None, dict errors not None):
        self.errors = errors
        cdef const char *path = state_dir
        cdef int code
        self.known = {}
        with nogil:
            code = cyx_open(path, &self.handle)
        checked(code, self.errors)

    def __dealloc__(self):
        cyx_close(&self.handle)

    cdef cyx_reader *opened(self) except NULL:
        if self.handle is NULL:
            raise ValueError("the index is closed")
        return self.handle

    cdef int begin(self) noexcept nogil:
        return CYX_EMISUSE if self.handle is NULL else cyx_reader_begin(self.handle)

    cdef void end(self) noexcept nogil:
        cyx_reader_end(self.handle)

    cdef int entry(self, const char *name, size_t size, cyx_entry *entry_r) noexcept nogil:
        return cyx_reader_entry(self.handle, name, size, entry_r)

    cdef cyx_listing *listing(self, const char *server) except NULL:
        cdef cyx_listing *listing = NULL
        checked(cyx_listing_open(self.opened(), server, &listing), self.errors)
        return listing

    cdef int resume(self, cyx_listing *listing) noexcept nogil:
        return CYX_EMISUSE if self.handle is NULL else cyx_listing_resume(listing, self.handle)

    cdef int next(self, cyx_listing *listing, cyx_entry *entry_r) noexcept nogil:
        return cyx_listing_next(listing, entry_r)

    cdef void pause(self, cyx_listing *listing) noexcept nogil:
        cyx_listing_pause(listing)

    cdef void let_go(self, cyx_listing *listing) noexcept nogil:
        cyx_listing_let_go(listing)

    cdef void unlist(self, cyx_listing **listing) noexcept nogil:
        cyx_listing_close(listing)

    cdef int check(self, int code) except -1:
        return checked(code, self.errors)

    def close(self):
        cdef cyx_reader *handle = self.handle
        self.handle = NULL
        with nogil:
            cyx_close(&handle)

    def refresh(self):
        checked(cyx_refresh(self.opened()), self.errors)

    cdef int locate(self, const char *name, size_t size, cyx_location *at_r) except -1:
        return checked(cyx_lookup(self.opened(), name, size, at_r), self.errors)

    cdef int inspect(self, const char *name, size_t size, cyx_location *at_r) except -1:
        return checked(cyx_inspect(self.opened(), name, size, at_r), self.errors)

    cdef int locate_many(self, const cyx_name *names, size_t count, cyx_location *at_r) except -1:
        return checked(cyx_lookup_many(self.opened(), names, count, at_r), self.errors)

    @property
    def hot_generation(self):
        """Which hot table answers; 0 where it is the store."""
        return cyx_reader_hot_generation(self.opened())

    cdef str text_at(self, const char *text):
        """The one str for a server or partition that the handle owns."""
        return interned(text, self.known)

    def get(self, bytes name not None):
        """Return the MailboxRecord, a tombstone too, or None."""
        cdef cyx_reader *handle = self.opened()
        cdef cyx_chunk chunk
        memset(&chunk, 0, sizeof(chunk))
        cdef int code = cyx_reader_get(handle, PyBytes_AS_STRING(name), <size_t>PyBytes_GET_SIZE(name), &chunk)
        return single(code, &chunk, self.known, self.errors)

    def chunk(self, bytes prefix not None, bytes server, bytes after not None, size_t limit, bint tombstones):
        """Return at most `limit` records behind `after`, and whether these are the last."""
        cdef cyx_reader *handle = self.opened()
        cdef cyx_chunk chunk
        cdef cyx_range wanted
        cdef int code
        cdef size_t i
        memset(&chunk, 0, sizeof(chunk))
        wanted.prefix, wanted.prefix_len = PyBytes_AS_STRING(prefix), <size_t>PyBytes_GET_SIZE(prefix)
        wanted.after, wanted.after_len = PyBytes_AS_STRING(after), <size_t>PyBytes_GET_SIZE(after)
        wanted.server = NULL
        if server is not None:
            wanted.server = PyBytes_AS_STRING(server)
        wanted.limit, wanted.tombstones = limit, tombstones
        with nogil:
            code = cyx_reader_chunk(handle, &wanted, &chunk)
        try:
            checked(code, self.errors)
            return [record_of(&chunk, &chunk.items[i], self.known) for i in range(chunk.count)], bool(chunk.done)
        finally:
            cyx_chunk_free(&chunk)

    def changed(self, uint64_t after, size_t limit):
        """Return (records, seq of the first change looked at or 0, of the last one, its mark, no more follow)."""
        cdef cyx_reader *handle = self.opened()
        cdef cyx_chunk chunk
        cdef cyx_changed changed
        cdef int code
        cdef size_t i
        memset(&chunk, 0, sizeof(chunk))
        with nogil:
            code = cyx_reader_changed(handle, after, limit, &chunk, &changed)
        try:
            checked(code, self.errors)
            records = [record_of(&chunk, &chunk.items[i], self.known) for i in range(chunk.count)]
            return records, changed.first, changed.upto, changed.mark, bool(chunk.done)
        finally:
            cyx_chunk_free(&chunk)

    def mark(self, uint64_t seq):
        """Return the mark of the change under `seq`, None where the log does not have it."""
        cdef uint32_t mark = 0
        cdef int code = cyx_reader_mark(self.opened(), seq, &mark)
        return None if checked(code, self.errors) == CYX_ABSENT else mark

    def history(self, bytes name not None):
        """Return (seq, details or None) for each logged change of one mailbox, oldest first."""
        cdef list found = []
        cdef size_t size = <size_t>PyBytes_GET_SIZE(name)
        checked(cyx_reader_history(self.opened(), PyBytes_AS_STRING(name), size, remember, <void *>found), self.errors)
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
        cdef cyx_reader *handle = self.opened()
        cdef int code
        with nogil:
            code = cyx_reader_copy(handle, fd)
        checked(code, self.errors)

    def stat(self):
        """Return (active, reserved, tombstones, seq, bytes used, map size, live records by server)."""
        cdef cyx_stat numbers
        cdef cyx_reader *handle = self.opened()
        cdef dict servers = {}
        cdef int code = cyx_reader_stat(handle, &numbers)
        if code >= 0:
            code = cyx_reader_servers(handle, collect, <void *>servers)
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
