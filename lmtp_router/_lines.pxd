"""Log lines as octets, for what writes its own (_lines.pyx)."""


cdef class Text:
    cdef char *start
    cdef size_t size
    cdef size_t room

    cdef int reserve(self, size_t more) except -1
    cdef int put(self, const char *octets, size_t size) except -1
    cdef int put_number(self, long long number) except -1
    cdef int put_ms(self, const char *name, size_t size, double seconds) except -1
    cdef int put_value(self, bytes value) except -1


cdef int put_head(Text head, str event, str session, bytes mail_from) except -1
cdef int put_tail(Text text, str server, long long size, bytes words, double started, double asked, double linked,
                  double opened, double ended, double at) except -1
