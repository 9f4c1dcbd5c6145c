# cython: language_level=3, boundscheck=False, wraparound=False
"""Look-ups from Python at the speed of the hot table: a C method that makes nothing new for a hit.

Rule: there is one Location for each place (server, partition, state, flags), made when it is first met and kept as long
as the index; an answer is a reference to it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE, PyList_New
from cpython.tuple cimport PyTuple_GET_ITEM
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from cyrusext.index._cyx cimport Reader
from cyrusext.index._library cimport CYX_ACTIVE, CYX_MAX_NAME, CYX_OK, cyx_location, cyx_name
from cyrusext.index._records cimport flags_of, interned

from cyrusext.errors import InvalidName
from cyrusext.model import Location, State, check_name

cdef enum:
    FEW = 256       # places that there is room for at first
    PIECE = 256     # names that `lookup_many` hands over at once

cdef enum:
    PLAIN = 1
    DELIMITER = 2
    SEVERAL = 16    # names that `servers_at` looks up at once
    ROOM = 512      # for a name; more than CYX_MAX_NAME

cdef tuple STATES = (None, State.RESERVED, State.ACTIVE, State.DELETED)

cdef extern from *:
    """
    /* Point `raw` to the bytes of a name that has them as they are asked for; 0 for any other object. */
    static inline int cyx_points(PyObject *name, cyx_name *raw)
    {
        if (PyBytes_Check(name)) {
            raw->data = PyBytes_AS_STRING(name);
            raw->len = (size_t)PyBytes_GET_SIZE(name);
            return 1;
        }
        if (!PyUnicode_Check(name) || !PyUnicode_IS_COMPACT_ASCII(name))
            return 0;
        raw->data = (const char *)PyUnicode_DATA(name);
        raw->len = (size_t)PyUnicode_GET_LENGTH(name);
        return 1;
    }

    static inline void cyx_answer(PyObject *answer, Py_ssize_t i, PyObject *found)
    {
        Py_INCREF(found);
        PyList_SET_ITEM(answer, i, found);
    }
    """
    bint cyx_points(PyObject *name, cyx_name *raw) noexcept
    void cyx_answer(list answer, Py_ssize_t i, PyObject *found) noexcept


cdef object pointed(object name, cyx_name *raw):
    """Point `raw` to the bytes of `name`, which can be any object; return what has to be kept meanwhile."""
    cdef bytes octets = encoded(name)
    raw.data, raw.len = PyBytes_AS_STRING(octets), <size_t>PyBytes_GET_SIZE(octets)
    return octets


cpdef bytes encoded(name):
    """The bytes of a name or address: str is encoded as UTF-8, and what `surrogateescape` decoded becomes itself again.

    Raises InvalidName for a str that stands for no bytes, TypeError for what is neither.
    """
    if PyBytes_Check(name):
        return name
    if not PyUnicode_Check(name):
        raise TypeError(f"a mailbox name is bytes or str, not {type(name).__name__}")
    try:
        return (<str>name).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidName("name has a surrogate, which stands for no bytes") from None


cdef class Addresses:
    """Finds the mailbox of plain addresses as cyrusext.names.mailbox_of_address does, without making an object."""

    cdef bytes _default
    cdef bytes _postuser
    cdef uint8_t _kind[256]
    cdef bint _virtdomains
    cdef bint _downcase

    def __init__(self, bint virtdomains, bytes default_domain not None, bytes delimiters not None,
                 bytes postuser not None, bint downcase):
        cdef int octet
        self._virtdomains, self._downcase = virtdomains, downcase
        self._default, self._postuser = default_domain.lower(), postuser.lower()
        for octet in range(256):
            plain = 0x20 < octet < 0x7F and octet not in b'<>()[]\\,;:"@!/'
            self._kind[octet] = (PLAIN if plain else 0) | (DELIMITER if octet in delimiters else 0)

    def mailbox(self, bytes address not None):
        """The name of the mailbox for mail to a plain address; None for one that takes more thought."""
        cdef char name[ROOM]
        cdef size_t size = self.mailbox_of(address, name)
        return name[:size] if size else None

    cdef size_t mailbox_of(self, bytes address, char *name) noexcept:
        """Write the name of the mailbox, return its size; 0 for an address that takes more thought."""
        cdef const uint8_t *raw = <const uint8_t *>PyBytes_AS_STRING(address)
        cdef size_t size = <size_t>PyBytes_GET_SIZE(address), at = 0, end = 0, user, i, o = 0
        cdef uint8_t octet
        while at < size and raw[at] != 0x40:
            if not self._kind[raw[at]] & PLAIN:
                return 0
            at += 1
        # The longest name there can be has the domain, its mark, "user." and the user.
        if at == 0 or at + 1 >= size or size + 6 > CYX_MAX_NAME:
            return 0
        for i in range(at + 1, size):
            if not self._kind[raw[i]] & PLAIN:
                return 0
        while end < at and not self._kind[raw[end]] & DELIMITER:
            end += 1
        if end == 0 or is_same(raw, end, self._postuser):
            return 0
        if self._virtdomains and not is_same(raw + at + 1, size - at - 1, self._default):
            for i in range(at + 1, size):
                name[o] = <char>(lower(raw[i]) if self._downcase else raw[i])
                o += 1
            name[o] = 0x21
            o += 1
        memcpy(name + o, b"user.", 5)
        user = o + 5
        for i in range(end):
            octet = lower(raw[i]) if self._downcase else raw[i]
            name[user + i] = <char>(0x5E if octet == 0x2E else octet)
        return user + end


cdef inline uint8_t lower(uint8_t octet) noexcept:
    return octet + 32 if 0x41 <= octet <= 0x5A else octet


cdef inline bint is_same(const uint8_t *raw, size_t size, bytes other) noexcept:
    """Are these octets `other`, which is in lower case, whatever their case?"""
    cdef const uint8_t *octets = <const uint8_t *>PyBytes_AS_STRING(other)
    cdef size_t i
    if <size_t>PyBytes_GET_SIZE(other) != size:
        return False
    for i in range(size):
        if lower(raw[i]) != octets[i]:
            return False
    return True


cdef class Lookups:
    """The part of an Index that looks mailboxes up."""

    cdef readonly Reader _reader
    cdef dict _locations
    cdef PyObject **_places  # by the library's number; `_locations` has them; NULL: not met yet
    cdef uint32_t _room

    def __cinit__(self):
        self._locations = {}
        self._room = FEW
        self._places = <PyObject **>calloc(FEW, sizeof(PyObject *))
        if self._places is NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._places)

    def __init__(self, bytes state_dir not None, dict errors not None):
        self._reader = Reader(state_dir, errors)

    cdef inline object location_of(self, const cyx_location *at):
        return <object>self.known_at(at)

    cdef inline PyObject *known_at(self, const cyx_location *at) except NULL:
        """The Location, kept by `_locations`."""
        cdef object made
        if at.place < self._room and self._places[at.place] is not NULL:
            return self._places[at.place]
        made = self.meet(at)
        return <PyObject *>made

    cdef object meet(self, const cyx_location *at):
        """The Location of a place that was not met yet."""
        self._reader.held()  # `at` has texts of its own, and what is made here may let other threads run
        try:
            server, partition = interned(at.server, self._reader.known), interned(at.partition, self._reader.known)
            made = Location(server, partition, STATES[at.state], flags_of(at.flags))
            made = self._locations.setdefault(made, made)
            if at.place:  # 0: the library had no memory for a number
                self.remember(at.place, <PyObject *>made)
            return made
        finally:
            self._reader.drop()

    cdef int remember(self, uint32_t place, PyObject *made) except -1:
        cdef uint32_t room = self._room
        cdef PyObject **wider
        while room <= place:
            room *= 2
        if room != self._room:
            wider = <PyObject **>calloc(room, sizeof(PyObject *))
            if wider is NULL:
                raise MemoryError
            memcpy(wider, self._places, self._room * sizeof(PyObject *))
            free(self._places)
            self._places, self._room = wider, room
        self._places[place] = made
        return 0

    @cython.binding(False)
    @cython.always_allow_keywords(False)
    @cython.embedsignature(True)
    @cython.embedsignature.format("clinic")
    def lookup(self, name, /):
        """Where the mailbox with this internal name is; None if there is no record of it."""
        cdef cyx_location at
        cdef cyx_name raw
        cdef object _kept
        if not cyx_points(<PyObject *>name, &raw):
            _kept = pointed(name, &raw)
        if self._reader.locate(raw.data, raw.len, &at) == CYX_OK:
            return self.location_of(&at)
        return None

    def server_at(self, bytes address not None, Addresses rules not None):
        """The server of an active mailbox that nothing is wrong with; None where the answer takes more thought."""
        cdef cyx_location at
        cdef char name[ROOM]
        cdef size_t size = rules.mailbox_of(address, name)
        cdef object found
        if size == 0 or self._reader.locate(name, size, &at) != CYX_OK or at.state != CYX_ACTIVE or at.flags:
            return None
        found = self.location_of(&at)
        return <object>PyTuple_GET_ITEM(found, 0) or None

    def servers_at(self, list addresses not None, Addresses rules not None):
        """`server_at` for each of `addresses`, in their order; None where one of them takes more thought."""
        cdef cyx_name raw[SEVERAL]
        cdef cyx_location at[SEVERAL]
        cdef char names[SEVERAL][ROOM]
        cdef Py_ssize_t count = PyList_GET_SIZE(addresses), done = 0, several, i
        cdef list servers = []
        cdef bytes address
        while done < count:
            several = min(count - done, <Py_ssize_t>SEVERAL)
            for i in range(several):
                address = addresses[done + i]
                if address is None:
                    raise TypeError("an address is octets")
                raw[i].data, raw[i].len = names[i], rules.mailbox_of(address, names[i])
                if raw[i].len == 0:
                    return None
            self._reader.locate_many(raw, <size_t>several, at)
            for i in range(several):
                if at[i].state != CYX_ACTIVE or at[i].flags:
                    return None
                server = <object>PyTuple_GET_ITEM(self.location_of(&at[i]), 0)
                if not server:
                    return None
                servers.append(server)
            done += several
        return servers

    def probe(self, name):
        """What `lookup` and `deleted_at` say, at one moment, by the store itself."""
        cdef cyx_location at
        cdef bytes raw = check_name(encoded(name))
        if self._reader.inspect(PyBytes_AS_STRING(raw), <size_t>PyBytes_GET_SIZE(raw), &at) == CYX_OK:
            return self.location_of(&at), None
        return None, at.changed_at if at.state else None

    @cython.binding(False)
    @cython.always_allow_keywords(False)
    @cython.embedsignature(True)
    @cython.embedsignature.format("clinic")
    def lookup_many(self, names, /):
        """`lookup` for each of `names`, in their order; what it takes from memory is fetched side by side."""
        cdef list wanted = names if type(names) is list else list(names)
        cdef Py_ssize_t count = PyList_GET_SIZE(wanted)
        cdef Py_ssize_t at
        cdef list answer = PyList_New(count)
        for at in range(0, count, PIECE):
            if PyList_GET_SIZE(wanted) != count:
                raise RuntimeError("the list changed while it was looked up")
            self.look_up(wanted, answer, at, min(at + PIECE, count))
        return answer

    cdef int look_up(self, list wanted, list answer, Py_ssize_t start, Py_ssize_t end) except -1:
        cdef cyx_name raw[PIECE]
        cdef cyx_location at[PIECE]
        cdef list kept = None
        cdef Py_ssize_t i
        cdef PyObject *name
        cdef PyObject *found
        raw[0].data, raw[0].len = NULL, 0
        for i in range(start, end):
            name = PyList_GET_ITEM(wanted, i)
            if not cyx_points(name, &raw[i - start]):
                if kept is None:
                    kept = []
                kept.append(pointed(<object>name, &raw[i - start]))
        self._reader.locate_many(raw, <size_t>(end - start), at)
        for i in range(start, end):  # from here on new objects may be made: the names are not looked at any more
            found = <PyObject *>None
            if at[i - start].state:
                found = self.known_at(&at[i - start])
            cyx_answer(answer, i, found)
        return 0
