# cython: language_level=3, boundscheck=False, wraparound=False
"""The walk in plain byte order, as Cyrus before 3.6 merges lists (strcmp).

Rule: names without a byte below ``.`` or a ``^`` come in the same order either way, so they are streamed in the
store's own; only the others (those of virtual domains too, for their ``!``) are collected and sorted first, and merged
in.  What is in a line is the record as it is when the line is made.
"""

cimport cython
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcmp

from cyrusext.index._library cimport CYX_ABSENT, CYX_DELETED, CYX_ENOMEM, CYX_OK, cyx_entry
from cyrusext.mupdate._lines cimport Lines, keep, make_room, put, put_entry, release, stride
from cyrusext.mupdate._walk cimport MORE, Walk, is_odd

cdef enum:
    LOOKED_UP = 3       # what a look-up costs, in records walked past


cdef int compare(const char *one, size_t one_size, const char *other, size_t other_size) noexcept nogil:
    cdef int order = memcmp(one, other, min(one_size, other_size))
    return order if order else (one_size > other_size) - (one_size < other_size)


cdef int compare_kept(const void *one, const void *other) noexcept nogil:
    cdef const char *left = (<const char **>one)[0]
    cdef const char *right = (<const char **>other)[0]
    return compare(left + sizeof(size_t), (<size_t *>left)[0], right + sizeof(size_t), (<size_t *>right)[0])


@cython.no_gc_clear
cdef class Sorted(Walk):
    """A walk to be collected, sorted, and then taken piece by piece."""

    cdef Lines _odd             # the names collected
    cdef const char **_order    # the same, sorted
    cdef size_t _count, _at
    cdef Lines _held            # the name of the store's own order that comes next
    cdef bint _ended            # there is none

    def __dealloc__(self):
        free(<void *>self._order)
        release(&self._odd)
        release(&self._held)

    def collect(self):
        """Collect for one turn; returns whether there is more to collect."""
        cdef cyx_entry entry
        cdef int code
        with nogil:
            code = self.begin()
            while code == CYX_OK:
                code = self.next(&entry)
                if code != CYX_OK:
                    break
                if is_odd(entry.name, entry.name_len):
                    self._count += 1
                    if keep(&self._odd, entry.name, entry.name_len):
                        code = self.stop(CYX_ENOMEM)
        self.end(code)
        if self.done:
            self.rewind()
            return False
        return True

    def sort(self):
        """Sort what was collected; may be done in another thread."""
        cdef size_t at = 0
        cdef size_t number
        self._order = <const char **>malloc((self._count + 1) * sizeof(char *))
        if self._order is NULL:
            raise MemoryError
        with nogil:
            for number in range(self._count):
                self._order[number] = self._odd.data + at
                at += stride((<size_t *>self._order[number])[0])
            qsort(self._order, self._count, sizeof(char *), compare_kept)

    cdef int fill(self, size_t limit) noexcept nogil:
        cdef const char *odd
        cdef int code
        while self._out.used < limit and self._seen < self._share:
            if not self._ended and not self._held.used:
                code = self.hold()
                if code != CYX_OK:
                    return code
            odd = self._order[self._at] if self._at < self._count else NULL
            if odd is NULL and self._ended:
                return self.stop(CYX_ABSENT)
            if odd is not NULL and (self._ended or compare(odd + sizeof(size_t), (<size_t *>odd)[0],
                                                           self._held.data, self._held.used) < 0):
                self._at += 1
                code = self.report(odd + sizeof(size_t), (<size_t *>odd)[0])
            else:
                code = self.report(self._held.data, self._held.used)
                self._held.used = 0
            if code < 0:
                return self.stop(code)
        return self.stop(MORE)

    cdef int hold(self) noexcept nogil:
        """Take the next name that the store's own order has in its place."""
        cdef cyx_entry entry
        cdef int code
        while True:
            code = self.next(&entry)
            if code == CYX_ABSENT:
                self._ended = True
                return MORE  # the turn has ended with the walk
            if code != CYX_OK:
                return code
            if is_odd(entry.name, entry.name_len):
                continue
            if make_room(&self._held, entry.name_len):
                return self.stop(CYX_ENOMEM)
            put(&self._held, entry.name, entry.name_len)
            return CYX_OK

    cdef int report(self, const char *name, size_t size) noexcept nogil:
        cdef cyx_entry entry
        cdef int code = self._reader.entry(name, size, &entry)
        self._seen += LOOKED_UP
        if code == CYX_ABSENT or (code == CYX_OK and entry.location.state == CYX_DELETED):
            return CYX_OK  # gone since it was collected
        if code == CYX_OK and self.of_interest(&entry):
            return CYX_ENOMEM if put_entry(&self._out, self._tag_data, self._tag_size, &entry) else CYX_OK
        return code
