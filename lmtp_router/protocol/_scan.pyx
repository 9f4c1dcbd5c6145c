# cython: language_level=3, boundscheck=False, wraparound=False
"""The one pass over a body: finds CRLF.CRLF, and on the way bare CR, bare LF and NUL.

Rule: only CRLF.CRLF ends a message (RFC 5321 section 4.1.1.4), wherever the chunks are cut.  Blocks of 64 octets in
which nothing happens cost a few vector instructions (the compiler makes them from the loop in `cyxr_block`); only the
others are looked at octet by octet.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

cdef extern from *:
    """
    #define CYXR_BLOCK 64
    enum { CYXR_TEXT, CYXR_CR, CYXR_LINE, CYXR_DOT, CYXR_DOTCR, CYXR_MADE, CYXR_END };

    /* Bit 0: a bare CR or LF, bit 1: a dot behind LF, bit 2: a NUL.  Reads p[-1] .. p[CYXR_BLOCK - 1]. */
    __attribute__((optimize("tree-vectorize", "vect-cost-model=dynamic")))
    static unsigned cyxr_block(const unsigned char *p)
    {
        unsigned char bad = 0, dot = 0, nul = 0;
        for (int k = 0; k < CYXR_BLOCK; k++) {
            unsigned char before = p[k - 1], here = p[k];
            bad |= (unsigned char)((before == 13) ^ (here == 10));
            dot |= (unsigned char)((before == 10) & (here == 46));
            nul |= (unsigned char)(here == 0);
        }
        return bad | (unsigned)(dot << 1) | (unsigned)(nul << 2);
    }

    /* Scans p[at..n).  Returns the offset behind the end-of-data sequence, or -1.  *state_io carries over chunks;
       *bad_r becomes 1 at the first bare CR or LF, *nul_r at the first NUL. */
    static Py_ssize_t cyxr_scan(const unsigned char *p, Py_ssize_t at, Py_ssize_t n, int *state_io, int *bad_r,
                                int *nul_r)
    {
        int state = *state_io;
        Py_ssize_t i = at;
        while (i < n) {
            if (i > at && state <= CYXR_LINE) {
                while (n - i >= CYXR_BLOCK) {
                    unsigned found = cyxr_block(p + i);
                    if (found & 4u)
                        *nul_r = 1;
                    if (found & 3u)
                        break;
                    i += CYXR_BLOCK;
                    state = p[i - 1] == 13 ? CYXR_CR : p[i - 1] == 10 ? CYXR_LINE : CYXR_TEXT;
                }
            }
            Py_ssize_t stop = n - i < CYXR_BLOCK ? n : i + CYXR_BLOCK;
            for (; i < stop; i++) {
                unsigned char c = p[i];
                if (c == 10) {
                    if (state == CYXR_DOTCR) {
                        *state_io = CYXR_END;
                        return i + 1;
                    }
                    if (state != CYXR_CR)
                        *bad_r = 1;
                    state = state == CYXR_CR ? CYXR_LINE : CYXR_TEXT;
                    continue;
                }
                if (state == CYXR_CR || state == CYXR_DOTCR)
                    *bad_r = 1;
                if (c == 13)
                    state = state == CYXR_DOT ? CYXR_DOTCR : CYXR_CR;
                else {
                    if (c == 0)
                        *nul_r = 1;
                    state = c == 46 && state == CYXR_LINE ? CYXR_DOT : CYXR_TEXT;
                }
            }
        }
        *state_io = state;
        return -1;
    }

    /* As cyxr_scan, and writes to `out` (room for 3 * n + 4 octets) the message with every bare CR or LF replaced by
       CRLF and its dots stuffed for the lines that then exist.  Octets whose meaning the next chunk decides (CR, and
       the dots of a possible end) are kept in the state.  *out_r: octets written. */
    static Py_ssize_t cyxr_rewrite(const unsigned char *p, Py_ssize_t at, Py_ssize_t n, int *state_io, int *bad_r,
                                   int *nul_r, unsigned char *out, Py_ssize_t *out_r)
    {
        int state = *state_io;
        Py_ssize_t o = 0;
        for (Py_ssize_t i = at; i < n; i++) {
            unsigned char c = p[i];
            if (c == 0)
                *nul_r = 1;
            if (c == 10) {
                if (state == CYXR_DOTCR) {
                    *state_io = CYXR_END;
                    *out_r = o;
                    return i + 1;
                }
                if (state != CYXR_CR)
                    *bad_r = 1;
                /* A dot alone before a bare LF is a stuffed empty line: the dot goes. */
                out[o++] = 13;
                out[o++] = 10;
                state = state == CYXR_CR ? CYXR_LINE : CYXR_MADE;
                continue;
            }
            if (state == CYXR_CR || state == CYXR_DOTCR) {
                *bad_r = 1;
                out[o++] = 13;
                out[o++] = 10;
                state = CYXR_MADE;
            }
            if (c == 13) {
                state = state == CYXR_DOT ? CYXR_DOTCR : CYXR_CR;
                continue;
            }
            if (state == CYXR_LINE && c == 46) {
                state = CYXR_DOT;
                continue;
            }
            /* After a line end of ours a dot was never stuffed by the client; after the client's own it was. */
            if (state == CYXR_DOT || (state == CYXR_MADE && c == 46))
                out[o++] = 46;
            out[o++] = c;
            state = CYXR_TEXT;
        }
        *state_io = state;
        *out_r = o;
        return -1;
    }
    """
    enum:
        CYXR_LINE
        CYXR_DOT
        CYXR_DOTCR
    Py_ssize_t cyxr_scan(const unsigned char *p, Py_ssize_t at, Py_ssize_t n, int *state_io, int *bad_r,
                         int *nul_r) noexcept nogil
    Py_ssize_t cyxr_rewrite(const unsigned char *p, Py_ssize_t at, Py_ssize_t n, int *state_io, int *bad_r,
                            int *nul_r, unsigned char *out, Py_ssize_t *out_r) noexcept nogil


cdef class BodyScanner:
    """Scans one message.  ``bare_newline`` and ``nul`` say what was seen so far."""

    cdef int _state
    cdef int _bad
    cdef int _nul
    cdef bint _replace
    cdef Py_ssize_t _held

    def __init__(self, bint replace=False):
        self._state = CYXR_LINE
        self._bad = 0
        self._nul = 0
        self._replace = replace
        self._held = 0

    @property
    def bare_newline(self):
        return self._bad != 0

    @property
    def nul(self):
        return self._nul != 0

    def feed(self, bytes data not None, Py_ssize_t at=0):
        """Scan `data` from offset `at`; return ``(end, octets)``.

        ``end`` is the offset behind CRLF.CRLF or -1.  ``octets`` may be passed on: all of the message so far that is
        surely not a part of the end-of-data sequence (its first CRLF belongs to the message).
        """
        cdef Py_ssize_t size = len(data)
        cdef const unsigned char *raw = <const unsigned char *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t end, stop, held = self._held
        if at < 0 or at > size:
            raise ValueError("offset outside the data")
        if self._replace:
            return self._rewrite(raw, at, size)
        end = cyxr_scan(raw, at, size, &self._state, &self._bad, &self._nul)
        if end >= 0:
            self._held = 0
            if held and end - at == 3 - held:
                return end, b""
            stop = end - 3
        else:
            self._held = 1 if self._state == CYXR_DOT else 2 if self._state == CYXR_DOTCR else 0
            if held and self._held == held + size - at:
                return -1, b""
            stop = size - self._held
        if held:
            # What was held back was text after all.
            return end, (b"." if held == 1 else b".\r") + data[at:stop]
        return end, data if at == 0 and stop == size else data[at:stop]

    cdef _rewrite(self, const unsigned char *raw, Py_ssize_t at, Py_ssize_t size):
        cdef Py_ssize_t end, written = 0
        cdef bytes out = PyBytes_FromStringAndSize(NULL, 3 * (size - at) + 4)
        end = cyxr_rewrite(raw, at, size, &self._state, &self._bad, &self._nul,
                           <unsigned char *>PyBytes_AS_STRING(out), &written)
        return end, out[:written]
