/* changes.c - the bounded change log: one entry as it is packed, and what is read of the log.
 *
 *   0  CRC-32C over the seq and value[4..]       4  key of the mailbox
 * Behind the key, which holds no NUL: nothing (entries of the first versions), or a NUL, the version of what follows
 * (1), and
 *   0  changed_at, 8 bytes    10  1: the ACL changed    20  server before        30  name of the writer
 *   8  state                  11  flags                 24  partition before
 *   9  state before, 0: none  12  server, 16 partition  28  length of the writer, 2 bytes
 * The CRC tells a change from every other one that was ever made under its sequence: it is the change's mark, by which
 * a store knows a history as its own.
 */
#include <stdlib.h>

#include "changes.h"
#include "writer.h"

#define DETAILS 32u /* NUL and version included */
#define VERSION 1u
#define CHANGED_BYTES ((size_t)1 << 20) /* cyx_reader_changed ends when it holds this much, whatever its limit */

static uint32_t checksum(uint64_t seq, const uint8_t *value, size_t size)
{
    uint8_t raw_seq[8];
    cyx_put64_be(raw_seq, seq);
    return cyx_crc32c(cyx_crc32c(0, raw_seq, sizeof raw_seq), value + 4, size - 4);
}

size_t cyx_change_size(const MDB_val *key, const cyx_packed *record) { return 4 + key->mv_size + DETAILS + record->by_len; }

void cyx_change_seal(uint64_t seq, uint8_t *value, size_t size) { cyx_put32(value, checksum(seq, value, size)); }

void cyx_change_pack(const MDB_val *key, const cyx_packed *record, const cyx_packed *before, uint8_t *value)
{
    bool was = before && before->state != CYX_DELETED;
    uint8_t *p = value + 4 + key->mv_size;
    memcpy(value + 4, key->mv_data, key->mv_size);
    *p++ = 0;
    *p++ = VERSION;
    cyx_put64(p, (uint64_t)record->changed_at);
    p[8] = (uint8_t)record->state;
    p[9] = was ? (uint8_t)before->state : 0;
    p[10] = record->acl_len != (was ? before->acl_len : 0) ||
            (record->acl_len && memcmp(record->acl, before->acl, record->acl_len) != 0);
    p[11] = (uint8_t)record->flags;
    cyx_put32(p + 12, record->server);
    cyx_put32(p + 16, record->partition);
    cyx_put32(p + 20, was ? before->server : record->server);
    cyx_put32(p + 24, was ? before->partition : record->partition);
    cyx_put16(p + 28, (uint16_t)record->by_len);
    if (record->by_len)
        memcpy(p + 30, record->by, record->by_len);
    cyx_change_seal(record->seq, value, cyx_change_size(key, record));
}

int cyx_change_unpack(const MDB_val *seq_key, const MDB_val *value, cyx_change *change_r)
{
    const uint8_t *p = value->mv_data;
    memset(change_r, 0, sizeof *change_r);
    if (seq_key->mv_size != 8 || value->mv_size < 4 + 2)
        return cyx_fail(CYX_ECORRUPT, "an entry of the change log is too short");
    change_r->seq = cyx_get64_be(seq_key->mv_data);
    change_r->mark = cyx_get32(p);
    if (change_r->mark != checksum(change_r->seq, p, value->mv_size))
        return cyx_fail(CYX_ECORRUPT, "an entry of the change log fails its checksum");
    size_t left = value->mv_size - 4;
    const uint8_t *end = memchr(p + 4, 0, left);
    change_r->key.mv_data = (void *)(uintptr_t)(p + 4);
    change_r->key.mv_size = end ? (size_t)(end - p - 4) : left;
    if (change_r->key.mv_size < 2 || change_r->key.mv_size > CYX_KEY_MAX)
        return cyx_fail(CYX_ECORRUPT, "an entry of the change log makes no sense");
    if (!end)
        return CYX_OK;
    left -= change_r->key.mv_size;
    if (left < DETAILS || end[1] != VERSION)
        return left < DETAILS ? cyx_fail(CYX_ECORRUPT, "an entry of the change log makes no sense") : CYX_OK;
    end += 2;
    cyx_packed *record = &change_r->record;
    record->by_len = cyx_get16(end + 28);
    if (record->by_len != left - DETAILS || end[8] < CYX_RESERVED || end[8] > CYX_DELETED || end[9] > CYX_ACTIVE)
        return cyx_fail(CYX_ECORRUPT, "an entry of the change log makes no sense");
    record->seq = change_r->seq;
    record->changed_at = (int64_t)cyx_get64(end);
    record->state = end[8];
    record->flags = end[11];
    record->server = cyx_get32(end + 12);
    record->partition = cyx_get32(end + 16);
    record->by = end + 30;
    change_r->was = end[9];
    change_r->acl_changed = end[10] != 0;
    change_r->was_server = cyx_get32(end + 20);
    change_r->was_partition = cyx_get32(end + 24);
    change_r->detailed = true;
    return CYX_OK;
}

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
