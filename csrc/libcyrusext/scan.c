/* scan.c - records in order, one after the other: within a transaction, or over several calls on one snapshot. */
#include <stdlib.h>

#include "internal.h"

#define COMMITS_HELD 256u /* a listing lets go of its snapshot when there were so many since */

static bool starts_with(const MDB_val *key, const uint8_t *prefix, size_t len)
{
    return key->mv_size >= len && memcmp(key->mv_data, prefix, len) == 0;
}

static void make_span(cyx_span *s, const uint8_t *tag, size_t tag_len, const uint8_t *prefix, size_t prefix_len,
                      const uint8_t *after, size_t after_len)
{
    memcpy(s->prefix, tag, tag_len);
    memcpy(s->prefix + tag_len, prefix, prefix_len);
    s->prefix_len = tag_len + prefix_len;
    size_t common = after_len < prefix_len ? after_len : prefix_len;
    int order = after_len ? memcmp(after, prefix, common) : -1;
    s->behind = order > 0 || (order == 0 && after_len >= prefix_len);
    memcpy(s->start, tag, tag_len);
    memcpy(s->start + tag_len, s->behind ? after : prefix, s->behind ? after_len : prefix_len);
    s->start_len = tag_len + (s->behind ? after_len : prefix_len);
}

int cyx_scan_open(cyx_scan *scan, cyx_env *env, MDB_txn *txn, const cyx_range *range)
{
    uint8_t prefixes[2][CYX_KEY_MAX], after[CYX_KEY_MAX], tag[2] = {0, 0};
    size_t prefix_len = 0, after_len = 0;
    int rc;

    memset(scan, 0, offsetof(cyx_scan, spans));
    scan->env = env;
    scan->txn = txn;
    scan->tombstones = range->tombstones;
    if (range->after_len && (rc = cyx_key_from_name(range->after, range->after_len, after, &after_len)) != CYX_OK)
        return rc;
    if (range->server) {
        rc = cyx_intern_find(txn, env->meta, CYX_TAG_SERVER, range->server, &scan->server);
        if (rc)
            return rc == CYX_ABSENT ? CYX_OK : rc; /* a server nobody is on */
        tag[0] = (uint8_t)(scan->server >> 8), tag[1] = (uint8_t)scan->server;
        scan->tag_len = 2;
    }
    scan->span_count = cyx_key_prefixes(range->prefix, range->prefix_len, prefixes, &prefix_len);
    for (int i = 0; i < scan->span_count; i++)
        make_span(&scan->spans[i], tag, scan->tag_len, prefixes[i], prefix_len, after, after_len);
    rc = mdb_cursor_open(txn, range->server ? env->by_server : env->mailboxes, &scan->cursor);
    return rc ? cyx_fail_mdb(rc, "walking the store") : CYX_OK;
}

void cyx_scan_close(cyx_scan *scan)
{
    if (scan->cursor)
        mdb_cursor_close(scan->cursor);
    scan->cursor = NULL;
}

static int place(cyx_scan *scan, const cyx_span *s, MDB_val *key, MDB_val *value)
{
    key->mv_size = s->start_len;
    key->mv_data = (void *)(uintptr_t)s->start;
    int rc = mdb_cursor_get(scan->cursor, key, value, MDB_SET_RANGE);
    if (!rc && s->behind && key->mv_size == s->start_len && memcmp(key->mv_data, s->start, s->start_len) == 0)
        rc = mdb_cursor_get(scan->cursor, key, value, MDB_NEXT);
    return rc;
}

static int unpack(cyx_scan *scan, MDB_val *key, MDB_val *value, cyx_packed *record_r)
{
    if (scan->tag_len) {
        key->mv_data = (uint8_t *)key->mv_data + scan->tag_len;
        key->mv_size -= scan->tag_len;
        int rc = mdb_get(scan->txn, scan->env->mailboxes, key, value);
        if (rc)
            return rc == MDB_NOTFOUND ? cyx_fail(CYX_ECORRUPT, "by_server names a mailbox that is not there")
                                      : cyx_fail_mdb(rc, "walking the store");
    }
    int rc = cyx_record_unpack(key, value, record_r);
    if (rc == CYX_OK && scan->tag_len && (record_r->server != scan->server || record_r->state == CYX_DELETED))
        rc = cyx_fail(CYX_ECORRUPT, "by_server names a mailbox that is elsewhere");
    return rc;
}

