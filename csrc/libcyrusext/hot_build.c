/* hot_build.c - the hot table of a store that is being written: built beside the one in use, caught up from the change
 * log, and put in its place between two transactions.
 */
#include <stdlib.h>

#include "changes.h"
#include "hot.h"
#include "writer_state.h"

#define ATTEMPTS 4u   /* each with room for more routes, or from where the change log still reaches back to */
#define NEARLY 256u   /* changes that may be left to do while writers wait */
#define ROUTES 16384u /* distinct server, partition, state and flags, at first */

typedef struct build {
    cyx_writer *writer;
    cyx_hot_writer *hot;
    uint64_t last;     /* the last change of the log that the table has */
    uint64_t unlogged; /* cyx_writer.unlogged when the snapshot was taken */
    bool full;
} build;

static bool cancelled(const build *b) { return __atomic_load_n(&b->writer->hot_cancelled, __ATOMIC_RELAXED); }

static cyx_hot_route route_of(const cyx_packed *record)
{
    return (cyx_hot_route){.server = record->server,
                           .partition = record->partition,
                           .state = (uint16_t)record->state,
                           .flags = (uint16_t)record->flags};
}

static uint64_t meet(const build *b, const MDB_val *key)
{
    uint8_t name[CYX_MAX_NAME];
    size_t len = 0;
    if (cyx_name_from_key(key->mv_data, key->mv_size, name, &len))
        len = 0; /* can not be: the record was unpacked */
    return cyx_hot_meet(b->hot, name, len);
}

/* Names that were met and are not in the table yet: their lines are on their way. */
typedef struct waiting {
    uint64_t met[CYX_HOT_AHEAD];
    cyx_hot_route routes[CYX_HOT_AHEAD];
    uint64_t come, gone;
} waiting;

static void let_in(build *b, waiting *w)
{
    uint64_t at = w->gone++ % CYX_HOT_AHEAD;
    if (!b->full && !cyx_hot_apply(b->hot, w->met[at], false, true, &w->routes[at]))
        b->full = true;
}

static void line_up(build *b, waiting *w, const MDB_val *key, const cyx_packed *record)
{
    if (w->come - w->gone == CYX_HOT_AHEAD)
        let_in(b, w);
    uint64_t at = w->come++ % CYX_HOT_AHEAD;
    w->met[at] = meet(b, key);
    w->routes[at] = route_of(record);
}

