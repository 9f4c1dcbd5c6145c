/* chunk.c - a bounded piece of an ordered walk, copied out in one short read transaction. */
#include <stdlib.h>

#include "internal.h"

#define CHUNK_BYTES ((size_t)4 << 20) /* a chunk ends when it holds this much, whatever its limit */

void cyx_chunk_free(cyx_chunk *chunk)
{
    free(chunk->items);
    free(chunk->bytes);
    memset(chunk, 0, sizeof *chunk);
}

static size_t append(cyx_chunk *chunk, const void *data, size_t len)
{
    size_t at = chunk->used;
    if (len)
        memcpy(chunk->bytes + at, data, len);
    chunk->used += len;
    return at;
}

int cyx_chunk_add(cyx_chunk *chunk, const MDB_val *key, const cyx_packed *record, const cyx_location *location)
{
    size_t needed = CYX_KEY_MAX + record->acl_len + record->by_len; /* bounded by LMDB's sizes: no overflow */
    if (chunk->count == chunk->capacity) {
        size_t capacity = chunk->capacity ? 2 * chunk->capacity : 16;
        cyx_chunk_item *items = realloc(chunk->items, capacity * sizeof *items);
        if (!items)
            return cyx_fail(CYX_ENOMEM, "out of memory");
        chunk->items = items;
        chunk->capacity = capacity;
    }
    if (chunk->size - chunk->used < needed) {
        size_t size = 2 * (chunk->used + needed) + 4096;
        uint8_t *bytes = realloc(chunk->bytes, size);
        if (!bytes)
            return cyx_fail(CYX_ENOMEM, "out of memory");
        chunk->bytes = bytes;
        chunk->size = size;
    }
    cyx_chunk_item *item = &chunk->items[chunk->count];
    item->location = *location;
    item->name_at = chunk->used;
    int rc = cyx_name_from_key(key->mv_data, key->mv_size, chunk->bytes + chunk->used, &item->name_len);
    if (rc)
        return rc;
    chunk->used += item->name_len;
    item->acl_len = record->acl_len;
    item->acl_at = append(chunk, record->acl, record->acl_len);
    item->by_len = record->by_len;
    item->by_at = append(chunk, record->by, record->by_len);
    chunk->count++;
    return CYX_OK;
}

static bool starts_with(const MDB_val *key, const uint8_t *prefix, size_t len)
{
    return key->mv_size >= len && memcmp(key->mv_data, prefix, len) == 0;
}

/* One range of keys: from `start` (behind it, if `behind`) as long as keys begin with `prefix`. */
typedef struct span {
    uint8_t prefix[2 + CYX_KEY_MAX];
    size_t prefix_len;
    uint8_t start[2 + CYX_KEY_MAX];
    size_t start_len;
    bool behind;
} span;

static int unpack(cyx_reader *reader, size_t skip, uint32_t server, MDB_val *key, MDB_val *value, cyx_packed *record_r)
{
    if (skip) {
        key->mv_data = (uint8_t *)key->mv_data + skip;
        key->mv_size -= skip;
        int rc = mdb_get(reader->txn, reader->env->mailboxes, key, value);
        if (rc)
            return rc == MDB_NOTFOUND ? cyx_fail(CYX_ECORRUPT, "by_server names a mailbox that is not there")
                                      : cyx_fail_mdb(rc, "walking the store");
    }
    int rc = cyx_record_unpack(key, value, record_r);
    if (rc == CYX_OK && skip && (record_r->server != server || record_r->state == CYX_DELETED))
        rc = cyx_fail(CYX_ECORRUPT, "by_server names a mailbox that is elsewhere");
    return rc;
}

static int copy_span(cyx_reader *reader, MDB_cursor *cursor, const span *s, size_t skip, uint32_t server,
                     const cyx_range *range, cyx_chunk *chunk)
{
    MDB_val key = {s->start_len, (void *)(uintptr_t)s->start}, value;
    int rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    if (!rc && s->behind && key.mv_size == s->start_len && memcmp(key.mv_data, s->start, s->start_len) == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    for (; !rc && starts_with(&key, s->prefix, s->prefix_len); rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        cyx_packed record;
        cyx_location location;
        if (chunk->count >= range->limit || chunk->used >= CHUNK_BYTES) {
            chunk->done = false;
            return CYX_OK;
        }
        int code = unpack(reader, skip, server, &key, &value, &record);
        if (code)
            return code;
        if (record.state == CYX_DELETED && !range->tombstones)
            continue;
        if ((code = cyx_reader_location(reader, &record, &location)) ||
            (code = cyx_chunk_add(chunk, &key, &record, &location)))
            return code;
    }
    return rc && rc != MDB_NOTFOUND ? cyx_fail_mdb(rc, "walking the store") : CYX_OK;
}

static void make_span(span *s, const uint8_t *tag, size_t tag_len, const uint8_t *prefix, size_t prefix_len,
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

int cyx_reader_chunk(cyx_reader *reader, const cyx_range *range, cyx_chunk *chunk)
{
    uint8_t prefixes[2][CYX_KEY_MAX], after[CYX_KEY_MAX], tag[2] = {0, 0};
    size_t prefix_len = 0, after_len = 0;
    MDB_cursor *cursor = NULL;
    uint32_t server = 0;

    chunk->count = chunk->used = 0;
    chunk->done = true;
    if (range->after_len) {
        int rc = cyx_key_from_name(range->after, range->after_len, after, &after_len);
        if (rc)
            return rc;
    }
    int spans = cyx_key_prefixes(range->prefix, range->prefix_len, prefixes, &prefix_len);
    int rc = cyx_reader_begin(reader);
    if (rc)
        return rc;
    if (range->server) {
        rc = cyx_intern_find(reader->txn, reader->env->meta, CYX_TAG_SERVER, range->server, &server);
        if (rc == CYX_ABSENT) {
            rc = CYX_OK;
            goto done; /* a server nobody is on */
        }
        if (rc)
            goto done;
        tag[0] = (uint8_t)(server >> 8), tag[1] = (uint8_t)server;
    }
    size_t tag_len = range->server ? 2 : 0;
    int mdb = mdb_cursor_open(reader->txn, range->server ? reader->env->by_server : reader->env->mailboxes, &cursor);
    if (mdb) {
        rc = cyx_fail_mdb(mdb, "walking the store");
        goto done;
    }
    for (int i = 0; i < spans && rc == CYX_OK && chunk->done; i++) {
        span s;
        make_span(&s, tag, tag_len, prefixes[i], prefix_len, after, after_len);
        rc = copy_span(reader, cursor, &s, tag_len, server, range, chunk);
    }
done:
    if (cursor)
        mdb_cursor_close(cursor);
    cyx_reader_end(reader);
    return rc;
}
