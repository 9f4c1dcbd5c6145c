/* verify.c - each database of the store against the others, in one snapshot.
 *
 * The only reader that holds its transaction for long: a tool for tests and operators, not for daemons.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "changes.h"
#include "writer.h"

typedef struct verifier {
    cyx_reader *reader;
    cyx_finding_cb report;
    void *context;
    uint64_t findings, seq, oldest_change;
    bool gaps; /* the change log may have some: this store is or was a copy of another one */
    cyx_counts counts;
    uint64_t *per_server;
} verifier;

__attribute__((format(printf, 2, 3))) static void found(verifier *v, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    v->findings++;
    if (v->report)
        v->report(v->context, text);
}

static bool has(verifier *v, MDB_dbi dbi, const uint8_t *tag, size_t tag_len, const MDB_val *key)
{
    uint8_t raw[CYX_TAGGED_KEY_MAX];
    memcpy(raw, tag, tag_len);
    memcpy(raw + tag_len, key->mv_data, key->mv_size);
    MDB_val k = {tag_len + key->mv_size, raw}, value;
    return mdb_get(v->reader->txn, dbi, &k, &value) == 0;
}

/* The key in the change log under a sequence; false if there is none or it fails its checksum. */
static bool logged(verifier *v, uint64_t seq, MDB_val *key_r)
{
    uint8_t raw[8];
    cyx_put64_be(raw, seq);
    MDB_val k = {sizeof raw, raw}, value;
    cyx_change change;
    if (mdb_get(v->reader->txn, v->reader->env->changes, &k, &value) ||
        cyx_change_unpack(&k, &value, &change) != CYX_OK)
        return false;
    *key_r = change.key;
    return true;
}

static void check_record(verifier *v, MDB_val *key, const MDB_val *value)
{
    cyx_packed record;
    cyx_location location;
    uint8_t tag[8];
    MDB_val change;
    cyx_env *env = v->reader->env;
    if (cyx_record_unpack(key, value, &record) || cyx_reader_location(v->reader, &record, &location)) {
        found(v, "%s", cyx_detail());
        return;
    }
    uint8_t name[CYX_MAX_NAME];
    size_t len = 0;
    (void)!cyx_name_from_key(key->mv_data, key->mv_size, name, &len);
    if (record.state == CYX_DELETED) {
        cyx_put64_be(tag, (uint64_t)record.changed_at);
        v->counts.tombstones++;
        if (!has(v, env->tombstones, tag, 8, key))
            found(v, "%.*s is missing in tombstones", (int)len, (const char *)name);
    } else {
        tag[0] = (uint8_t)(record.server >> 8), tag[1] = (uint8_t)record.server;
        *(record.state == CYX_ACTIVE ? &v->counts.active : &v->counts.reserved) += 1;
        v->per_server[record.server]++;
        if (!has(v, env->by_server, tag, 2, key))
            found(v, "%.*s is missing in by_server", (int)len, (const char *)name);
    }
    if (record.seq == 0 || record.seq > v->seq)
        found(v, "%.*s has seq %" PRIu64 ", the store %" PRIu64, (int)len, (const char *)name, record.seq, v->seq);
    else if (!v->gaps && v->oldest_change && record.seq >= v->oldest_change &&
             (!logged(v, record.seq, &change) || change.mv_size != key->mv_size ||
              memcmp(change.mv_data, key->mv_data, key->mv_size) != 0))
        found(v, "%.*s is not in the change log under its seq", (int)len, (const char *)name);
}

static void check_change(verifier *v, uint64_t seq)
{
    MDB_val key, value;
    cyx_packed record;
    if (!logged(v, seq, &key)) {
        if (v->gaps)
            return;
        found(v, "change %" PRIu64 " is missing or damaged", seq);
        return;
    }
    int rc = mdb_get(v->reader->txn, v->reader->env->mailboxes, &key, &value);
    if (rc == 0 && cyx_record_unpack(&key, &value, &record) == CYX_OK && record.seq < seq)
        found(v, "change %" PRIu64 " is newer than its record", seq);
}

