# cython: language_level=3, boundscheck=False, wraparound=False
"""The file of a store without LMDB: is it sound, and what can be read of it where it is not?

Rule: nothing here opens an environment or writes; linked with the parts of libcyrusext that look at bytes only.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from cyrusext.model import Flag, MailboxRecord, State


cdef extern from "cyrusext.h" nogil:
    const int CYX_OK, CYX_ABSENT, CYX_ENOMEM
    const char *cyx_strerror(int code)
    const char *cyx_detail()


cdef extern from "internal.h" nogil:
    ctypedef struct MDB_val:
        size_t mv_size
        void *mv_data
    ctypedef struct cyx_packed:
        uint64_t seq
        int64_t changed_at
        uint32_t flags, server, partition, state
        const uint8_t *acl
        size_t acl_len
        const uint8_t *by
        size_t by_len
    const int CYX_MAX_NAME
    int cyx_name_from_key(const uint8_t *key, size_t key_len, uint8_t *name_r, size_t *len_r)


cdef extern from "structure.h" nogil:
    ctypedef struct cyx_image:
        const uint8_t *at
        size_t size
    ctypedef struct cyx_structure:
        uint64_t findings
    ctypedef void (*cyx_finding_cb)(void *context, const char *text) noexcept with gil
    int cyx_image_open(cyx_image *image, const char *path)
    void cyx_image_close(cyx_image *image)
    int cyx_structure_check(const cyx_image *image, uint64_t txn, cyx_finding_cb report, void *context,
                            cyx_structure *structure_r)
    void cyx_structure_free(cyx_structure *structure)
    int cyx_check_store(const char *state_dir, cyx_finding_cb report, void *context, uint64_t *findings_r)


cdef extern from "salvage.h" nogil:
    ctypedef struct cyx_salvage_text:
        const uint8_t *text
        size_t len
    ctypedef struct cyx_salvage_texts:
        cyx_salvage_text *items
    ctypedef struct cyx_salvage_item:
        MDB_val key
    ctypedef struct cyx_salvage:
        cyx_salvage_item *items
        size_t count
        cyx_salvage_texts servers, partitions
        cyx_salvage_text mode, followed
        uint64_t damaged, unknown
    int cyx_salvage_run(const cyx_image *image, const cyx_structure *structure, cyx_salvage *salvage_r)
    void cyx_salvage_record(const cyx_salvage *salvage, size_t at, cyx_packed *record_r)
    void cyx_salvage_free(cyx_salvage *salvage)


cdef void collect(void *context, const char *text) noexcept with gil:
    (<list>context).append(text.decode("utf-8", "backslashreplace"))


cdef int checked(int code, dict errors) except -1:
    if code == CYX_ENOMEM:
        raise MemoryError
    if code < 0:
        text = cyx_strerror(code).decode()
        raise errors.get(code, errors[0])(f"{text}: {cyx_detail().decode('utf-8', 'replace')}", public=text)
    return code


def check(bytes state_dir not None, dict errors not None):
    """Return what is wrong with the store below `state_dir`, which nobody writes; None where there is none."""
    cdef const char *path = state_dir
    cdef list findings = []
    cdef uint64_t count = 0
    cdef int code
    with nogil:
        code = cyx_check_store(path, collect, <void *>findings, &count)
    return None if checked(code, errors) == CYX_ABSENT else findings


cdef str text_of(const uint8_t *text, size_t size):
    return PyUnicode_DecodeUTF8(<const char *>text, <Py_ssize_t>size, "replace")


cdef class Salvage:
    """What can be read of a store's file (data.mdb), in Cyrus' order; the file is mapped as long as this lives."""

    cdef cyx_image image
    cdef cyx_structure structure
    cdef cyx_salvage found
    cdef dict texts

    def __cinit__(self, bytes path not None, dict errors not None):
        cdef const char *where = path
        cdef int code
        self.texts = {}
        with nogil:
            code = cyx_image_open(&self.image, where)
            if code == CYX_OK:
                code = cyx_structure_check(&self.image, 0, NULL, NULL, &self.structure)
            if code == CYX_OK:
                code = cyx_salvage_run(&self.image, &self.structure, &self.found)
        checked(code, errors)

    def __dealloc__(self):
        cyx_salvage_free(&self.found)
        cyx_structure_free(&self.structure)
        cyx_image_close(&self.image)

    def __len__(self):
        return self.found.count

    @property
    def lost(self):
        """Records that were found and could not be read, as far as they can be counted."""
        return self.found.damaged + self.found.unknown

    @property
    def mode(self):
        return text_of(self.found.mode.text, self.found.mode.len) if self.found.mode.text else ""

    @property
    def followed(self):
        return text_of(self.found.followed.text, self.found.followed.len) if self.found.followed.text else ""

    cdef str named(self, str kind, const cyx_salvage_text *text, uint32_t number):
        """One str for each server and partition."""
        key = kind, number
        if key not in self.texts:
            self.texts[key] = text_of(text.text, text.len)
        return <str>self.texts[key]

    def records(self, size_t first, size_t limit):
        """Return at most `limit` MailboxRecords, tombstones too, from the place `first` on."""
        cdef cyx_packed raw
        cdef uint8_t[512] name
        cdef size_t at, size = 0
        cdef list found = []
        for at in range(first, min(first + limit, self.found.count)):
            cyx_salvage_record(&self.found, at, &raw)
            key = &self.found.items[at].key
            if cyx_name_from_key(<const uint8_t *>key.mv_data, key.mv_size, name, &size) != CYX_OK:
                continue
            found.append(MailboxRecord(
                PyBytes_FromStringAndSize(<const char *>name, <Py_ssize_t>size),
                State(raw.state),
                self.named("server", &self.found.servers.items[raw.server], raw.server),
                self.named("partition", &self.found.partitions.items[raw.partition], raw.partition),
                PyBytes_FromStringAndSize(<const char *>raw.acl, <Py_ssize_t>raw.acl_len),
                raw.seq, Flag(raw.flags & 7), raw.changed_at, text_of(raw.by, raw.by_len),
            ))
        return found
