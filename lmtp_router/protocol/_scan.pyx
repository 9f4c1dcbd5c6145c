# cython: language_level=3, boundscheck=False, wraparound=False
"""The one pass over a body: finds CRLF.CRLF, and on the way bare CR, bare LF and NUL.

Rule: only CRLF.CRLF ends a message (RFC 5321 section 4.1.1.4), wherever the chunks are cut.  Blocks of 64 octets in
which nothing happens cost a few vector instructions (AVX2 where the processor has it, which is found when the module is
loaded; else what the compiler makes of a plain loop); only the others are looked at octet by octet.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

cdef extern from *:
    """
    #define CYXR_BLOCK 64
    enum { CYXR_TEXT, CYXR_CR, CYXR_LINE, CYXR_DOT, CYXR_DOTCR, CYXR_MADE, CYXR_END };

    /* Both return the offset of the first block from i on in which a CR or LF is bare or a dot stands behind LF, or
       of what is no whole block; *nul_r becomes 1 at the first NUL.  They read from p[i - 1] on. */
    #ifndef __clang__
    __attribute__((optimize("tree-vectorize", "vect-cost-model=dynamic")))
    #endif
    static Py_ssize_t cyxr_clean_plain(const unsigned char *p, Py_ssize_t i, Py_ssize_t n, int *nul_r)
    {
        for (; n - i >= CYXR_BLOCK; i += CYXR_BLOCK) {
            unsigned char bad = 0, nul = 0;
            for (int k = 0; k < CYXR_BLOCK; k++) {
                unsigned char before = p[i + k - 1], here = p[i + k];
                bad |= (unsigned char)((before == 13) ^ (here == 10));
                bad |= (unsigned char)((before == 10) & (here == 46));
                nul |= (unsigned char)(here == 0);
            }
            if (bad)
                break; /* a NUL in it may stand behind the end */
            if (nul)
                *nul_r = 1;
        }
        return i;
    }

    #if defined(__x86_64__)
    #include <immintrin.h>
    __attribute__((target("avx2")))
    static inline __m256i cyxr_bad(__m256i before, __m256i here)
    {
        const __m256i lf = _mm256_set1_epi8(10);
        __m256i bare = _mm256_xor_si256(_mm256_cmpeq_epi8(before, _mm256_set1_epi8(13)), _mm256_cmpeq_epi8(here, lf));
        __m256i dot = _mm256_cmpeq_epi8(here, _mm256_set1_epi8(46));
        return _mm256_or_si256(bare, _mm256_and_si256(_mm256_cmpeq_epi8(before, lf), dot));
    }

    __attribute__((target("avx2")))
    static Py_ssize_t cyxr_clean_avx2(const unsigned char *p, Py_ssize_t i, Py_ssize_t n, int *nul_r)
    {
        __m256i least = _mm256_set1_epi8((char)255);
        for (; n - i >= CYXR_BLOCK; i += CYXR_BLOCK) {
            __m256i first = _mm256_loadu_si256((const __m256i *)(p + i));
            __m256i second = _mm256_loadu_si256((const __m256i *)(p + i + 32));
            __m256i bad = _mm256_or_si256(cyxr_bad(_mm256_loadu_si256((const __m256i *)(p + i - 1)), first),
                                          cyxr_bad(_mm256_loadu_si256((const __m256i *)(p + i + 31)), second));
            if (!_mm256_testz_si256(bad, bad))
                break; /* a NUL in it may stand behind the end */
            least = _mm256_min_epu8(least, _mm256_min_epu8(first, second));
        }
        if (_mm256_movemask_epi8(_mm256_cmpeq_epi8(least, _mm256_setzero_si256())))
            *nul_r = 1;
        return i;
    }
    #endif

    static Py_ssize_t (*cyxr_clean)(const unsigned char *, Py_ssize_t, Py_ssize_t, int *) = cyxr_clean_plain;

    /* Use the widest instructions that this processor has, or none but those that every one has. */
    static int cyxr_choose(int wide)
    {
        cyxr_clean = cyxr_clean_plain;
    #if defined(__x86_64__)
        if (wide && __builtin_cpu_supports("avx2")) {
            cyxr_clean = cyxr_clean_avx2;
            return 1;
        }
    #else
        (void)wide;
    #endif
        return 0;
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
                Py_ssize_t clean = cyxr_clean(p, i, n, nul_r);
                if (clean > i) {
                    i = clean;
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
    bint cyxr_choose(bint wide) noexcept
    Py_ssize_t cyxr_scan(const unsigned char *p, Py_ssize_t at, Py_ssize_t n, int *state_io, int *bad_r,
                         int *nul_r) noexcept nogil
    Py_ssize_t cyxr_rewrite(const unsigned char *p, Py_ssize_t at, Py_ssize_t n, int *state_io, int *bad_r,
                            int *nul_r, unsigned char *out, Py_ssize_t *out_r) noexcept nogil


def choose_instructions(bint wide):
    """Scan with AVX2 where the processor has it (True, as at first), or without; tells whether it is used."""
    return bool(cyxr_choose(wide))


cyxr_choose(True)


cdef class BodyScanner:
    """Scans one message.  ``bare_newline`` and ``nul`` say what was seen so far."""

    def __init__(self, bint replace=False):
        self._replace = replace
        self.begin()

    cdef void begin(self) noexcept:
        """A message begins."""
        self._state = CYXR_LINE
        self._bad = self._nul = 0
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
        cdef Py_ssize_t end = -1
        if at < 0 or at > PyBytes_GET_SIZE(data):
            raise ValueError("offset outside the data")
        octets = self.take(data, at, &end)
        return end, octets

    cdef bytes take(self, bytes data, Py_ssize_t at, Py_ssize_t *end):
        """`feed`, for an offset that is known to be right."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef const unsigned char *raw = <const unsigned char *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t stop, held = self._held
        if self._replace:
            return self.rewrite(data, at, end)
        end[0] = cyxr_scan(raw, at, size, &self._state, &self._bad, &self._nul)
        if end[0] >= 0:
            self._held = 0
            if held and end[0] - at == 3 - held:
                return b""
            stop = end[0] - 3
        else:
            self._held = 1 if self._state == CYXR_DOT else 2 if self._state == CYXR_DOTCR else 0
            if held and self._held == held + size - at:
                return b""
            stop = size - self._held
        if held:
            # What was held back was text after all.
            return (b"." if held == 1 else b".\r") + data[at:stop]
        return data if at == 0 and stop == size else data[at:stop]

    cdef bytes rewrite(self, bytes data, Py_ssize_t at, Py_ssize_t *end):
        cdef Py_ssize_t written = 0, size = PyBytes_GET_SIZE(data)
        cdef bytes out = PyBytes_FromStringAndSize(NULL, 3 * (size - at) + 4)
        end[0] = cyxr_rewrite(<const unsigned char *>PyBytes_AS_STRING(data), at, size, &self._state, &self._bad,
                              &self._nul, <unsigned char *>PyBytes_AS_STRING(out), &written)
        return out[:written]
