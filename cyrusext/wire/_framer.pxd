"""What other compiled modules may ask of a Framer."""

cdef enum:
    IN_LINE = -1
    SHORT = 1024        # bytes of a message that no limit refuses, where `peek` gives anything out


cdef class Framer:
    cdef object _limits
    cdef Py_ssize_t _max_line, _max_literal, _max_message, _max_literals, _max_drain
    cdef bint _bare_lf
    cdef bytearray _buffer
    cdef Py_ssize_t _start          # first byte of _buffer that no part has taken yet
    cdef Py_ssize_t _scanned        # bytes after _start known to hold no LF
    cdef list _parts                # of the message being read
    cdef Py_ssize_t _size           # bytes in _parts, or read past
    cdef Py_ssize_t _literals
    cdef Py_ssize_t _literal        # bytes of the literal being read that are missing, or IN_LINE
    cdef Py_ssize_t _drained
    cdef object _problem            # why the message being read is refused, or None
    cdef bytes _head
    cdef bint _dead

    # What was fed and not given out, from the beginning of a message on; NULL in the middle of one.  Valid until the
    # next call of anything but `skip`.  Whoever takes a message from here answers for what next_message would say to
    # it: only whole ones of at most SHORT bytes.
    cdef const char *peek(self, Py_ssize_t *size_r) noexcept
    # `size` bytes of that were taken: whole messages.
    cdef void skip(self, Py_ssize_t size) noexcept

    cdef int _reset(self) except -1
    cdef object _give_up(self, object problem)
    cdef Py_ssize_t _find_line(self) except -2
    cdef object _announced(self, bint sync)
    cdef int _poison(self, object problem) except -1
    cdef int _keep_head(self, Py_ssize_t size) except -1
    cdef Py_ssize_t _trim(self, const char *line, Py_ssize_t length) except -1
