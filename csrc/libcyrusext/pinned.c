/* pinned.c - the file of a store that may be written meanwhile.
 *
 * Beginning a read transaction has LMDB look at the meta pages only, which were checked before, and from then on no page
 * of that snapshot is written: the check goes through it by itself.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "structure.h"

#define ATTEMPTS 100u

static int check_pinned(MDB_txn *txn, const char *path, cyx_finding_cb report, void *context, uint64_t *findings_r)
{
    cyx_image image;
    cyx_structure structure;
    int rc = cyx_image_open(&image, path);
    if (rc)
        return rc;
    rc = cyx_structure_check(&image, mdb_txn_id(txn), report, context, &structure);
    *findings_r = structure.findings;
    cyx_structure_free(&structure);
    cyx_image_close(&image);
    return rc;
}

int cyx_check_live_store(const char *state_dir, cyx_finding_cb report, void *context, uint64_t *findings_r)
{
    char store[PATH_MAX - 16], data[PATH_MAX], lock[PATH_MAX];
    MDB_env *env = NULL;
    MDB_txn *txn;
    bool empty;
    *findings_r = 0;
    int n = snprintf(store, sizeof store, "%s/store", state_dir);
    if (n < 0 || (size_t)n >= sizeof store)
        return cyx_fail(CYX_EINVAL, "the path of the store is too long");
    (void)snprintf(data, sizeof data, "%s/data.mdb", store);
    (void)snprintf(lock, sizeof lock, "%s/lock.mdb", store);
    if (access(lock, F_OK) < 0 && errno == ENOENT)
        return cyx_check_store(state_dir, report, context, findings_r); /* nobody has it open */
    int rc = cyx_check_file(data, &empty);
    if (rc == CYX_OK && empty)
        rc = cyx_fail(CYX_EUNAVAIL, "the store is being created");
    if (rc)
        return rc;
    int mdb = mdb_env_create(&env);
    if (!mdb)
        mdb = mdb_env_open(env, store, MDB_NOTLS | (access(data, W_OK) == 0 ? 0u : MDB_RDONLY), CYX_DATA_MODE);
    if (mdb)
        rc = cyx_fail_mdb(mdb, store);
    for (unsigned attempt = 0; rc == CYX_OK || (rc == CYX_STALE && attempt < ATTEMPTS); attempt++) {
        if ((mdb = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn))) {
            rc = cyx_fail_mdb(mdb, store);
            break;
        }
        rc = check_pinned(txn, data, report, context, findings_r);
        mdb_txn_abort(txn);
        if (rc != CYX_STALE)
            break;
    }
    if (env)
        mdb_env_close(env);
    return rc == CYX_STALE ? cyx_fail(CYX_EBUSY, "the store changes faster than it can be checked") : rc;
}
