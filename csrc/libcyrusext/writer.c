/* writer.c - the one writing handle and its transactions.
 *
 * All that belongs to a change (put.c) goes into one LMDB transaction, with the sequence and the counts; LMDB makes it
 * durable and visible at once or not at all.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "writer_state.h"

#define ROUND_FILE ((size_t)1 << 20)
#define NEARLY_FULL 16u        /* free blocks below which a short write is a full disk */

static void close_txn(cyx_writer *writer)
{
    writer->txn = NULL;
    cyx_hot_changes_forget(&writer->hot_changes);
    writer->unlogged_now = 0;
    writer->mailboxes = writer->by_server = writer->tombstones = writer->changes = NULL;
    (void)pthread_mutex_unlock(&writer->lock);
}

bool cyx_writer_in_transaction(const cyx_writer *writer)
{
    return writer->txn && pthread_equal(writer->owner, pthread_self()) &&
           writer->fork_generation == cyx_fork_generation();
}

int cyx_writer_no_transaction(void)
{
    return cyx_fail(CYX_EMISUSE, "no transaction was begun by this thread");
}

/* LMDB reports a write that the disk took only in part as EIO. */
int cyx_writer_fail_write(cyx_writer *writer, int mdb_code, const char *what)
{
    struct statvfs fs;
    int fd;
    writer->failed = true;
    if (mdb_code == EIO && mdb_env_get_fd(writer->env->mdb, &fd) == 0 && fstatvfs(fd, &fs) == 0 &&
        fs.f_bavail < NEARLY_FULL)
        mdb_code = ENOSPC;
    return cyx_fail_mdb(mdb_code, what);
}

static void server_key(uint32_t server, uint8_t key_r[3])
{
    key_r[0] = 'c';
    key_r[1] = (uint8_t)(server >> 8);
    key_r[2] = (uint8_t)server;
}

int cyx_writer_fit_servers(cyx_writer *writer, size_t count)
{
    if (count <= writer->per_server_size)
        return CYX_OK;
    size_t size = writer->per_server_size ? writer->per_server_size : 16;
    while (size < count)
        size *= 2;
    uint64_t *numbers = realloc(writer->per_server, size * sizeof *numbers);
    if (numbers)
        writer->per_server = numbers;
    bool *touched = numbers ? realloc(writer->touched, size * sizeof *touched) : NULL;
    if (!touched)
        return cyx_fail(CYX_ENOMEM, "out of memory");
    writer->touched = touched;
    memset(numbers + writer->per_server_size, 0, (size - writer->per_server_size) * sizeof *numbers);
    memset(touched + writer->per_server_size, 0, (size - writer->per_server_size) * sizeof *touched);
    writer->per_server_size = size;
    return CYX_OK;
}

/* What is kept in memory, from the store: at the start, and after a transaction that came to nothing. */
static int load(cyx_writer *writer)
{
    MDB_txn *txn = writer->txn;
    MDB_dbi meta = writer->env->meta;
    const uint8_t *value;
    size_t len;
    int rc = cyx_meta_get64(txn, meta, "seq", &writer->seq);
    if (rc)
        return rc == CYX_ABSENT ? cyx_fail(CYX_ECORRUPT, "the store has no sequence") : rc;
    rc = cyx_meta_get(txn, meta, "counts", strlen("counts"), &value, &len);
    if (rc < 0)
        return rc;
    writer->counts = (cyx_counts){0};
    if (rc == CYX_OK) {
        if (len != 24)
            return cyx_fail(CYX_ECORRUPT, "the store's counts have %zu bytes", len);
        writer->counts = (cyx_counts){cyx_get64(value), cyx_get64(value + 8), cyx_get64(value + 16)};
    }
    if ((rc = cyx_intern_load(&writer->servers, txn, meta)) || (rc = cyx_intern_load(&writer->partitions, txn, meta)) ||
        (rc = cyx_writer_fit_servers(writer, writer->servers.count + 1)))
        return rc;
    memset(writer->per_server, 0, writer->per_server_size * sizeof *writer->per_server);
    memset(writer->touched, 0, writer->per_server_size * sizeof *writer->touched);
    for (uint32_t id = 0; id < writer->servers.count; id++) {
        uint8_t key[3];
        server_key(id, key);
        rc = cyx_meta_get(txn, meta, key, sizeof key, &value, &len);
        if (rc < 0)
            return rc;
        if (rc == CYX_OK && len != 8)
            return cyx_fail(CYX_ECORRUPT, "the store's count of a server has %zu bytes", len);
        writer->per_server[id] = rc == CYX_OK ? cyx_get64(value) : 0;
    }
    writer->committed_seq = writer->seq;
    writer->committed_counts = writer->counts;
    writer->loaded = true;
    return CYX_OK;
}

