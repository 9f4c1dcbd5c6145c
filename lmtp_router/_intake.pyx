# cython: language_level=3, boundscheck=False, wraparound=False
"""Where a long message is read into.

Rule: one place for all connections of a loop, for each takes at once what it has read.  It is aligned: read straight
into the object that goes on, which stands wherever its header ends, the kernel's copies cost more than this one saves.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize

cdef extern from *:
    """
    enum { CYXR_ROOM = 256 << 10 };
    static char cyxr_room[CYXR_ROOM] __attribute__((aligned(4096)));
    """
    enum:
        CYXR_ROOM
    char cyxr_room[]


cdef class Intake:
    """What is read into next."""

    cdef Py_ssize_t _size

    def __init__(self):
        self._size = CYXR_ROOM

    def room(self, Py_ssize_t size):
        """Have room for `size` octets to be read; return this, which is a buffer."""
        if size < 1 or size > CYXR_ROOM:
            raise ValueError(f"there is room for 1 to {CYXR_ROOM} octets")
        self._size = size
        return self

    def take(self, Py_ssize_t size):
        """Return the first `size` octets, which have been read."""
        if size < 0 or size > self._size:
            raise ValueError("there is no room that so much was read into")
        return PyBytes_FromStringAndSize(cyxr_room, size)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, cyxr_room, self._size, 0, flags)

    def __releasebuffer__(self, Py_buffer *view):
        pass
