/* reader.c - a reading handle: open, look up, walk.
 *
 * The handle keeps one read transaction, reset between calls: renewing it takes no system call and holds no pages.
 */
#include <stdlib.h>

#include "guard.h"
#include "internal.h"
#include "writer.h"

#define NO_MAX_AGE_MS 2000u /* DESIGN rule 1, where the node has written nothing else */
#define MAX_AGE_MS 3600000u /* an hour is as good as for ever, and does not overflow */
#define WALK_BATCH 256u

static char *copy_text(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);
    return copy ? memcpy(copy, text, size) : NULL;
}

static uint64_t limited_ns(uint64_t ms) { return (ms < MAX_AGE_MS ? ms : MAX_AGE_MS) * 1000000u; }

static int renew(cyx_reader *reader)
{
    return reader->txn ? mdb_txn_renew(reader->txn) : mdb_txn_begin(reader->env->mdb, NULL, MDB_RDONLY, &reader->txn);
}

int cyx_reader_renew(cyx_reader *reader)
{
    int dead = 0;
    int rc = renew(reader);
    if (rc == MDB_READERS_FULL && mdb_reader_check(reader->env->mdb, &dead) == 0 && dead > 0)
        rc = renew(reader);
    if (rc == MDB_MAP_RESIZED) {
        if (reader->txn)
            mdb_txn_abort(reader->txn);
        reader->txn = NULL;
        if (cyx_env_follow_size(reader->env))
            rc = renew(reader);
    }
    return rc ? cyx_fail_mdb(rc, "beginning to read the store") : CYX_OK;
}

/* What the node has left in the store for its readers. */
static int load_settings(cyx_reader *reader)
{
    uint64_t max_age_ms = NO_MAX_AGE_MS;
    char *run_dir = NULL;
    int rc = cyx_reader_renew(reader);
    if (rc)
        return rc;
    rc = cyx_check_format(reader->txn, reader->env->meta); /* a newer node may have upgraded it since it was opened */
    if (rc == CYX_OK)
        rc = cyx_meta_get64(reader->txn, reader->env->meta, "no_max_age_ms", &max_age_ms);
    if (rc == CYX_OK || rc == CYX_ABSENT) {
        const uint8_t *value = NULL;
        size_t len = 0;
        rc = cyx_meta_get(reader->txn, reader->env->meta, "run_dir", strlen("run_dir"), &value, &len);
        if (rc == CYX_OK || rc == CYX_ABSENT) {
            run_dir = calloc(1, len + 1);
            if (run_dir && len)
                memcpy(run_dir, value, len);
            rc = run_dir ? CYX_OK : cyx_fail(CYX_ENOMEM, "out of memory");
        }
    }
    mdb_txn_reset(reader->txn);
    if (rc)
        return rc;
    free(reader->run_dir);
    reader->run_dir = run_dir;
    reader->no_max_age_ns = limited_ns(max_age_ms);
    return CYX_OK;
}

/* The numbers of another store mean other texts; those already handed out are kept. */
static int retire(cyx_reader *reader)
{
    cyx_intern *retired = realloc(reader->retired, (reader->retired_count + 2) * sizeof *retired);
    if (!retired)
        return cyx_fail(CYX_ENOMEM, "out of memory");
    retired[reader->retired_count++] = reader->servers;
    retired[reader->retired_count++] = reader->partitions;
    reader->retired = retired;
    cyx_intern_init(&reader->servers, CYX_TAG_SERVER);
    cyx_intern_init(&reader->partitions, CYX_TAG_PARTITION);
    return CYX_OK;
}

static int open_env(cyx_reader *reader)
{
    int rc = cyx_env_open(reader->state_dir, NULL, &reader->env);
    if (rc)
        return rc;
    bool other = reader->ino && (reader->dev != reader->env->dev || reader->ino != reader->env->ino);
    if (other)
        cyx_reader_drop_hot(reader); /* its routes are numbers of the other store */
    rc = load_settings(reader);
    if (rc == CYX_OK && other)
        rc = retire(reader);
    if (rc == CYX_OK) {
        reader->dev = reader->env->dev;
        reader->ino = reader->env->ino;
    }
    if (rc) {
        if (reader->txn)
            mdb_txn_abort(reader->txn);
        reader->txn = NULL;
        cyx_env_release(reader->env);
        reader->env = NULL;
    }
    return rc;
}

/* In a forked child: forget what belongs to the parent.  What another thread of the parent was about to change is left
 * as it is, with all that hangs from it, and begun anew; texts that were handed out stay where they are. */
