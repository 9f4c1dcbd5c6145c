/* e_lmdb.c - LMDB by itself: one transaction renewed for each look-up, as a reader that lets pages go must. */
#include <lmdb.h>
#include <string.h>
#include <sys/stat.h>

#include "mlookup.h"

const char engine_name[] = "lmdb";
const own_loops engine_loops = {0};
static MDB_env *env;
static MDB_txn *txn;
static MDB_dbi dbi;

static void checked(int code, const char *what)
{
    if (code)
        die("%s: %s", what, mdb_strerror(code));
}

static void open_env(const char *dir, unsigned flags)
{
    checked(mdb_env_create(&env), "creating");
    checked(mdb_env_set_mapsize(env, (size_t)64 << 30), "sizing");
    checked(mdb_env_open(env, dir, MDB_NOTLS | flags, 0644), "opening");
}

static void put(void *context, uint64_t i)
{
    char name[NAME_MAX_LEN];
    uint64_t place = key_server(i);
    MDB_val key = {key_name(i, 0, name), name}, value = {sizeof place, &place};
    (void)context;
    checked(mdb_put(txn, dbi, &key, &value, MDB_APPEND), "writing");
}

void engine_build(const char *dir, uint64_t count)
{
    (void)mkdir(dir, 0755);
    open_env(dir, MDB_NOSYNC | MDB_WRITEMAP);
    checked(mdb_txn_begin(env, NULL, 0, &txn), "beginning");
    checked(mdb_dbi_open(txn, NULL, 0, &dbi), "opening");
    key_each(count, put, NULL);
    checked(mdb_txn_commit(txn), "committing");
    mdb_env_close(env);
}

void engine_open(const char *dir)
{
    open_env(dir, MDB_RDONLY);
    checked(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), "beginning");
    checked(mdb_dbi_open(txn, NULL, 0, &dbi), "opening");
    mdb_txn_reset(txn);
}

int engine_get(const char *name, size_t len)
{
    MDB_val key = {len, (void *)(uintptr_t)name}, value;
    uint64_t place = 0;
    checked(mdb_txn_renew(txn), "beginning");
    int code = mdb_get(txn, dbi, &key, &value);
    if (!code)
        memcpy(&place, value.mv_data, sizeof place);
    mdb_txn_reset(txn);
    if (code && code != MDB_NOTFOUND)
        checked(code, "looking up");
    return code ? -1 : (int)place;
}
