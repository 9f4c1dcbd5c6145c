# cython: language_level=3, boundscheck=False, wraparound=False
"""MailboxRecords as the library takes and gives them.

Rule: nothing is copied on the way in: what the library gets points into the record.  On the way out everything is.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport strlen

from cyrusext.index._library cimport cyx_chunk, cyx_chunk_item, cyx_history_item, cyx_location, cyx_put_record

from cyrusext.model import Flag, MailboxRecord, State

cdef tuple STATES = (None, State.RESERVED, State.ACTIVE, State.DELETED)
cdef dict FLAGS = {int(flag): flag for flag in (Flag(number) for number in range(8))}


cdef object flags_of(uint32_t number):
    flag = FLAGS.get(number)
    return Flag(number) if flag is None else flag


cdef str text_of(const char *text):
    return PyUnicode_DecodeUTF8(text, <Py_ssize_t>strlen(text), NULL)


cdef object record_of(const cyx_chunk *chunk, const cyx_chunk_item *item, dict known):
    """Build a MailboxRecord; `known` keeps one str per server and partition (their C strings live as long as it)."""
    cdef const char *data = <const char *>chunk.bytes
    return tuple.__new__(MailboxRecord, (
        PyBytes_FromStringAndSize(data + item.name_at, <Py_ssize_t>item.name_len),
        STATES[item.location.state],
        interned(item.location.server, known),
        interned(item.location.partition, known),
        PyBytes_FromStringAndSize(data + item.acl_at, <Py_ssize_t>item.acl_len),
        item.location.seq,
        flags_of(item.location.flags),
        item.location.changed_at,
        PyUnicode_DecodeUTF8(data + item.by_at, <Py_ssize_t>item.by_len, "replace"),
    ))


cdef list records_of(const cyx_chunk *chunk, dict known):
    cdef size_t i
    return [record_of(chunk, &chunk.items[i], known) for i in range(chunk.count)]


cdef str interned(const char *text, dict known):
    if known is None:
        return text_of(text)
    found = known.get(<uintptr_t>text)
    if found is None:
        found = known[<uintptr_t>text] = text_of(text)
    return <str>found


cdef int collect(void *context, const char *server, uint64_t count) noexcept with gil:
    (<dict>context)[text_of(server)] = count
    return 0


cdef int remember(void *context, const cyx_history_item *item) noexcept with gil:
    """Append one change of a mailbox's history as a tuple; what its entry does not say is None."""
    cdef const cyx_location *at = &item.location
    cdef const cyx_location *was = &item.was
    if not item.detailed:
        (<list>context).append((item.seq, None))
        return 0
    before = (STATES[was.state], text_of(was.server), text_of(was.partition)) if was.state else None
    (<list>context).append((item.seq, (
        at.changed_at, STATES[at.state], text_of(at.server), text_of(at.partition), flags_of(at.flags), before,
        bool(item.acl_changed), PyUnicode_DecodeUTF8(item.by, <Py_ssize_t>item.by_len, "replace"))))
    return 0


cdef int fill(cyx_put_record *raw, record) except -1:
    """Point `raw` into the parts of a MailboxRecord, which has to outlive it."""
    cdef Py_ssize_t size
    cdef bytes name, acl
    if not isinstance(record, MailboxRecord):
        raise TypeError("not a MailboxRecord")
    name, state, server, partition, acl, _seq, flags, changed_at, changed_by = record
    if name is None or acl is None:
        raise TypeError("a record needs a name and an ACL")
    raw.name, raw.name_len = PyBytes_AS_STRING(name), <size_t>PyBytes_GET_SIZE(name)
    raw.server = PyUnicode_AsUTF8AndSize(server, &size)
    raw.server_len = <size_t>size
    raw.partition = PyUnicode_AsUTF8AndSize(partition, &size)
    raw.partition_len = <size_t>size
    raw.acl, raw.acl_len = PyBytes_AS_STRING(acl), <size_t>PyBytes_GET_SIZE(acl)
    raw.by = PyUnicode_AsUTF8AndSize(changed_by, &size)
    raw.by_len = <size_t>size
    raw.changed_at, raw.flags, raw.state, raw.seq = changed_at, flags, state, 0
    return 0