static void after_fork(cyx_reader *reader, unsigned generation)
{
    cyx_env_lock_registry();
    if (reader->fork_generation != generation) {
        (void)pthread_mutex_init(&reader->lock, NULL);
        reader->env = NULL;
        reader->txn = NULL;
        if (reader->busy) {
            cyx_intern_init(&reader->servers, CYX_TAG_SERVER);
            cyx_intern_init(&reader->partitions, CYX_TAG_PARTITION);
            reader->places.slots = NULL;
            reader->places.slot_count = reader->places.used = 0;
            reader->places.last++; /* the parent may have been about to give one */
            reader->retired = NULL;
            reader->retired_count = 0;
            reader->run_dir = NULL;
            memset(&reader->beat, 0, sizeof reader->beat);
            __atomic_store_n(&reader->table, NULL, __ATOMIC_RELEASE);
            reader->given_up = NULL;
            reader->hot_tried_ns = 0;
            reader->busy = false;
        }
        __atomic_store_n(&reader->fork_generation, generation, __ATOMIC_RELEASE);
    }
    cyx_env_unlock_registry();
}

int cyx_reader_lock(cyx_reader *reader)
{
    unsigned generation = cyx_fork_generation();
    if (__atomic_load_n(&reader->fork_generation, __ATOMIC_ACQUIRE) != generation)
        after_fork(reader, generation);
    (void)pthread_mutex_lock(&reader->lock);
    __atomic_store_n(&reader->busy, true, __ATOMIC_RELEASE);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* before whatever is changed */
    int rc = reader->env ? CYX_OK : open_env(reader);
    if (rc)
        cyx_reader_unlock(reader);
    return rc;
}

void cyx_reader_unlock(cyx_reader *reader)
{
    __atomic_store_n(&reader->busy, false, __ATOMIC_RELEASE);
    (void)pthread_mutex_unlock(&reader->lock);
}

int cyx_reader_begin(cyx_reader *reader)
{
    int rc = cyx_reader_lock(reader);
    if (rc)
        return rc;
    rc = cyx_reader_renew(reader);
    if (rc)
        cyx_reader_unlock(reader);
    return rc;
}

void cyx_reader_end(cyx_reader *reader)
{
    mdb_txn_reset(reader->txn);
    cyx_reader_unlock(reader);
}

int cyx_open(const char *state_dir, cyx_reader **reader_r)
{
    *reader_r = NULL;
    cyx_reader *reader = aligned_alloc(_Alignof(cyx_reader), sizeof *reader);
    if (reader)
        memset(reader, 0, sizeof *reader);
    if (!reader || !(reader->state_dir = copy_text(state_dir))) {
        free(reader);
        return cyx_fail(CYX_ENOMEM, "out of memory");
    }
    cyx_guard_prepare();
    reader->fork_generation = cyx_fork_generation();
    cyx_intern_init(&reader->servers, CYX_TAG_SERVER);
    cyx_intern_init(&reader->partitions, CYX_TAG_PARTITION);
    (void)pthread_mutex_init(&reader->lock, NULL);
    int rc = open_env(reader);
    if (rc)
        cyx_close(&reader);
    *reader_r = reader;
    return rc;
}

static void drop_env(cyx_reader *reader)
{
    if (!reader->env || reader->fork_generation != cyx_fork_generation())
        return;
    if (reader->txn)
        mdb_txn_abort(reader->txn);
    cyx_env_release(reader->env);
    reader->env = NULL;
    reader->txn = NULL;
}

int cyx_refresh(cyx_reader *reader)
{
    int rc = cyx_reader_lock(reader);
    if (rc)
        return rc;
    reader->hot_tried_ns = 0;
    if (cyx_env_current(reader->env, reader->state_dir)) {
        rc = load_settings(reader);
    } else {
        cyx_env *old_env = reader->env;
        MDB_txn *old_txn = reader->txn;
        reader->txn = NULL;
        rc = open_env(reader);
        if (rc == CYX_OK) {
            if (old_txn)
                mdb_txn_abort(old_txn);
            cyx_env_release(old_env);
        } else {
            reader->env = old_env;
            reader->txn = old_txn;
        }
    }
    cyx_reader_unlock(reader);
    return rc;
}

void cyx_close(cyx_reader **reader_ref)
{
    cyx_reader *reader = *reader_ref;
    if (!reader)
        return;
    if (reader->fork_generation == cyx_fork_generation()) {
        (void)pthread_mutex_lock(&reader->lock); /* another thread's call ends first */
        (void)pthread_mutex_unlock(&reader->lock);
    }
    drop_env(reader);
    cyx_reader_free_hot(reader);
    cyx_heartbeat_close(&reader->beat);
    cyx_intern_free(&reader->servers);
    cyx_intern_free(&reader->partitions);
    for (size_t i = 0; i < reader->retired_count; i++)
        cyx_intern_free(&reader->retired[i]);
    free(reader->retired);
    free(reader->places.slots);
    free(reader->run_dir);
    free(reader->state_dir);
    (void)pthread_mutex_destroy(&reader->lock);
    free(reader);
    *reader_ref = NULL;
}

int cyx_reader_location(cyx_reader *reader, const cyx_packed *record, cyx_location *location_r)
{
    return cyx_location_in(reader, reader->txn, record, location_r);
}