static int last_change(MDB_txn *txn, MDB_dbi changes, uint64_t *last_r)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    *last_r = 0;
    int rc = mdb_cursor_open(txn, changes, &cursor);
    if (rc)
        return rc;
    rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
    if (!rc && key.mv_size == 8)
        *last_r = cyx_get64_be(key.mv_data);
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Everything as one snapshot has it.  The node's own transaction, and no I/O in it but the store's. */
static int fill(build *b)
{
    cyx_env *env = b->writer->env;
    MDB_txn *txn;
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    cyx_packed record;
    waiting w = {.come = 0};
    int code = CYX_OK;
    b->unlogged = __atomic_load_n(&b->writer->unlogged, __ATOMIC_ACQUIRE);
    int rc = mdb_txn_begin(env->mdb, NULL, MDB_RDONLY, &txn);
    if (rc)
        return cyx_fail_mdb(rc, "building the hot table");
    if ((rc = last_change(txn, env->changes, &b->last)) == 0 &&
        (rc = mdb_cursor_open(txn, env->mailboxes, &cursor)) == 0)
        while (!b->full && code == CYX_OK && !cancelled(b) && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
            if ((code = cyx_record_unpack(&key, &value, &record)) == CYX_OK && record.state != CYX_DELETED)
                line_up(b, &w, &key, &record);
    while (w.gone < w.come)
        let_in(b, &w);
    if (cursor)
        mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return code == CYX_OK && rc && rc != MDB_NOTFOUND ? cyx_fail_mdb(rc, "building the hot table") : code;
}

/* Do what was committed since.  CYX_STALE when the log does not reach back so far. */
static int catch_up(build *b, uint64_t *done_r)
{
    cyx_env *env = b->writer->env;
    uint8_t raw_seq[8];
    MDB_txn *txn;
    MDB_cursor *cursor = NULL;
    MDB_val key = {sizeof raw_seq, raw_seq}, value;
    int code = CYX_OK;
    *done_r = 0;
    int rc = mdb_txn_begin(env->mdb, NULL, MDB_RDONLY, &txn);
    if (rc)
        return cyx_fail_mdb(rc, "building the hot table");
    cyx_put64_be(raw_seq, b->last);
    if ((rc = mdb_cursor_open(txn, env->changes, &cursor)) == 0) {
        rc = mdb_cursor_get(cursor, &key, &value, b->last ? MDB_SET_KEY : MDB_FIRST);
        if (b->last && rc == MDB_NOTFOUND)
            code = CYX_STALE;
        else if (b->last && !rc)
            rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
        for (; code == CYX_OK && !b->full && !rc; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
            cyx_change change;
            if ((code = cyx_change_unpack(&key, &value, &change)))
                break;
            if (!change.detailed) {
                code = CYX_STALE;
                break;
            }
            const cyx_hot_route route = route_of(&change.record);
            if (!cyx_hot_apply(b->hot, meet(b, &change.key), change.was != 0, change.record.state != CYX_DELETED, &route))
                b->full = true;
            b->last = change.seq;
            ++*done_r;
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    return code == CYX_OK && rc && rc != MDB_NOTFOUND ? cyx_fail_mdb(rc, "building the hot table") : code;
}

/* With no transaction open: the last changes, then the new table takes the old one's place. */
static int finish(build *b)
{
    cyx_writer *writer = b->writer;
    uint64_t done;
    if (pthread_mutex_lock(&writer->lock))
        return cyx_fail(CYX_EMISUSE, "this thread has a transaction open");
    int rc = catch_up(b, &done);
    if (rc == CYX_OK && writer->unlogged != b->unlogged)
        rc = CYX_STALE;
    if (rc == CYX_OK && !b->full) {
        cyx_hot_applied(b->hot, writer->committed_seq);
        rc = cyx_hot_publish(b->hot);
    }
    if (rc == CYX_OK && !b->full) {
        if (writer->hot)
            cyx_hot_supersede(writer->hot);
        cyx_hot_free(&writer->hot);
        writer->hot = b->hot;
        b->hot = NULL;
        writer->hot_wanted = false;
    }
    (void)pthread_mutex_unlock(&writer->lock);
    return rc;
}

int cyx_writer_build_hot(cyx_writer *writer)
{
    uint64_t routes = ROUTES, expected = 0;
    int rc = CYX_STALE;
    for (unsigned attempt = 0; attempt < ATTEMPTS && rc == CYX_STALE; attempt++) {
        build b = {.writer = writer};
        uint64_t live = __atomic_load_n(&writer->committed_counts.active, __ATOMIC_RELAXED) +
                        __atomic_load_n(&writer->committed_counts.reserved, __ATOMIC_RELAXED);
        uint64_t done = NEARLY;
        expected = live > expected ? live : expected;
        if ((rc = cyx_hot_create(writer->run_dir, writer->env, expected, routes, &b.hot)))
            return rc;
        rc = fill(&b);
        while (rc == CYX_OK && !b.full && done >= NEARLY && !cancelled(&b))
            rc = catch_up(&b, &done);
        if (rc == CYX_OK && cancelled(&b))
            rc = cyx_fail(CYX_EBUSY, "the hot table was given up");
        if (rc == CYX_OK && !b.full)
            rc = finish(&b);
        if (rc == CYX_OK && b.full) {
            routes *= 16;
            expected += expected / 2;
            rc = CYX_STALE;
        }
        cyx_hot_free(&b.hot);
    }
    return rc == CYX_STALE ? cyx_fail(CYX_EBUSY, "the store changes faster than a hot table of it can be built") : rc;
}

static void meet_noted(cyx_writer *writer, size_t i)
{
    const cyx_hot_changes *changes = &writer->hot_changes;
    if (i < changes->count) {
        cyx_hot_change *change = &changes->items[i];
        change->met = cyx_hot_meet(writer->hot, changes->names + change->name_at, change->name_len);
    }
}

static bool apply_noted(cyx_writer *writer, bool there)
{
    const cyx_hot_changes *changes = &writer->hot_changes;
    for (size_t i = 0; i < CYX_HOT_AHEAD; i++)
        meet_noted(writer, i);
    for (size_t i = 0; i < changes->count; i++) {
        const cyx_hot_change *change = &changes->items[i];
        meet_noted(writer, i + CYX_HOT_AHEAD);
        if (change->is_there == there &&
            !cyx_hot_apply(writer->hot, change->met, change->was_there, there, &change->route))
            return false;
        CYX_FAILPOINT("hot-applied-one");
    }
    return true;
}

/* After a commit: what it changed, in the table that readers use.  What comes before what goes: a mailbox that was
 * renamed is never under neither name. */
void cyx_writer_apply_hot(cyx_writer *writer)
{
    if (!writer->hot)
        return;
    if (!apply_noted(writer, true) || !apply_noted(writer, false)) {
        cyx_hot_supersede(writer->hot);
        cyx_hot_free(&writer->hot);
        writer->hot_wanted = true;
        return;
    }
    cyx_hot_applied(writer->hot, writer->committed_seq);
    if (cyx_hot_crowded(writer->hot))
        writer->hot_wanted = true;
}

void cyx_writer_cancel_hot(cyx_writer *writer) { __atomic_store_n(&writer->hot_cancelled, true, __ATOMIC_RELAXED); }

bool cyx_writer_hot_wanted(const cyx_writer *writer) { return writer->hot_wanted; }
