/* put.c - what goes into a transaction, and what keeps the databases of the store in step.
 *
 * A change writes the record, its entry in by_server or tombstones, and the change log, and counts itself.
 */
#include <stdlib.h>
#include <time.h>

#include "changes.h"
#include "writer_state.h"

/* The cursor is left at the record, or where it would be. */
static int find(cyx_writer *writer, MDB_val *key, cyx_packed *record_r)
{
    MDB_val value;
    int rc = mdb_cursor_get(writer->mailboxes, key, &value, MDB_SET);
    if (rc == MDB_NOTFOUND)
        return CYX_ABSENT;
    return rc ? cyx_fail_mdb(rc, "reading a record") : cyx_record_unpack(key, &value, record_r);
}

int cyx_writer_get(cyx_writer *writer, const char *name, size_t len, cyx_chunk *chunk)
{
    uint8_t raw_key[CYX_KEY_MAX];
    MDB_val key = {0, raw_key};
    cyx_packed record;
    cyx_location location;
    chunk->count = chunk->used = 0;
    if (!cyx_writer_in_transaction(writer))
        return cyx_writer_no_transaction();
    if (cyx_key_from_name(name, len, raw_key, &key.mv_size) != CYX_OK)
        return CYX_ABSENT;
    int rc = find(writer, &key, &record);
    if (rc)
        return rc;
    MDB_dbi meta = writer->env->meta;
    if ((rc = cyx_intern_text(&writer->servers, writer->txn, meta, record.server, &location.server)) ||
        (rc = cyx_intern_text(&writer->partitions, writer->txn, meta, record.partition, &location.partition)))
        return rc;
    location.seq = record.seq;
    location.changed_at = record.changed_at;
    location.flags = record.flags;
    location.state = record.state;
    key.mv_data = raw_key;
    return cyx_chunk_add(chunk, &key, &record, &location);
}

static uint64_t *count_of(cyx_writer *writer, uint32_t state)
{
    return state == CYX_ACTIVE     ? &writer->counts.active
           : state == CYX_RESERVED ? &writer->counts.reserved
                                   : &writer->counts.tombstones;
}

/* Take the entry of a record in by_server or tombstones away, or make it. */
static int mark(cyx_writer *writer, const MDB_val *key, const cyx_packed *record, bool there)
{
    uint8_t raw[CYX_TAGGED_KEY_MAX];
    bool dead = record->state == CYX_DELETED;
    MDB_cursor *cursor = dead ? writer->tombstones : writer->by_server;
    size_t tag = dead ? 8 : 2;
    if (dead)
        cyx_put64_be(raw, (uint64_t)record->changed_at);
    else
        raw[0] = (uint8_t)(record->server >> 8), raw[1] = (uint8_t)record->server;
    memcpy(raw + tag, key->mv_data, key->mv_size);
    MDB_val k = {tag + key->mv_size, raw}, v = {0, raw};
    int rc;
    if (there)
        rc = mdb_cursor_put(cursor, &k, &v, 0);
    else if ((rc = mdb_cursor_get(cursor, &k, &v, MDB_SET)) == 0)
        rc = mdb_cursor_del(cursor, 0);
    if (rc == MDB_NOTFOUND)
        return cyx_fail(CYX_ECORRUPT, "a record has no entry in %s", dead ? "tombstones" : "by_server");
    if (rc)
        return cyx_writer_fail_write(writer, rc, "writing the store");
    if (!dead) {
        writer->per_server[record->server] += there ? 1u : (uint64_t)-1;
        writer->touched[record->server] = true;
    }
    *count_of(writer, record->state) += there ? 1u : (uint64_t)-1;
    return CYX_OK;
}

/* The details of a change, which put_value overwrites before they are logged. */
static int keep_change(cyx_writer *writer, const MDB_val *key, const cyx_packed *record, const cyx_packed *before)
{
    size_t size = cyx_change_size(key, record);
    if (size > writer->change_size) {
        uint8_t *change = realloc(writer->change, size + 512);
        if (!change)
            return cyx_fail(CYX_ENOMEM, "out of memory");
        writer->change = change;
        writer->change_size = size + 512;
    }
    cyx_change_pack(key, record, before, writer->change);
    return CYX_OK;
}

static int log_change(cyx_writer *writer, const MDB_val *key, const cyx_packed *record)
{
    uint8_t raw_seq[8];
    cyx_put64_be(raw_seq, record->seq);
    MDB_val k = {sizeof raw_seq, raw_seq}, v = {cyx_change_size(key, record), writer->change};
    int rc = mdb_cursor_put(writer->changes, &k, &v, MDB_APPEND);
    if (rc)
        return cyx_writer_fail_write(writer, rc == MDB_KEYEXIST ? MDB_CORRUPTED : rc, "writing the change log");
    return CYX_OK;
}

