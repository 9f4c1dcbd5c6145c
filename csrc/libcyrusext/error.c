/* error.c - codes to sentences, and the detail of this thread's last failure. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

static _Thread_local char detail[512];

int cyx_fail(int code, const char *format, ...)
{
    int saved = errno;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    errno = saved;
    return code;
}

int cyx_fail_mdb(int mdb_code, const char *what)
{
    int code;
    switch (mdb_code) {
    case MDB_SUCCESS:
        return CYX_OK;
    case MDB_MAP_FULL:
        code = CYX_EFULL;
        break;
    case MDB_NOTFOUND:
    case MDB_PAGE_NOTFOUND:
    case MDB_CORRUPTED:
    case MDB_BAD_TXN:
    case MDB_BAD_DBI:
    case MDB_INCOMPATIBLE:
    case MDB_INVALID:
        code = CYX_ECORRUPT;
        break;
    case MDB_VERSION_MISMATCH:
        code = CYX_EVERSION;
        break;
    case MDB_READERS_FULL:
    case MDB_TXN_FULL:
        code = CYX_ELIMIT;
        break;
    case MDB_MAP_RESIZED:
    case ENOENT:
    case ENOTDIR:
    case EACCES:
    case EPERM:
    case EAGAIN:
        code = CYX_EUNAVAIL;
        break;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        code = CYX_EFULL;
        break;
    case ENOMEM:
        code = CYX_ENOMEM;
        break;
    default:
        code = CYX_EIO;
    }
    return cyx_fail(code, "%s: %s", what, mdb_strerror(mdb_code));
}

const char *cyx_detail(void) { return detail; }

const char *cyx_version(void) { return CYX_VERSION; }

const char *cyx_strerror(int code)
{
    switch (code) {
    case CYX_OK:
        return "done";
    case CYX_ABSENT:
        return "no such mailbox";
    case CYX_STALE:
        return "not known to be up to date";
    case CYX_STOPPED:
        return "stopped by the callback";
    case CYX_EINVAL:
        return "wrong argument";
    case CYX_ENOMEM:
        return "out of memory";
    case CYX_EUNAVAIL:
        return "the store can not be opened";
    case CYX_ECORRUPT:
        return "the store is damaged";
    case CYX_EVERSION:
        return "the store has a format this version does not open";
    case CYX_EIO:
        return "input or output error";
    case CYX_EFULL:
        return "no space left for the store";
    case CYX_EBUSY:
        return "the store is in use by another writer";
    case CYX_ETOOSMALL:
        return "buffer too small";
    case CYX_ELIMIT:
        return "a limit of the store is reached";
    case CYX_EMISUSE:
        return "call at the wrong time, in the wrong thread or process";
    default:
        return "unknown code";
    }
}