int cyx_scan_next(cyx_scan *scan, MDB_val *key_r, cyx_packed *record_r)
{
    while (scan->cursor && scan->span_at < scan->span_count) {
        const cyx_span *s = &scan->spans[scan->span_at];
        MDB_val value;
        int rc = scan->placed ? mdb_cursor_get(scan->cursor, key_r, &value, MDB_NEXT) : place(scan, s, key_r, &value);
        if (rc && rc != MDB_NOTFOUND)
            return cyx_fail_mdb(rc, "walking the store");
        scan->placed = !rc && starts_with(key_r, s->prefix, s->prefix_len);
        if (!scan->placed) {
            scan->span_at++;
            continue;
        }
        if ((rc = unpack(scan, key_r, &value, record_r)) != CYX_OK)
            return rc;
        if (record_r->state != CYX_DELETED || scan->tombstones)
            return CYX_OK;
    }
    return CYX_ABSENT;
}

struct cyx_listing {
    cyx_env *env;
    MDB_txn *txn;
    cyx_scan scan; /* has a cursor while a snapshot is held */
    cyx_reader *reader; /* between resume and pause */
    char *server;
    size_t snapshot;
    unsigned fork_generation;
    size_t name_len; /* of the last one given; 0 before the first */
    uint8_t name[CYX_MAX_NAME];
};

int cyx_listing_open(cyx_reader *reader, const char *server, cyx_listing **listing_r)
{
    cyx_listing *listing = calloc(1, sizeof *listing);
    *listing_r = NULL;
    if (!listing || (server && !(listing->server = strdup(server)))) {
        free(listing);
        return cyx_fail(CYX_ENOMEM, "out of memory");
    }
    int rc = cyx_reader_begin(reader); /* opens what has to be opened */
    if (rc == CYX_OK) {
        listing->env = cyx_env_retain(reader->env);
        listing->fork_generation = cyx_fork_generation();
        cyx_reader_end(reader);
        *listing_r = listing;
        return CYX_OK;
    }
    free(listing->server);
    free(listing);
    return rc;
}

static int take_snapshot(cyx_listing *listing)
{
    cyx_range range = {.server = listing->server, .after = (char *)listing->name, .after_len = listing->name_len};
    int rc = listing->txn ? mdb_txn_renew(listing->txn)
                          : mdb_txn_begin(listing->env->mdb, NULL, MDB_RDONLY, &listing->txn);
    if (rc)
        return cyx_fail_mdb(rc, "beginning to read the store");
    listing->snapshot = mdb_txn_id(listing->txn);
    rc = cyx_scan_open(&listing->scan, listing->env, listing->txn, &range);
    if (rc || !listing->scan.cursor) {
        cyx_scan_close(&listing->scan);
        mdb_txn_reset(listing->txn);
    }
    return rc;
}

int cyx_listing_resume(cyx_listing *listing, cyx_reader *reader)
{
    int rc = cyx_reader_begin(reader); /* for its texts, which are never taken back; the records come from our own transaction */
    if (rc)
        return rc;
    listing->reader = reader;
    if (listing->fork_generation != cyx_fork_generation() || listing->env != reader->env)
        rc = cyx_fail(CYX_EUNAVAIL, "the store was replaced");
    else if (!listing->scan.cursor)
        rc = take_snapshot(listing);
    if (rc)
        cyx_listing_pause(listing);
    return rc;
}

void cyx_listing_pause(cyx_listing *listing)
{
    MDB_envinfo info;
    if (listing->scan.cursor &&
        (mdb_env_info(listing->env->mdb, &info) || info.me_last_txnid - listing->snapshot > COMMITS_HELD))
        cyx_listing_let_go(listing);
    cyx_reader_end(listing->reader);
    listing->reader = NULL;
}

int cyx_listing_next(cyx_listing *listing, cyx_entry *entry_r)
{
    MDB_val key;
    cyx_packed record;
    int rc = cyx_scan_next(&listing->scan, &key, &record);
    if (rc || (rc = cyx_name_from_key(key.mv_data, key.mv_size, listing->name, &listing->name_len)) != CYX_OK)
        return rc;
    entry_r->name = (char *)listing->name;
    entry_r->name_len = listing->name_len;
    entry_r->acl = (const char *)record.acl;
    entry_r->acl_len = record.acl_len;
    return cyx_location_in(listing->reader, listing->txn, &record, &entry_r->location);
}

void cyx_listing_let_go(cyx_listing *listing)
{
    if (!listing->scan.cursor)
        return;
    cyx_scan_close(&listing->scan);
    mdb_txn_reset(listing->txn);
}

void cyx_listing_close(cyx_listing **listing_ref)
{
    cyx_listing *listing = *listing_ref;
    if (!listing)
        return;
    if (listing->fork_generation == cyx_fork_generation()) {
        cyx_scan_close(&listing->scan);
        if (listing->txn)
            mdb_txn_abort(listing->txn);
        cyx_env_release(listing->env);
    }
    free(listing->server);
    free(listing);
    *listing_ref = NULL;
}