static int64_t now_us(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static int check(const cyx_put_record *record)
{
    if (record->state < CYX_RESERVED || record->state > CYX_DELETED)
        return cyx_fail(CYX_EINVAL, "a record has no state %u", record->state);
    if (record->acl_len > CYX_ACL_MAX)
        return cyx_fail(CYX_EINVAL, "ACL has %zu bytes, at most %zu are possible", record->acl_len, CYX_ACL_MAX);
    if (record->acl_len && (memchr(record->acl, 0, record->acl_len) || memchr(record->acl, '\r', record->acl_len) ||
                            memchr(record->acl, '\n', record->acl_len)))
        return cyx_fail(CYX_EINVAL, "ACL has a NUL, CR or LF byte");
    if (record->by_len > CYX_TEXT_MAX)
        return cyx_fail(CYX_EINVAL, "the writer's name has %zu bytes, at most %d are possible", record->by_len,
                        CYX_TEXT_MAX);
    if (record->changed_at < 0)
        return cyx_fail(CYX_EINVAL, "a record can not be from before 1970");
    return CYX_OK;
}

static int put_value(cyx_writer *writer, const MDB_val *key, const cyx_packed *record)
{
    size_t size = cyx_record_size(record);
    if (size > writer->scratch_size) {
        uint8_t *scratch = realloc(writer->scratch, size + 1024);
        if (!scratch)
            return cyx_fail(CYX_ENOMEM, "out of memory");
        writer->scratch = scratch;
        writer->scratch_size = size + 1024;
    }
    cyx_record_pack(record, key, writer->scratch);
    MDB_val k = *key, v = {size, writer->scratch};
    int rc = mdb_cursor_put(writer->mailboxes, &k, &v, 0);
    writer->pages += PAGES_PER_PUT + size / writer->env->page_size;
    return rc ? cyx_writer_fail_write(writer, rc, "writing a record") : CYX_OK;
}

static int put(cyx_writer *writer, const cyx_put_record *record, uint64_t *seq_r, int64_t *at_r)
{
    uint8_t raw_key[CYX_KEY_MAX];
    MDB_val key = {0, raw_key};
    cyx_packed old, new = {.seq = record->seq ? record->seq : writer->seq + 1,
                           .changed_at = record->changed_at ? record->changed_at : now_us(),
                           .flags = record->flags,
                           .state = record->state,
                           .acl = (const uint8_t *)record->acl,
                           .acl_len = record->acl_len,
                           .by = (const uint8_t *)record->by,
                           .by_len = record->by_len};
    MDB_dbi meta = writer->env->meta;
    size_t servers = writer->servers.count;
    int rc = check(record);
    if (rc || (rc = cyx_key_from_name(record->name, record->name_len, raw_key, &key.mv_size)) ||
        (rc = cyx_intern_id(&writer->servers, writer->txn, meta, record->server, record->server_len, &new.server)) ||
        (rc = cyx_intern_id(&writer->partitions, writer->txn, meta, record->partition, record->partition_len,
                            &new.partition)) ||
        (rc = cyx_writer_fit_servers(writer, writer->servers.count)))
        return rc;
    if (new.server == servers)
        writer->touched[new.server] = true; /* every server has its count, be it 0 */
    CYX_FAILPOINT("put-start");
    int known = find(writer, &key, &old);
    if (known < 0)
        return known;
    key.mv_data = raw_key;
    if ((rc = keep_change(writer, &key, &new, known == CYX_OK ? &old : NULL)))
        return rc;
    bool was_there = known == CYX_OK && old.state != CYX_DELETED;
    /* the entry beside the record moves when its server, its death or its time of death changes */
    bool moves = known == CYX_ABSENT || (old.state == CYX_DELETED) != (new.state == CYX_DELETED) ||
                 (new.state == CYX_DELETED ? old.changed_at != new.changed_at : old.server != new.server);
    if (known == CYX_OK && moves && (rc = mark(writer, &key, &old, false)))
        return rc;
    CYX_FAILPOINT("put-unmarked");
    if (known == CYX_OK && !moves) {
        --*count_of(writer, old.state);
        ++*count_of(writer, new.state);
    }
    if ((rc = put_value(writer, &key, &new)))
        return rc;
    CYX_FAILPOINT("put-record");
    if (moves && (rc = mark(writer, &key, &new, true)))
        return rc;
    CYX_FAILPOINT("put-marked");
    /* a change that was made elsewhere and comes late, in a copy of the whole store, is not news */
    if (new.seq > writer->seq) {
        if ((rc = log_change(writer, &key, &new)))
            return rc;
        CYX_FAILPOINT("put-logged");
        writer->seq = new.seq;
    } else {
        writer->unlogged_now++;
    }
    if (writer->hot && (rc = cyx_hot_note(&writer->hot_changes, &key, was_there, &new)))
        return rc;
    *seq_r = new.seq;
    *at_r = new.changed_at;
    return CYX_OK;
}

int cyx_writer_put(cyx_writer *writer, const cyx_put_record *record, uint64_t *seq_r, int64_t *at_r)
{
    if (!cyx_writer_in_transaction(writer))
        return cyx_writer_no_transaction();
    int rc = put(writer, record, seq_r, at_r);
    if (rc && rc != CYX_EINVAL) /* what is refused has changed nothing yet */
        writer->failed = true;
    return rc;
}

/* Sort by key bytes; equal names stay in the order given. */
typedef struct sorted {
    uint64_t head; /* first bytes of the key: decides most comparisons without another cache line */
    const cyx_put_record *record;
} sorted;

static int by_key(const void *left, const void *right)
{
    const sorted *a = left, *b = right;
    if (a->head != b->head)
        return a->head < b->head ? -1 : 1;
    uint8_t keys[2][CYX_KEY_MAX];
    size_t lens[2];
    if (cyx_key_from_name(a->record->name, a->record->name_len, keys[0], &lens[0]) ||
        cyx_key_from_name(b->record->name, b->record->name_len, keys[1], &lens[1]))
        return 0; /* refused by put() */
    int order = memcmp(keys[0], keys[1], lens[0] < lens[1] ? lens[0] : lens[1]);
    if (order == 0 && lens[0] != lens[1])
        order = lens[0] < lens[1] ? -1 : 1;
    return order ? order : a->record < b->record ? -1 : 1;
}

int cyx_writer_put_many(cyx_writer *writer, const cyx_put_record *records, size_t count)
{
    if (!cyx_writer_in_transaction(writer))
        return cyx_writer_no_transaction();
    if (count == 0)
        return CYX_OK;
    if (count > SIZE_MAX / sizeof(sorted))
        return cyx_fail(CYX_EINVAL, "too many records");
    sorted *order = malloc(count * sizeof *order);
    if (!order)
        return cyx_fail(CYX_ENOMEM, "out of memory");
    int rc = CYX_OK;
    for (size_t i = 0; i < count && rc == CYX_OK; i++) {
        uint8_t key[CYX_KEY_MAX + 8] = {0};
        size_t len;
        rc = cyx_key_from_name(records[i].name, records[i].name_len, key, &len);
        memset(key + (rc ? 0 : len), 0, 8);
        order[i] = (sorted){cyx_get64_be(key + 1), &records[i]};
    }
    if (rc == CYX_OK) {
        qsort(order, count, sizeof *order, by_key);
        uint64_t seq;
        int64_t at;
        for (size_t i = 0; i < count && rc == CYX_OK; i++)
            rc = put(writer, order[i].record, &seq, &at);
    }
    free(order);
    if (rc)
        writer->failed = true;
    return rc;
}

int cyx_writer_purge(cyx_writer *writer, int64_t before, uint64_t limit, uint64_t *purged_r)
{
    MDB_val marker, value;
    int rc = 0, code = CYX_OK;
    *purged_r = 0;
    if (!cyx_writer_in_transaction(writer))
        return cyx_writer_no_transaction();
    while (*purged_r < limit && (rc = mdb_cursor_get(writer->tombstones, &marker, &value, MDB_FIRST)) == 0) {
        cyx_packed record;
        if (marker.mv_size < 8 + 2 || (int64_t)cyx_get64_be(marker.mv_data) >= before)
            break;
        MDB_val key = {marker.mv_size - 8, (uint8_t *)marker.mv_data + 8};
        code = find(writer, &key, &record);
        if (code || record.state != CYX_DELETED) {
            code = code < 0 ? code : cyx_fail(CYX_ECORRUPT, "tombstones names a record that is none");
            break;
        }
        if ((rc = mdb_cursor_del(writer->mailboxes, 0)) || (rc = mdb_cursor_del(writer->tombstones, 0)))
            break;
        CYX_FAILPOINT("purge-one");
        writer->pages += PAGES_PER_PUT;
        writer->counts.tombstones--;
        ++*purged_r;
    }
    if (code == CYX_OK && rc && rc != MDB_NOTFOUND)
        code = cyx_writer_fail_write(writer, rc, "purging tombstones");
    if (code)
        writer->failed = true;
    return code;
}
