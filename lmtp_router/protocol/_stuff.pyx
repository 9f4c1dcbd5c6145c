# cython: language_level=3, boundscheck=False, wraparound=False
"""A message that came as counted octets (BDAT), made into what follows DATA: its dots stuffed, its end a whole line.

Rule: what comes out never holds CRLF.CRLF, and no CR or LF but in CRLF, wherever the chunks are cut (RFC 5321 section
4.5.2).  A bare CR or LF is replaced by CRLF and reported; whether that is allowed is the caller's to judge.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

cdef extern from *:
    """
    #include <string.h>

    enum { CYXR_STUFF_TEXT, CYXR_STUFF_CR, CYXR_STUFF_LINE };
    /* Longest piece that is looked at at once: a message of bare LFs is not to be read again for each of them. */
    #define CYXR_STUFF_PIECE 512

    /* Bit 0: an LF, bit 1: a NUL in p[0..n). */
    __attribute__((optimize("tree-vectorize", "vect-cost-model=dynamic")))
    static unsigned cyxr_stuff_piece(const unsigned char *p, Py_ssize_t n)
    {
        unsigned char lf = 0, nul = 0;
        for (Py_ssize_t k = 0; k < n; k++) {
            lf |= (unsigned char)(p[k] == 10);
            nul |= (unsigned char)(p[k] == 0);
        }
        return lf | (unsigned)(nul << 1);
    }

    /* Writes p[0..n), stuffed, to `out` (room for 2 * n + 2 octets) and returns the octets written.  A CR at the end
       waits in *state_io for what comes next.  *bad_r becomes 1 at the first bare CR or LF, *nul_r at the first NUL. */
    static Py_ssize_t cyxr_stuff(const unsigned char *p, Py_ssize_t n, int *state_io, int *bad_r, int *nul_r,
                                 unsigned char *out)
    {
        int state = *state_io;
        Py_ssize_t o = 0, i = 0;
        while (i < n) {
            unsigned char c = p[i];
            if (c == 10) {
                if (state != CYXR_STUFF_CR)
                    *bad_r = 1;
                out[o++] = 13;
                out[o++] = 10;
                state = CYXR_STUFF_LINE;
                i++;
                continue;
            }
            if (state == CYXR_STUFF_CR) {
                *bad_r = 1;
                out[o++] = 13;
                out[o++] = 10;
                state = CYXR_STUFF_LINE;
            }
            if (c == 13) {
                state = CYXR_STUFF_CR;
                i++;
                continue;
            }
            Py_ssize_t size = n - i < CYXR_STUFF_PIECE ? n - i : CYXR_STUFF_PIECE;
            const unsigned char *stop = (const unsigned char *)memchr(p + i, 13, (size_t)size);
            if (stop != NULL)
                size = stop - (p + i);
            unsigned found = cyxr_stuff_piece(p + i, size);
            if (found & 2u)
                *nul_r = 1;
            if (found & 1u)
                size = (const unsigned char *)memchr(p + i, 10, (size_t)size) - (p + i);
            if (c == 46 && state == CYXR_STUFF_LINE)
                out[o++] = 46;
            memcpy(out + o, p + i, (size_t)size);
            o += size;
            i += size;
            state = CYXR_STUFF_TEXT;
        }
        *state_io = state;
        return o;
    }
    """
    enum:
        CYXR_STUFF_CR
        CYXR_STUFF_LINE
    Py_ssize_t cyxr_stuff(const unsigned char *p, Py_ssize_t n, int *state_io, int *bad_r, int *nul_r,
                          unsigned char *out) noexcept nogil


cdef class BodyStuffer:
    """Stuffs one message.  ``bare_newline`` and ``nul`` say what was seen so far."""

    cdef int _state
    cdef int _bad
    cdef int _nul

    def __init__(self):
        self._state = CYXR_STUFF_LINE
        self._bad = 0
        self._nul = 0

    @property
    def bare_newline(self):
        return self._bad != 0

    @property
    def nul(self):
        return self._nul != 0

    def feed(self, bytes data not None, Py_ssize_t at, Py_ssize_t stop):
        """Return what ``data[at:stop]`` becomes; a CR at its end waits for the octet behind it."""
        cdef Py_ssize_t written
        cdef bytes out
        if at < 0 or stop < at or stop > len(data):
            raise ValueError("offsets outside the data")
        # No octet makes more than two, counting for a CR the line end that it makes with what follows.
        out = PyBytes_FromStringAndSize(NULL, 2 * (stop - at) + 4)
        written = cyxr_stuff(<const unsigned char *>PyBytes_AS_STRING(data) + at, stop - at, &self._state, &self._bad,
                             &self._nul, <unsigned char *>PyBytes_AS_STRING(out))
        return out[:written]

    def finish(self):
        """Return what is still to be written before the end of data: a last line without an end gets one."""
        cdef int state = self._state
        self._state = CYXR_STUFF_LINE
        if state == CYXR_STUFF_LINE:
            return b""
        if state == CYXR_STUFF_CR:
            self._bad = 1
        return b"\r\n"
