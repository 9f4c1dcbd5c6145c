"""What _cyx.pyx uses of _records.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from cyrusext.index._library cimport cyx_chunk, cyx_chunk_item, cyx_history_item, cyx_put_record


cdef object flags_of(uint32_t number)
cdef str interned(const char *text, dict known)
cdef object record_of(const cyx_chunk *chunk, const cyx_chunk_item *item, dict known)
cdef list records_of(const cyx_chunk *chunk, dict known)
cdef int collect(void *context, const char *server, uint64_t count) noexcept with gil
cdef int remember(void *context, const cyx_history_item *item) noexcept with gil
cdef int fill(cyx_put_record *raw, record) except -1
