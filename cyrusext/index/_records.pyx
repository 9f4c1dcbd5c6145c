# cython: language_level=3, boundscheck=False, wraparound=False
"""MailboxRecords as the library takes them.

Rule: nothing is copied; what the library gets points into the record.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize

from cyrusext.model import MailboxRecord


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
