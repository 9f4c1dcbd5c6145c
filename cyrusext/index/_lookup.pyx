# cython: language_level=3, boundscheck=False, wraparound=False
"""Look-ups from Python at the speed of the hot table: a C method that allocates one small object for a hit.

Rule: the texts and enumerations of an answer are the same objects each time; only the Location is new.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc

from cyrusext.index._cyx cimport CYX_OK, Reader, cyx_location, cyx_name

from cyrusext.model import Flag, ServerPartition, State

cdef enum:
    ROUTES = 4096   # different places that are remembered, about; a power of two
    NEAR = 8        # how far from its own slot one may be

cdef tuple STATES = (None, State.RESERVED, State.ACTIVE, State.DELETED)


@cython.final
@cython.no_gc
cdef class Route:
    """A place that was met: the numbers it is known by, and what Python sees of it."""

    cdef const char *server_at
    cdef const char *partition_at
    cdef uint32_t state_number, flag_bits
    cdef object server, partition, state, flags


# It refers to nothing that could refer to it: the collector need not know it.
@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Location:
    """What a lookup found: `name`, `server`, `partition`, `state`, `flags`, and on demand the `acl`."""

    cdef Lookups _index
    cdef Route _route
    cdef readonly bytes name

    @property
    def server(self):
        return self._route.server

    @property
    def partition(self):
        return self._route.partition

    @property
    def state(self):
        return self._route.state

    @property
    def flags(self):
        return self._route.flags

    @property
    def location(self):
        return ServerPartition(self._route.server, self._route.partition)

    @property
    def acl(self):
        """The ACL as it is now (empty if the mailbox is gone meanwhile).  Raises as `Index.lookup`."""
        record = self._index._reader.get(self.name)
        return record.acl if record is not None and record.state is not State.DELETED else b""

    def __eq__(self, other):
        if not isinstance(other, Location):
            return NotImplemented
        cdef Location that = <Location>other
        return (self.name == that.name and self.server == that.server and self.partition == that.partition
                and self.state is that.state and self.flags == that.flags)

    def __hash__(self):
        return hash((self.name, self.server, self.partition, self.state))

    def __repr__(self):
        return f"Location({self.name!r}, {self.location!s}, {self.state.name})"


cdef class Lookups:
    """The part of an Index that looks mailboxes up."""

    cdef readonly Reader _reader
    cdef list _routes

    def __init__(self, bytes state_dir not None, dict errors not None):
        self._reader = Reader(state_dir, errors)
        self._routes = [None] * (ROUTES + NEAR)

    cdef Route route_of(self, const cyx_location *at):
        cdef uint64_t mixed = <uint64_t><uintptr_t>at.server + 3 * <uint64_t><uintptr_t>at.partition
        mixed = (mixed + at.state * 8 + at.flags) * <uint64_t>0x9E3779B97F4A7C15
        cdef Py_ssize_t first = <Py_ssize_t>(mixed >> 40) & (ROUTES - 1)
        cdef Py_ssize_t slot
        cdef Route route
        for slot in range(first, first + NEAR):
            known = self._routes[slot]
            if known is None:
                break
            route = <Route>known
            if (route.server_at == at.server and route.partition_at == at.partition
                    and route.state_number == at.state and route.flag_bits == at.flags):
                return route
        else:
            slot = first
        route = Route.__new__(Route)
        route.server_at, route.partition_at = at.server, at.partition
        route.state_number, route.flag_bits = at.state, at.flags
        route.server, route.partition = self._reader.text_at(at.server), self._reader.text_at(at.partition)
        route.state, route.flags = STATES[at.state], Flag(at.flags)
        self._routes[slot] = route
        return route

    cdef Location location_of(self, bytes name, const cyx_location *at):
        cdef Location found = Location.__new__(Location)
        found._index = self
        found._route = self.route_of(at)
        found.name = name
        return found

    def lookup(self, bytes name not None):
        """Where the mailbox with this internal name is; None if there is no record of it."""
        cdef cyx_location at
        if self._reader.locate(PyBytes_AS_STRING(name), <size_t>PyBytes_GET_SIZE(name), &at) != CYX_OK:
            return None
        return self.location_of(name, &at)

    def probe(self, bytes name not None):
        """What `lookup` and `deleted_at` say, at one moment, by the store itself."""
        cdef cyx_location at
        if self._reader.inspect(PyBytes_AS_STRING(name), <size_t>PyBytes_GET_SIZE(name), &at) == CYX_OK:
            return self.location_of(name, &at), None
        return None, at.changed_at if at.state else None

    def lookup_many(self, names):
        """`lookup` for each of `names`, in their order; what it takes from memory is fetched side by side."""
        cdef list wanted = names if type(names) is list else list(names)
        cdef Py_ssize_t count = len(wanted)
        cdef Py_ssize_t i
        cdef bytes name
        cdef object found
        cdef list answer = PyList_New(count)
        cdef cyx_name *raw = <cyx_name *>malloc((count + 1) * sizeof(cyx_name))
        cdef cyx_location *at = <cyx_location *>malloc((count + 1) * sizeof(cyx_location))
        try:
            if raw is NULL or at is NULL:
                raise MemoryError
            for i in range(count):
                name = wanted[i]
                if name is None:
                    raise TypeError("a mailbox name is bytes, not None")
                raw[i].data, raw[i].len = PyBytes_AS_STRING(name), <size_t>PyBytes_GET_SIZE(name)
            self._reader.locate_many(raw, <size_t>count, at)
            for i in range(count):
                found = self.location_of(<bytes>wanted[i], &at[i]) if at[i].state else None
                Py_INCREF(found)
                PyList_SET_ITEM(answer, i, found)
            return answer
        finally:
            free(raw)
            free(at)