static void check_counts(verifier *v, const cyx_stat *stat)
{
    MDB_stat live, dead, changes;
    cyx_env *env = v->reader->env;
    if (memcmp(&v->counts, &stat->counts, sizeof v->counts) != 0)
        found(v, "counted %" PRIu64 " active, %" PRIu64 " reserved, %" PRIu64 " tombstones; the store says %" PRIu64
                 ", %" PRIu64 ", %" PRIu64,
              v->counts.active, v->counts.reserved, v->counts.tombstones, stat->counts.active, stat->counts.reserved,
              stat->counts.tombstones);
    if (mdb_stat(v->reader->txn, env->by_server, &live) || mdb_stat(v->reader->txn, env->tombstones, &dead) ||
        mdb_stat(v->reader->txn, env->changes, &changes)) {
        found(v, "the databases can not be examined");
        return;
    }
    if (live.ms_entries != v->counts.active + v->counts.reserved)
        found(v, "by_server has %zu entries too many", live.ms_entries - v->counts.active - v->counts.reserved);
    if (dead.ms_entries != v->counts.tombstones)
        found(v, "tombstones has %zu entries too many", dead.ms_entries - v->counts.tombstones);
    if (changes.ms_entries > CYX_CHANGES_KEPT)
        found(v, "the change log keeps %zu changes", changes.ms_entries);
    if (!v->gaps && v->seq && (!v->oldest_change || changes.ms_entries != v->seq - v->oldest_change + 1))
        found(v, "the change log has gaps: %zu changes from %" PRIu64 " to %" PRIu64, changes.ms_entries,
              v->oldest_change, v->seq);
    for (uint32_t id = 0; id < CYX_SERVERS_MAX; id++) {
        const uint8_t key[3] = {'c', (uint8_t)(id >> 8), (uint8_t)id};
        const uint8_t *value;
        size_t len;
        int rc = cyx_meta_get(v->reader->txn, env->meta, key, sizeof key, &value, &len);
        uint64_t count = rc == CYX_OK && len == 8 ? cyx_get64(value) : 0;
        if (rc < 0 || count != v->per_server[id])
            found(v, "counted %" PRIu64 " on server %u, the store says %" PRIu64, v->per_server[id], id, count);
    }
}

int cyx_verify(cyx_reader *reader, cyx_finding_cb report, void *context, uint64_t *findings_r)
{
    verifier v = {.reader = reader, .report = report, .context = context};
    cyx_stat stat;
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    const uint8_t *text;
    size_t len;
    if (!(v.per_server = calloc(CYX_SERVERS_MAX, sizeof *v.per_server)))
        return cyx_fail(CYX_ENOMEM, "out of memory");
    int rc = cyx_reader_begin(reader);
    if (rc) {
        free(v.per_server);
        return rc;
    }
    rc = cyx_read_stat(reader, &stat);
    v.seq = stat.seq;
    v.oldest_change = stat.oldest_change;
    if (rc == CYX_OK && (rc = cyx_meta_get(reader->txn, reader->env->meta, "followed", 8, &text, &len)) >= 0) {
        v.gaps = rc == CYX_OK;
        rc = CYX_OK;
    }
    int mdb = rc ? 0 : mdb_cursor_open(reader->txn, reader->env->mailboxes, &cursor);
    if (rc == CYX_OK && !mdb) {
        while ((mdb = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
            check_record(&v, &key, &value);
        for (uint64_t seq = v.oldest_change; mdb == MDB_NOTFOUND && seq && seq <= v.seq; seq++)
            check_change(&v, seq);
        if (mdb == MDB_NOTFOUND)
            check_counts(&v, &stat);
    }
    if (cursor)
        mdb_cursor_close(cursor);
    if (rc == CYX_OK && mdb && mdb != MDB_NOTFOUND)
        rc = cyx_fail_mdb(mdb, "walking the store");
    cyx_reader_end(reader);
    free(v.per_server);
    *findings_r = v.findings;
    return rc;
}
