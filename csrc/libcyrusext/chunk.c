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

int cyx_reader_chunk(cyx_reader *reader, const cyx_range *range, cyx_chunk *chunk)
{
    cyx_scan scan;
    cyx_packed record;
    cyx_location location;
    MDB_val key;
    chunk->count = chunk->used = 0;
    chunk->done = true;
    int rc = cyx_reader_begin(reader);
    if (rc)
        return rc;
    rc = cyx_scan_open(&scan, reader->env, reader->txn, range);
    while (rc == CYX_OK && (rc = cyx_scan_next(&scan, &key, &record)) == CYX_OK) {
        if (chunk->count >= range->limit || chunk->used >= CHUNK_BYTES) {
            chunk->done = false;
            break;
        }
        if ((rc = cyx_reader_location(reader, &record, &location)) == CYX_OK)
            rc = cyx_chunk_add(chunk, &key, &record, &location);
    }
    cyx_scan_close(&scan);
    cyx_reader_end(reader);
    return rc == CYX_ABSENT ? CYX_OK : rc;
}
