/* changes.c - what is read of the bounded change log (an entry's bytes: change.c). */
#include <stdlib.h>

#include "changes.h"
#include "writer.h"

#define CHANGED_BYTES ((size_t)1 << 20) /* cyx_reader_changed ends when it holds this much, whatever its limit */

static int open_log(cyx_reader *reader, MDB_cursor **cursor_r)
{
    *cursor_r = NULL;
    int rc = cyx_reader_begin(reader);
    if (rc)
        return rc;
    int mdb = mdb_cursor_open(reader->txn, reader->env->changes, cursor_r);
    if (!mdb)
        return CYX_OK;
    cyx_reader_end(reader);
    return cyx_fail_mdb(mdb, "reading the change log");
}

static int close_log(cyx_reader *reader, MDB_cursor *cursor, int mdb, int code)
{
    mdb_cursor_close(cursor);
    cyx_reader_end(reader);
    return code == CYX_OK && mdb && mdb != MDB_NOTFOUND ? cyx_fail_mdb(mdb, "reading the change log") : code;
}

int cyx_reader_mark(cyx_reader *reader, uint64_t seq, uint32_t *mark_r)
{
    uint8_t raw_seq[8];
    MDB_cursor *cursor;
    cyx_change change;
    int rc = open_log(reader, &cursor);
    if (rc)
        return rc;
    cyx_put64_be(raw_seq, seq);
    MDB_val key = {sizeof raw_seq, raw_seq}, value;
    int mdb = mdb_cursor_get(cursor, &key, &value, MDB_SET_KEY);
    if (mdb == MDB_NOTFOUND)
        rc = CYX_ABSENT;
    else if (!mdb && (rc = cyx_change_unpack(&key, &value, &change)) == CYX_OK)
        *mark_r = change.mark;
    return close_log(reader, cursor, mdb, rc);
}

/* What a change left: the record, or its deletion where the tombstone is forgotten; nothing where it changed again. */
static int add_outcome(cyx_reader *reader, const cyx_change *change, cyx_chunk *chunk)
{
    MDB_val key = change->key, value;
    cyx_packed record;
    cyx_location location;
    int mdb = mdb_get(reader->txn, reader->env->mailboxes, &key, &value);
    if (mdb && mdb != MDB_NOTFOUND)
        return cyx_fail_mdb(mdb, "reading a changed record");
    if (mdb == MDB_NOTFOUND) {
        if (change->detailed && change->record.state != CYX_DELETED)
            return CYX_OK;
        record = change->record;
        record.seq = change->seq;
        record.state = CYX_DELETED;
    } else {
        int rc = cyx_record_unpack(&key, &value, &record);
        if (rc || record.seq != change->seq)
            return rc;
    }
    int rc = cyx_reader_location(reader, &record, &location);
    return rc ? rc : cyx_chunk_add(chunk, &key, &record, &location);
}

int cyx_reader_changed(cyx_reader *reader, uint64_t after, size_t limit, cyx_chunk *chunk, cyx_changed *changed_r)
{
    uint8_t raw_seq[8];
    MDB_cursor *cursor;
    cyx_change change;
    chunk->count = chunk->used = 0;
    chunk->done = true;
    memset(changed_r, 0, sizeof *changed_r);
    changed_r->upto = after;
    int rc = open_log(reader, &cursor);
    if (rc)
        return rc;
    cyx_put64_be(raw_seq, after + 1);
    MDB_val key = {sizeof raw_seq, raw_seq}, value;
    int mdb = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (size_t seen = 0; !mdb; seen++, mdb = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        if (seen >= limit || chunk->used >= CHANGED_BYTES) {
            chunk->done = false;
            break;
        }
        if ((rc = cyx_change_unpack(&key, &value, &change)) || (rc = add_outcome(reader, &change, chunk)))
            break;
        if (!changed_r->first)
            changed_r->first = change.seq;
        changed_r->upto = change.seq;
        changed_r->mark = change.mark;
    }
    return close_log(reader, cursor, mdb, rc);
}

static int tell(cyx_reader *reader, const cyx_change *change, cyx_history_cb callback, void *context)
{
    cyx_history_item item = {.seq = change->seq, .detailed = change->detailed};
    if (change->detailed) {
        const cyx_packed was = {.server = change->was_server, .partition = change->was_partition};
        int rc = cyx_reader_location(reader, &change->record, &item.location);
        if (rc == CYX_OK && change->was)
            rc = cyx_reader_location(reader, &was, &item.was);
        if (rc)
            return rc;
        item.was.state = change->was;
        item.acl_changed = change->acl_changed;
        item.by = (const char *)change->record.by;
        item.by_len = change->record.by_len;
    }
    return callback(context, &item) ? CYX_STOPPED : CYX_OK;
}

int cyx_reader_history(cyx_reader *reader, const char *name, size_t len, cyx_history_cb callback, void *context)
{
    uint8_t raw_key[CYX_KEY_MAX];
    size_t key_len;
    MDB_cursor *cursor;
    MDB_val key, value;
    cyx_change change;
    if (cyx_key_from_name(name, len, raw_key, &key_len) != CYX_OK)
        return CYX_OK;
    int rc = open_log(reader, &cursor);
    if (rc)
        return rc;
    int mdb;
    while (rc == CYX_OK && (mdb = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        const uint8_t *p = value.mv_data;
        if (value.mv_size < 4 + key_len || memcmp(p + 4, raw_key, key_len) != 0 ||
            (value.mv_size > 4 + key_len && p[4 + key_len] != 0))
            continue;
        if ((rc = cyx_change_unpack(&key, &value, &change)) == CYX_OK)
            rc = tell(reader, &change, callback, context);
    }
    return close_log(reader, cursor, rc == CYX_OK ? mdb : 0, rc);
}