int cyx_writer_begin(cyx_writer *writer)
{
    if (writer->fork_generation != cyx_fork_generation())
        return cyx_fail(CYX_EMISUSE, "this writer belongs to the parent process");
    if (pthread_mutex_lock(&writer->lock))
        return cyx_fail(CYX_EMISUSE, "this thread has already begun a transaction");
    int rc = mdb_txn_begin(writer->env->mdb, NULL, 0, &writer->txn);
    if (rc) {
        (void)pthread_mutex_unlock(&writer->lock);
        return cyx_fail_mdb(rc, "beginning a transaction");
    }
    writer->owner = pthread_self();
    writer->failed = false;
    writer->pages = 64;
    int code = CYX_OK;
    if ((rc = mdb_cursor_open(writer->txn, writer->env->mailboxes, &writer->mailboxes)) ||
        (rc = mdb_cursor_open(writer->txn, writer->env->by_server, &writer->by_server)) ||
        (rc = mdb_cursor_open(writer->txn, writer->env->tombstones, &writer->tombstones)) ||
        (rc = mdb_cursor_open(writer->txn, writer->env->changes, &writer->changes)))
        code = cyx_fail_mdb(rc, "beginning a transaction");
    else if (!writer->loaded)
        code = load(writer);
    if (code)
        cyx_writer_abort(writer);
    return code;
}

static void forget(cyx_writer *writer)
{
    cyx_intern_rollback(&writer->servers);
    cyx_intern_rollback(&writer->partitions);
    writer->seq = writer->committed_seq;
    writer->counts = writer->committed_counts;
    for (size_t id = 0; id < writer->per_server_size && writer->loaded; id++)
        if (writer->touched[id])
            writer->loaded = false; /* its count is read again */
}

void cyx_writer_abort(cyx_writer *writer)
{
    if (!cyx_writer_in_transaction(writer))
        return;
    mdb_txn_abort(writer->txn);
    if (writer->loaded)
        forget(writer);
    close_txn(writer);
}

