"""What of libcyrusext is used from Cython: the declarations of its headers.

Rule: one C function has one binding, in _cyx; what else is compiled takes types and constants from here.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "cyrusext.h" nogil:
    ctypedef struct cyx_reader:
        pass
    ctypedef struct cyx_location:
        const char *server
        const char *partition
        uint64_t seq
        int64_t changed_at
        uint32_t flags
        uint32_t state
        uint32_t place
    ctypedef struct cyx_entry:
        cyx_location location
        const char *name
        size_t name_len
        const char *acl
        size_t acl_len
    const int CYX_MAX_NAME
    const int CYX_RESERVED, CYX_ACTIVE, CYX_DELETED
    const int CYX_OK, CYX_ABSENT, CYX_STALE, CYX_ETOOSMALL, CYX_EINVAL, CYX_ENOMEM, CYX_EMISUSE
    int cyx_open(const char *state_dir, cyx_reader **reader_r)
    int cyx_refresh(cyx_reader *reader)
    void cyx_close(cyx_reader **reader)
    ctypedef struct cyx_name:
        const char *data
        size_t len
    int cyx_lookup(cyx_reader *reader, const char *name, size_t len, cyx_location *location_r)
    int cyx_inspect(cyx_reader *reader, const char *name, size_t len, cyx_location *location_r)
    int cyx_acl(cyx_reader *reader, const char *name, size_t len, char *buffer, size_t size, size_t *len_r)
    int cyx_lookup_many(cyx_reader *reader, const cyx_name *names, size_t count, cyx_location *locations_r)
    int cyx_fresh(cyx_reader *reader, uint64_t max_age_ms)
    const char *cyx_strerror(int code)
    const char *cyx_detail()


cdef extern from "internal.h" nogil:
    ctypedef struct cyx_chunk_item:
        cyx_location location
        size_t name_at, name_len, acl_at, acl_len, by_at, by_len
    ctypedef struct cyx_chunk:
        cyx_chunk_item *items
        size_t count
        uint8_t *bytes
        bint done
    ctypedef struct cyx_range:
        const char *prefix
        size_t prefix_len
        const char *server
        const char *after
        size_t after_len
        size_t limit
        bint tombstones
    int cyx_reader_chunk(cyx_reader *reader, const cyx_range *range, cyx_chunk *chunk)
    uint64_t cyx_reader_hot_generation(cyx_reader *reader)
    ctypedef struct cyx_listing:
        pass
    int cyx_listing_open(cyx_reader *reader, const char *server, cyx_listing **listing_r)
    int cyx_listing_resume(cyx_listing *listing, cyx_reader *reader)
    int cyx_listing_next(cyx_listing *listing, cyx_entry *entry_r)
    void cyx_listing_pause(cyx_listing *listing)
    void cyx_listing_let_go(cyx_listing *listing)
    void cyx_listing_close(cyx_listing **listing)
    int cyx_reader_begin(cyx_reader *reader)
    void cyx_reader_end(cyx_reader *reader)
    int cyx_reader_entry(cyx_reader *reader, const char *name, size_t len, cyx_entry *entry_r)
    int cyx_reader_get(cyx_reader *reader, const char *name, size_t len, cyx_chunk *chunk)
    void cyx_chunk_free(cyx_chunk *chunk)


cdef extern from "changes.h" nogil:
    ctypedef struct cyx_changed:
        uint64_t first, upto
        uint32_t mark
    ctypedef struct cyx_history_item:
        uint64_t seq
        bint detailed, acl_changed
        cyx_location location, was
        const char *by
        size_t by_len
    ctypedef int (*cyx_history_cb)(void *context, const cyx_history_item *item) noexcept with gil
    int cyx_reader_mark(cyx_reader *reader, uint64_t seq, uint32_t *mark_r)
    int cyx_reader_changed(cyx_reader *reader, uint64_t after, size_t limit, cyx_chunk *chunk, cyx_changed *changed_r)
    int cyx_reader_history(cyx_reader *reader, const char *name, size_t len, cyx_history_cb callback, void *context)


cdef extern from "writer.h" nogil:
    ctypedef struct cyx_writer:
        pass
    ctypedef struct cyx_put_record:
        const char *name
        size_t name_len
        const char *server
        size_t server_len
        const char *partition
        size_t partition_len
        const char *acl
        size_t acl_len
        const char *by
        size_t by_len
        int64_t changed_at
        uint64_t seq
        uint32_t flags
        uint32_t state
    ctypedef struct cyx_counts:
        uint64_t active, reserved, tombstones
    ctypedef struct cyx_stat:
        cyx_counts counts
        uint64_t seq, bytes_used, map_size, oldest_change
    ctypedef int (*cyx_server_cb)(void *context, const char *server, uint64_t count) noexcept with gil
    int cyx_writer_open(const char *state_dir, const char *run_dir, const char *reader_group, size_t map_size,
                        cyx_writer **writer_r)
    void cyx_writer_close(cyx_writer **writer)
    int cyx_writer_begin(cyx_writer *writer)
    int cyx_writer_commit(cyx_writer *writer)
    void cyx_writer_abort(cyx_writer *writer)
    int cyx_writer_get(cyx_writer *writer, const char *name, size_t len, cyx_chunk *chunk)
    int cyx_writer_put(cyx_writer *writer, const cyx_put_record *record, uint64_t *seq_r, int64_t *at_r)
    int cyx_writer_put_many(cyx_writer *writer, const cyx_put_record *records, size_t count)
    int cyx_writer_purge(cyx_writer *writer, int64_t before, uint64_t limit, uint64_t *purged_r)
    int cyx_writer_set_text(cyx_writer *writer, const char *key, const char *text, size_t len)
    int cyx_writer_set_number(cyx_writer *writer, const char *key, uint64_t number)
    int cyx_writer_build_hot(cyx_writer *writer)
    void cyx_writer_cancel_hot(cyx_writer *writer)
    bint cyx_writer_hot_wanted(const cyx_writer *writer)
    ctypedef struct cyx_hot_stat:
        uint64_t generation
        uint64_t bytes
        uint64_t slots
        uint64_t placed
        uint64_t alike
        uint64_t homeless
        uint64_t routes
        uint64_t applied_seq
        uint64_t age_ns
    int cyx_reader_hot_stat(cyx_reader *reader, cyx_hot_stat *stat_r)
    uint64_t cyx_writer_seq(const cyx_writer *writer)
    int cyx_writer_check_readers(cyx_writer *writer, int *dead_r)
    void cyx_writer_beat(cyx_writer *writer, bint fresh)
    int cyx_reader_stat(cyx_reader *reader, cyx_stat *stat_r)
    int cyx_reader_servers(cyx_reader *reader, cyx_server_cb callback, void *context)
    int cyx_reader_copy(cyx_reader *reader, int fd)
    int cyx_reader_text(cyx_reader *reader, const char *key, char **text_r)


cdef extern from *:
    """
    /* How many use a handle.  The one who takes it to 0 frees it; from 0 nobody can take it up again. */
    static inline int cyx_take_up(long *users)
    {
        long n = __atomic_load_n(users, __ATOMIC_RELAXED);
        while (n > 0)
            if (__atomic_compare_exchange_n(users, &n, n + 1, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
                return 1;
        return 0;
    }
    static inline int cyx_put_down(long *users) { return __atomic_sub_fetch(users, 1, __ATOMIC_ACQ_REL) == 0; }
    """
    bint cyx_take_up(long *users) nogil
    bint cyx_put_down(long *users) nogil