int cyx_location_in(cyx_reader *reader, MDB_txn *txn, const cyx_packed *record, cyx_location *location_r)
{
    MDB_dbi meta = reader->env->meta;
    int rc = cyx_intern_text(&reader->servers, txn, meta, record->server, &location_r->server);
    if (rc == CYX_OK)
        rc = cyx_intern_text(&reader->partitions, txn, meta, record->partition, &location_r->partition);
    location_r->seq = record->seq;
    location_r->changed_at = record->changed_at;
    location_r->flags = record->flags;
    location_r->state = record->state;
    location_r->place = 0;
    return rc;
}

int cyx_reader_find(cyx_reader *reader, const char *name, size_t len, MDB_val *key_r, uint8_t raw_key[CYX_KEY_MAX],
                    cyx_packed *record_r)
{
    MDB_val value;
    if (cyx_key_from_name(name, len, raw_key, &key_r->mv_size) != CYX_OK)
        return CYX_ABSENT;
    key_r->mv_data = raw_key;
    int rc = mdb_get(reader->txn, reader->env->mailboxes, key_r, &value);
    if (rc == MDB_NOTFOUND)
        return CYX_ABSENT;
    if (rc)
        return cyx_fail_mdb(rc, "looking up a mailbox");
    return cyx_record_unpack(key_r, &value, record_r);
}

int cyx_acl(cyx_reader *reader, const char *name, size_t len, char *buffer, size_t size, size_t *len_r)
{
    uint8_t raw_key[CYX_KEY_MAX];
    MDB_val key;
    cyx_packed record;
    int rc = cyx_name_check(name, len);
    if (rc || (rc = cyx_reader_begin(reader)))
        return rc;
    rc = cyx_reader_find(reader, name, len, &key, raw_key, &record);
    if (rc == CYX_OK && record.state == CYX_DELETED)
        rc = CYX_ABSENT;
    if (rc == CYX_OK) {
        *len_r = record.acl_len;
        if (record.acl_len > size)
            rc = cyx_fail(CYX_ETOOSMALL, "the ACL has %zu bytes, the buffer %zu", record.acl_len, size);
        else if (record.acl_len)
            memcpy(buffer, record.acl, record.acl_len);
    }
    cyx_reader_end(reader);
    return rc;
}

int cyx_reader_entry(cyx_reader *reader, const char *name, size_t len, cyx_entry *entry_r)
{
    uint8_t raw_key[CYX_KEY_MAX];
    MDB_val key;
    cyx_packed record;
    int rc = cyx_reader_find(reader, name, len, &key, raw_key, &record);
    if (rc)
        return rc;
    entry_r->name = name;
    entry_r->name_len = len;
    entry_r->acl = (const char *)record.acl;
    entry_r->acl_len = record.acl_len;
    return cyx_reader_location(reader, &record, &entry_r->location);
}

int cyx_reader_get(cyx_reader *reader, const char *name, size_t len, cyx_chunk *chunk)
{
    uint8_t raw_key[CYX_KEY_MAX];
    MDB_val key;
    cyx_packed record;
    cyx_location location;
    int rc = cyx_reader_begin(reader);
    if (rc)
        return rc;
    chunk->count = chunk->used = 0;
    rc = cyx_reader_find(reader, name, len, &key, raw_key, &record);
    if (rc == CYX_OK && (rc = cyx_reader_location(reader, &record, &location)) == CYX_OK)
        rc = cyx_chunk_add(chunk, &key, &record, &location);
    cyx_reader_end(reader);
    return rc;
}

int cyx_walk(cyx_reader *reader, const char *prefix, size_t prefix_len, const char *server, cyx_walk_cb callback,
             void *context)
{
    cyx_range range = {.prefix = prefix, .prefix_len = prefix_len, .server = server, .limit = WALK_BATCH};
    cyx_chunk chunk = {0};
    char after[CYX_MAX_NAME];
    int rc;
    while ((rc = cyx_reader_chunk(reader, &range, &chunk)) == CYX_OK && chunk.count) {
        for (size_t i = 0; i < chunk.count; i++) {
            const cyx_chunk_item *item = &chunk.items[i];
            cyx_entry entry = {
                .location = item->location,
                .name = (const char *)chunk.bytes + item->name_at,
                .name_len = item->name_len,
                .acl = (const char *)chunk.bytes + item->acl_at,
                .acl_len = item->acl_len,
            };
            if (callback(context, &entry)) {
                rc = CYX_STOPPED;
                goto done;
            }
        }
        if (chunk.done)
            break;
        const cyx_chunk_item *last = &chunk.items[chunk.count - 1];
        memcpy(after, chunk.bytes + last->name_at, last->name_len);
        range.after = after;
        range.after_len = last->name_len;
    }
done:
    cyx_chunk_free(&chunk);
    return rc;
}

int cyx_fresh(cyx_reader *reader, uint64_t max_age_ms)
{
    int rc = cyx_reader_lock(reader);
    if (rc)
        return rc;
    uint64_t max_age_ns = max_age_ms ? limited_ns(max_age_ms) : reader->no_max_age_ns;
    rc = cyx_heartbeat_fresh(&reader->beat, reader->run_dir, reader->env, max_age_ns) ? CYX_OK : CYX_STALE;
    cyx_reader_unlock(reader);
    return rc;
}