/* Drop what the bounded change log no longer keeps. */
static int trim_changes(cyx_writer *writer)
{
    MDB_val key, value;
    int rc;
    if (writer->seq <= CYX_CHANGES_KEPT)
        return 0;
    while ((rc = mdb_cursor_get(writer->changes, &key, &value, MDB_FIRST)) == 0) {
        if (key.mv_size == 8 && cyx_get64_be(key.mv_data) > writer->seq - CYX_CHANGES_KEPT)
            break;
        if ((rc = mdb_cursor_del(writer->changes, 0)))
            break;
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int put_counts(cyx_writer *writer)
{
    uint8_t raw[24];
    MDB_dbi meta = writer->env->meta;
    cyx_put64(raw, writer->counts.active);
    cyx_put64(raw + 8, writer->counts.reserved);
    cyx_put64(raw + 16, writer->counts.tombstones);
    int rc = cyx_meta_put(writer->txn, meta, "counts", strlen("counts"), raw, sizeof raw);
    for (uint32_t id = 0; rc == CYX_OK && id < writer->servers.count; id++) {
        uint8_t key[3];
        if (!writer->touched[id])
            continue;
        server_key(id, key);
        cyx_put64(raw, writer->per_server[id]);
        rc = cyx_meta_put(writer->txn, meta, key, sizeof key, raw, 8);
    }
    return rc;
}

/* Make the file at least as long as its last page will say.  LMDB does not write pages that were allocated and given
 * back within one transaction, and then a good file would look like one that was cut off (env.c).  It stays sparse. */
static int extend_file(cyx_writer *writer)
{
    MDB_envinfo info;
    MDB_stat sizes;
    struct stat st;
    int fd, rc;
    uint64_t used = 1024;
    const MDB_dbi all[] = {writer->env->mailboxes, writer->env->by_server, writer->env->tombstones,
                           writer->env->changes, writer->env->meta};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if ((rc = mdb_stat(writer->txn, all[i], &sizes)))
            return cyx_fail_mdb(rc, "committing");
        used += sizes.ms_branch_pages + sizes.ms_leaf_pages + sizes.ms_overflow_pages;
    }
    if ((rc = mdb_env_info(writer->env->mdb, &info)) || (rc = mdb_env_get_fd(writer->env->mdb, &fd)))
        return cyx_fail_mdb(rc, "committing");
    if (fstat(fd, &st) < 0)
        return cyx_fail_mdb(errno, "committing");
    uint64_t added = writer->pages < 3 * used ? writer->pages : 3 * used;
    uint64_t wanted = (info.me_last_pgno + 1 + added) * writer->env->page_size;
    wanted = (wanted + ROUND_FILE - 1) / ROUND_FILE * ROUND_FILE;
    if (wanted > info.me_mapsize)
        wanted = info.me_mapsize;
    if ((uint64_t)st.st_size < wanted && ftruncate(fd, (off_t)wanted) < 0)
        return cyx_writer_fail_write(writer, errno, "extending the store");
    return CYX_OK;
}

int cyx_writer_commit(cyx_writer *writer)
{
    if (!cyx_writer_in_transaction(writer))
        return cyx_writer_no_transaction();
    int code = CYX_OK, rc;
    if (writer->failed) {
        cyx_writer_abort(writer);
        return cyx_fail(CYX_EMISUSE, "a put of this transaction has failed: nothing of it was applied");
    }
    CYX_FAILPOINT("commit-start");
    if ((rc = trim_changes(writer)))
        code = cyx_writer_fail_write(writer, rc, "trimming the change log");
    CYX_FAILPOINT("commit-trimmed");
    if (code == CYX_OK && (code = put_counts(writer)) == CYX_OK) {
        CYX_FAILPOINT("commit-counts");
        code = cyx_meta_put64(writer->txn, writer->env->meta, "seq", writer->seq);
    }
    CYX_FAILPOINT("commit-seq");
    if (code == CYX_OK)
        code = extend_file(writer);
    if (code) {
        cyx_writer_abort(writer);
        return code;
    }
    CYX_FAILPOINT("commit-before");
    rc = mdb_txn_commit(writer->txn); /* frees the transaction whatever comes of it */
    CYX_FAILPOINT("commit-after");
    if (rc) {
        int dead;
        code = cyx_writer_fail_write(writer, rc, "committing");
        forget(writer);
        (void)mdb_reader_check(writer->env->mdb, &dead); /* a dead reader may be what holds the space */
    } else {
        writer->committed_counts.tombstones = writer->counts.tombstones;
        /* building a hot table reads these beside it */
        __atomic_store_n(&writer->committed_counts.active, writer->counts.active, __ATOMIC_RELAXED);
        __atomic_store_n(&writer->committed_counts.reserved, writer->counts.reserved, __ATOMIC_RELAXED);
        writer->servers.committed = writer->servers.count;
        writer->partitions.committed = writer->partitions.count;
        memset(writer->touched, 0, writer->per_server_size * sizeof *writer->touched);
        __atomic_store_n(&writer->committed_seq, writer->seq, __ATOMIC_RELEASE);
    }
    if (code == CYX_OK) {
        /* after the commit: whoever saw the old count and then an older snapshot sees the new one before it ends */
        __atomic_store_n(&writer->unlogged, writer->unlogged + writer->unlogged_now, __ATOMIC_RELEASE);
        cyx_writer_apply_hot(writer);
    }
    close_txn(writer);
    return code;
}

int cyx_writer_set_text(cyx_writer *writer, const char *key, const char *text, size_t len)
{
    return cyx_writer_in_transaction(writer) ? cyx_meta_put(writer->txn, writer->env->meta, key, strlen(key), text, len)
                                  : cyx_writer_no_transaction();
}

int cyx_writer_set_number(cyx_writer *writer, const char *key, uint64_t number)
{
    return cyx_writer_in_transaction(writer) ? cyx_meta_put64(writer->txn, writer->env->meta, key, number) : cyx_writer_no_transaction();
}

uint64_t cyx_writer_seq(const cyx_writer *writer) { return __atomic_load_n(&writer->committed_seq, __ATOMIC_ACQUIRE); }

int cyx_writer_check_readers(cyx_writer *writer, int *dead_r)
{
    int rc = mdb_reader_check(writer->env->mdb, dead_r);
    return rc ? cyx_fail_mdb(rc, "clearing dead readers") : CYX_OK;
}

void cyx_writer_beat(cyx_writer *writer, bool fresh)
{
    cyx_heartbeat_write(&writer->beat, writer->env, cyx_writer_seq(writer), fresh);
}

static int start(cyx_writer *writer, const char *run_dir)
{
    int dead;
    int rc = cyx_writer_check_readers(writer, &dead);
    if (rc || (rc = cyx_heartbeat_create(&writer->beat, run_dir)) || (rc = cyx_hot_retire(run_dir)) ||
        (rc = cyx_upgrade(writer)) ||
        (rc = cyx_writer_begin(writer)))
        return rc;
    if ((rc = cyx_writer_set_text(writer, "run_dir", run_dir, strlen(run_dir)))) {
        cyx_writer_abort(writer);
        return rc;
    }
    return cyx_writer_commit(writer);
}

int cyx_writer_open(const char *state_dir, const char *run_dir, const char *reader_group, size_t map_size,
                    cyx_writer **writer_r)
{
    const cyx_env_create create = {.map_size = map_size, .reader_group = reader_group};
    pthread_mutexattr_t attributes;
    *writer_r = NULL;
    cyx_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return cyx_fail(CYX_ENOMEM, "out of memory");
    (void)pthread_mutexattr_init(&attributes);
    (void)pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    (void)pthread_mutex_init(&writer->lock, &attributes);
    (void)pthread_mutexattr_destroy(&attributes);
    cyx_intern_init(&writer->servers, CYX_TAG_SERVER);
    cyx_intern_init(&writer->partitions, CYX_TAG_PARTITION);
    writer->lock_fd = -1;
    writer->hot_wanted = true;
    int rc = (writer->run_dir = strdup(run_dir)) ? CYX_OK : cyx_fail(CYX_ENOMEM, "out of memory");
    if (rc == CYX_OK)
        rc = cyx_env_open(state_dir, &create, &writer->env);
    writer->fork_generation = cyx_fork_generation();
    if (rc == CYX_OK)
        rc = cyx_env_claim_writer(writer->env, state_dir, &writer->lock_fd);
    if (rc == CYX_OK)
        rc = start(writer, run_dir);
    if (rc)
        cyx_writer_close(&writer);
    *writer_r = writer;
    return rc;
}

void cyx_writer_close(cyx_writer **writer_ref)
{
    cyx_writer *writer = *writer_ref;
    if (!writer)
        return;
    cyx_writer_abort(writer);
    if (writer->env && writer->fork_generation == cyx_fork_generation()) {
        (void)pthread_mutex_lock(&writer->lock); /* another thread's transaction ends first */
        (void)pthread_mutex_unlock(&writer->lock);
        if (writer->lock_fd >= 0)
            cyx_env_release_writer(writer->env, writer->lock_fd);
        cyx_env_release(writer->env);
    }
    cyx_heartbeat_close(&writer->beat);
    cyx_intern_free(&writer->servers);
    cyx_intern_free(&writer->partitions);
    free(writer->per_server);
    free(writer->touched);
    free(writer->scratch);
    cyx_hot_free(&writer->hot);
    cyx_hot_changes_free(&writer->hot_changes);
    free(writer->run_dir);
    free(writer->change);
    (void)pthread_mutex_destroy(&writer->lock);
    free(writer);
    *writer_ref = NULL;
}
