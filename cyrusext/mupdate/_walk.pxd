"""What the walk in plain byte order (_sorted.pyx) takes over from the walk."""

from cyrusext.index._cyx cimport Reader
from cyrusext.index._library cimport cyx_entry, cyx_listing
from cyrusext.mupdate._lines cimport Lines


cdef enum:
    MORE = 77           # no code of the library: this turn's share of records was looked at

cdef bint is_odd(const char *name, size_t size) noexcept nogil


cdef class Walk:
    cdef Reader _reader
    cdef cyx_listing *_listing
    cdef bytes _tag, _prefix
    cdef const char *_tag_data
    cdef const char *_prefix_data
    cdef size_t _tag_size, _prefix_size
    cdef tuple _servers             # as bytes; none: all
    cdef bint _picks
    cdef readonly bint done
    cdef readonly bint literal_dots
    cdef bint _brief
    cdef size_t _share, _seen       # records of one turn
    cdef size_t _kept               # names of one turn
    cdef Lines _out
    cdef Lines _domain, _domains    # the last one met; those of the last piece
    cdef bint _entangled
    cdef const char *_server        # where the last record was, and whether that was of interest
    cdef const char *_partition
    cdef bint _wanted

    cdef int rewind(self) except -1
    cdef int begin(self) noexcept nogil
    cdef int end(self, int code) except -1
    cdef int next(self, cyx_entry *entry) noexcept nogil
    cdef int stop(self, int code) noexcept nogil
    cdef int fill(self, size_t limit) noexcept nogil
    cdef bint of_interest(self, const cyx_entry *entry) noexcept nogil
    cdef bint begins_so(self, const char *server, const char *partition) noexcept nogil
    cdef int learn_domain(self, const char *name, size_t size) noexcept nogil
    cdef int keep_odd(self, const cyx_entry *entry, entangled) noexcept nogil
    cdef int keep_beside_dots(self, const cyx_entry *entry) noexcept nogil
