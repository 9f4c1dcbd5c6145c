"""The one pass over a body (_scan.pyx)."""


cdef class BodyScanner:
    cdef int _state
    cdef int _bad
    cdef int _nul
    cdef bint _replace
    cdef Py_ssize_t _held

    cdef void begin(self) noexcept
    cdef bytes take(self, bytes data, Py_ssize_t at, Py_ssize_t *end)
    cdef bytes rewrite(self, bytes data, Py_ssize_t at, Py_ssize_t *end)
