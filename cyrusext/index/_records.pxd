"""What _cyx.pyx uses of _records.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from "writer.h" nogil:
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


cdef int fill(cyx_put_record *raw, record) except -1
