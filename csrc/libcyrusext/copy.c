/* copy.c - a consistent copy of a store that is being written. */
#include "writer.h"

int cyx_reader_copy(cyx_reader *reader, int fd)
{
    int rc = cyx_reader_begin(reader);
    if (rc)
        return rc;
    /* LMDB takes a snapshot of its own, as of now, and keeps it until the last page is written: the writer goes on, and
     * its file grows by what is changed meanwhile. */
    int mdb = mdb_env_copyfd2(reader->env->mdb, fd, MDB_CP_COMPACT);
    cyx_reader_end(reader);
    return mdb ? cyx_fail_mdb(mdb, "copying the store") : CYX_OK;
}
