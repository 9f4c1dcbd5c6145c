# cython: language_level=3, boundscheck=False, wraparound=False
"""The framer's hot part: scanning for line ends and literals.  Rules and policies: cyrusext/wire/framer.py."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pyport cimport PY_SSIZE_T_MAX
from libc.string cimport memchr

from cyrusext.wire.types import HEAD, Limits, Poisoned, Problem, Signal

cdef object GO_AHEAD = Signal.GO_AHEAD
cdef object LINE_TOO_LONG = Problem.LINE_TOO_LONG
cdef object LITERAL_TOO_LONG = Problem.LITERAL_TOO_LONG
cdef object MESSAGE_TOO_LONG = Problem.MESSAGE_TOO_LONG
cdef object TOO_MANY_LITERALS = Problem.TOO_MANY_LITERALS
cdef object BARE_CR = Problem.BARE_CR
cdef object BARE_LF = Problem.BARE_LF
cdef object NUL = Problem.NUL
cdef Py_ssize_t HEAD_SIZE = HEAD


cdef Py_ssize_t literal_size(const char *line, Py_ssize_t size, Py_ssize_t *brace_r, bint *sync_r) noexcept nogil:
    """Return the size that the end of `line` announces (``{n}`` or ``{n+}``) or -1; `brace_r` is where it begins.

    A size that no machine integer holds comes out as half the greatest one: over every limit, and safe to add to.
    """
    cdef Py_ssize_t at = size - 1
    cdef Py_ssize_t last
    cdef Py_ssize_t value = 0
    if at < 2 or line[at] != c"}":
        return -1
    at -= 1
    sync_r[0] = line[at] != c"+"
    if not sync_r[0]:
        at -= 1
    last = at
    while at >= 0 and c"0" <= line[at] <= c"9":
        at -= 1
    if at < 0 or at == last or line[at] != c"{":
        return -1
    brace_r[0] = at
    at += 1
    while at <= last:
        if value > PY_SSIZE_T_MAX // 20:
            return PY_SSIZE_T_MAX // 2
        value = value * 10 + (line[at] - c"0")
        at += 1
    return value


cdef class Framer:
    """Finds messages in a byte stream.  `limits` may be changed between messages."""

    def __init__(self, limits=Limits(), *, bint bare_lf=True):
        self.limits = limits
        self._bare_lf = bare_lf
        self._buffer = bytearray()
        self._start = 0
        self._dead = False
        self._reset()

    @property
    def limits(self):
        return self._limits

    @limits.setter
    def limits(self, limits):
        self._limits = limits
        self._max_line, self._max_literal, self._max_message, self._max_literals, self._max_drain = limits

    @property
    def buffered(self):
        """Bytes fed and not yet given out."""
        return PyByteArray_GET_SIZE(self._buffer) - self._start

    @property
    def dead(self):
        """True after a fatal problem: nothing is read any more."""
        return self._dead

    cdef const char *peek(self, Py_ssize_t *size_r) noexcept:
        if self._dead or self._literals or self._literal != IN_LINE:
            return NULL
        if self._max_line < SHORT or self._max_literal < SHORT or self._max_message < SHORT or self._max_literals < 1:
            return NULL
        size_r[0] = PyByteArray_GET_SIZE(self._buffer) - self._start
        return PyByteArray_AS_STRING(self._buffer) + self._start

    cdef void skip(self, Py_ssize_t size) noexcept:
        self._start += size
        self._scanned = 0

    cdef int _reset(self) except -1:
        self._scanned = 0
        self._parts = []
        self._size = 0
        self._literals = 0
        self._literal = IN_LINE
        self._drained = 0
        self._problem = None
        self._head = b""
        return 0

    def feed(self, bytes data not None):
        """Take bytes from the peer.  What the framer holds is given out by next_message, so call that until None."""
        if self._dead:
            return
        if self._start:
            # Cheap: CPython moves a bytearray's beginning without copying the rest.
            del self._buffer[:self._start]
            self._start = 0
        self._buffer += data

    def clear(self):
        """Forget everything fed, a half message too, and return how many bytes that was (STARTTLS)."""
        cdef Py_ssize_t dropped = PyByteArray_GET_SIZE(self._buffer) - self._start
        self._buffer = bytearray()
        self._start = 0
        self._reset()
        return dropped

    cdef object _give_up(self, object problem):
        cdef object poisoned = Poisoned(self._head, problem, True)
        self._dead = True
        self.clear()
        return poisoned

    cdef Py_ssize_t _find_line(self) except -2:
        """Return the length of the next line without its LF, -1 if it is not there yet."""
        cdef Py_ssize_t have = PyByteArray_GET_SIZE(self._buffer) - self._start
        cdef const char *base = PyByteArray_AS_STRING(self._buffer) + self._start
        cdef const char *found = NULL
        if have > self._scanned:
            found = <const char *>memchr(base + self._scanned, c"\n", have - self._scanned)
        if found is NULL:
            self._scanned = have
            return -1
        self._scanned = 0
        return found - base

    def next_message(self):
        """Return the next message, a `Poisoned`, `Signal.GO_AHEAD`, or None when more bytes are needed."""
        cdef Py_ssize_t have, length, size, brace = 0
        cdef bint sync = False
        cdef const char *line
        cdef object outcome
        while not self._dead:
            if self._literal != IN_LINE:
                have = PyByteArray_GET_SIZE(self._buffer) - self._start
                if self._problem is not None:
                    size = min(have, self._literal)
                    self._start += size
                    self._literal -= size
                    if self._literal:
                        return None
                elif have < self._literal:
                    return None
                else:
                    line = PyByteArray_AS_STRING(self._buffer) + self._start
                    self._parts.append(PyBytes_FromStringAndSize(line, self._literal))
                    self._start += self._literal
                self._literal = IN_LINE
                self._scanned = 0
            length = self._find_line()
            if length < 0:
                # One byte more may be the CR of a line that just fits.
                if self._scanned > self._max_line + 1:
                    self._keep_head(self._max_line)
                    return self._give_up(LINE_TOO_LONG)
                return None
            line = PyByteArray_AS_STRING(self._buffer) + self._start
            size = self._trim(line, length)
            if size > self._max_line:
                self._keep_head(self._max_line)
                return self._give_up(LINE_TOO_LONG)
            self._keep_head(size)
            self._start += length + 1
            self._literal = literal_size(line, size, &brace, &sync)
            if self._literal != IN_LINE:
                size = brace
            self._size += size
            if self._size > self._max_message:
                self._poison(MESSAGE_TOO_LONG)
            if self._problem is None:
                self._parts.append(PyBytes_FromStringAndSize(line, size))
            else:
                self._drained += size
                if self._drained > self._max_drain:
                    return self._give_up(self._problem)
            if self._literal == IN_LINE:
                if self._problem is None:
                    outcome = tuple(self._parts)
                else:
                    outcome = Poisoned(self._head, self._problem, False)
                self._reset()
                return outcome
            outcome = self._announced(sync)
            if outcome is not None:
                return outcome
        return None

    cdef object _announced(self, bint sync):
        """A literal of self._literal bytes was announced: check it; return what to tell the caller, or None."""
        cdef object outcome
        self._literals += 1
        if self._literals > self._max_literals:
            self._poison(TOO_MANY_LITERALS)
        if self._literal > self._max_literal:
            self._poison(LITERAL_TOO_LONG)
        elif self._size + self._literal > self._max_message:
            self._poison(MESSAGE_TOO_LONG)
        if self._problem is None:
            self._size += self._literal
            return GO_AHEAD if sync else None
        if sync:
            # Its sender waits and will send something else after the refusal: the message ends here.
            outcome = Poisoned(self._head, self._problem, False)
            self._reset()
            return outcome
        if self._literal > self._max_drain - self._drained:
            return self._give_up(self._problem)
        self._drained += self._literal
        return None

    cdef int _poison(self, object problem) except -1:
        if self._problem is None:
            self._problem = problem
            self._parts = []
        return 0

    cdef int _keep_head(self, Py_ssize_t size) except -1:
        """Remember the beginning of a message's first line, for the answer to a message that is refused."""
        if self._literals == 0:
            self._head = PyBytes_FromStringAndSize(
                PyByteArray_AS_STRING(self._buffer) + self._start, min(size, HEAD_SIZE)
            )
        return 0

    cdef Py_ssize_t _trim(self, const char *line, Py_ssize_t length) except -1:
        """Return the length of the line without its CR; poison the message over bytes that a line may not have."""
        cdef Py_ssize_t size = length
        if size and line[size - 1] == c"\r":
            size -= 1
        elif not self._bare_lf:
            self._poison(BARE_LF)
        if size and memchr(line, c"\0", size) is not NULL:
            self._poison(NUL)
        if size and memchr(line, c"\r", size) is not NULL:
            self._poison(BARE_CR)
        return size

    def next_line(self):
        """Return the next line as it stands, for a SASL exchange: ``{n}`` has no meaning; None when it is not there."""
        cdef Py_ssize_t length, size
        cdef const char *line
        cdef object outcome
        if self._dead:
            return None
        length = self._find_line()
        if length < 0:
            if self._scanned > self._max_line + 1:
                return self._give_up(LINE_TOO_LONG)
            return None
        line = PyByteArray_AS_STRING(self._buffer) + self._start
        size = self._trim(line, length)
        if size > self._max_line:
            return self._give_up(LINE_TOO_LONG)
        if self._problem is None:
            outcome = PyBytes_FromStringAndSize(line, size)
        else:
            outcome = Poisoned(b"", self._problem, False)
        self._start += length + 1
        self._reset()
        return outcome
