"""What other compiled modules may ask of _cyx's Reader.

Rule: the library is linked into _cyx and nowhere else (one registry of environments in a process); others reach it
through the methods of Reader.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from cyrusext.index._library cimport cyx_entry, cyx_listing, cyx_location, cyx_name, cyx_reader


cdef class Reader:
    cdef cyx_reader *handle
    cdef long users
    cdef bint closed
    cdef dict known, errors

    # The handle for one call that keeps the GIL; for others it is `held`, or `hold` says CYX_OK; then `drop` is due.
    cdef cyx_reader *opened(self) except NULL
    cdef cyx_reader *held(self) except NULL
    cdef int hold(self) noexcept nogil
    cdef void drop(self) noexcept nogil
    # A short read transaction: what `entry` gives is valid until `end`.  No Python, no I/O between the two; codes as in
    # cyrusext.h, and where `begin` gives an error there is nothing to end.
    cdef int begin(self) noexcept nogil
    cdef void end(self) noexcept nogil
    # Find one mailbox.  CYX_ABSENT; a tombstone is found.
    cdef int entry(self, const char *name, size_t size, cyx_entry *entry_r) noexcept nogil
    # cyx_lookup, cyx_inspect and cyx_lookup_many; CYX_OK or CYX_ABSENT.
    cdef int locate(self, const char *name, size_t size, cyx_location *at_r) except -1
    cdef int inspect(self, const char *name, size_t size, cyx_location *at_r) except -1
    cdef int locate_many(self, const cyx_name *names, size_t count, cyx_location *at_r) except -1
    # A walk over the live records (of `server`, unless that is NULL): entries are valid from `resume` to `pause`, with
    # the same restrictions; in between it may hold a snapshot.  To be closed before the Reader goes.
    cdef cyx_listing *listing(self, const char *server) except NULL
    cdef int resume(self, cyx_listing *listing) noexcept nogil
    cdef int next(self, cyx_listing *listing, cyx_entry *entry_r) noexcept nogil
    cdef void pause(self, cyx_listing *listing) noexcept nogil
    cdef void let_go(self, cyx_listing *listing) noexcept nogil
    cdef void unlist(self, cyx_listing **listing) noexcept nogil
    cdef int check(self, int code) except -1    # raises for an error
