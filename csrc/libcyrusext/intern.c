/* intern.c - servers and partitions by number.
 *
 * meta: tag, 4 bytes big-endian -> text.  A writer finds numbers through a hash of all texts; a reader loads the text
 * of a number when it first meets it.
 */
#include <stdlib.h>

#include "internal.h"

static void tagged_key(char tag, uint32_t id, uint8_t key_r[5])
{
    key_r[0] = (uint8_t)tag;
    for (int i = 0; i < 4; i++)
        key_r[1 + i] = (uint8_t)(id >> (24 - 8 * i));
}

void cyx_intern_init(cyx_intern *table, char tag)
{
    memset(table, 0, sizeof *table);
    table->tag = tag;
    table->limit = tag == CYX_TAG_SERVER ? CYX_SERVERS_MAX : CYX_PARTITIONS_MAX;
}

void cyx_intern_free(cyx_intern *table)
{
    for (size_t i = 0; i < table->capacity; i++)
        free(table->texts[i]);
    free(table->texts);
    free(table->slots);
    cyx_intern_init(table, table->tag);
}

static int grow(cyx_intern *table, size_t id)
{
    if (id < table->capacity)
        return CYX_OK;
    size_t capacity = table->capacity ? table->capacity : 16;
    while (capacity <= id)
        capacity *= 2;
    char **texts = realloc(table->texts, capacity * sizeof *texts);
    if (!texts)
        return cyx_fail(CYX_ENOMEM, "out of memory");
    memset(texts + table->capacity, 0, (capacity - table->capacity) * sizeof *texts);
    table->texts = texts;
    table->capacity = capacity;
    return CYX_OK;
}

static int keep(cyx_intern *table, uint32_t id, const void *text, size_t len)
{
    int rc = grow(table, id);
    if (rc)
        return rc;
    char *copy = malloc(len + 1);
    if (!copy)
        return cyx_fail(CYX_ENOMEM, "out of memory");
    memcpy(copy, text, len);
    copy[len] = 0;
    table->texts[id] = copy;
    return CYX_OK;
}

int cyx_intern_text(cyx_intern *table, MDB_txn *txn, MDB_dbi meta, uint32_t id, const char **text_r)
{
    if (id < table->capacity && table->texts[id]) {
        *text_r = table->texts[id];
        return CYX_OK;
    }
    uint8_t key[5];
    const uint8_t *value;
    size_t len;
    tagged_key(table->tag, id, key);
    int rc = id < table->limit ? cyx_meta_get(txn, meta, key, sizeof key, &value, &len) : CYX_ABSENT;
    if (rc == CYX_ABSENT)
        return cyx_fail(CYX_ECORRUPT, "a record names the unknown %s %u",
                        table->tag == CYX_TAG_SERVER ? "server" : "partition", id);
    if (rc)
        return rc;
    rc = keep(table, id, value, len);
    if (rc == CYX_OK)
        *text_r = table->texts[id];
    return rc;
}

static size_t slot_of(const cyx_intern *table, const char *text, size_t len)
{
    size_t mask = table->slot_count - 1;
    size_t at = cyx_crc32c(0x9E3779B9u, text, len) & mask;
    while (table->slots[at]) {
        const char *known = table->texts[table->slots[at] - 1];
        if (strlen(known) == len && memcmp(known, text, len) == 0)
            break;
        at = (at + 1) & mask;
    }
    return at;
}

static int rehash(cyx_intern *table)
{
    size_t slot_count = 64;
    while (slot_count < 2 * (table->count + 1))
        slot_count *= 2;
    uint32_t *slots = calloc(slot_count, sizeof *slots);
    if (!slots)
        return cyx_fail(CYX_ENOMEM, "out of memory");
    free(table->slots);
    table->slots = slots;
    table->slot_count = slot_count;
    for (uint32_t id = 0; id < table->count; id++)
        table->slots[slot_of(table, table->texts[id], strlen(table->texts[id]))] = id + 1;
    return CYX_OK;
}

int cyx_intern_load(cyx_intern *table, MDB_txn *txn, MDB_dbi meta)
{
    int rc = CYX_OK;
    uint8_t key[5];
    cyx_intern_free(table);
    while (table->count < table->limit) {
        const uint8_t *value;
        size_t len;
        tagged_key(table->tag, (uint32_t)table->count, key);
        rc = cyx_meta_get(txn, meta, key, sizeof key, &value, &len);
        if (rc == CYX_ABSENT)
            break;
        if (rc || (rc = keep(table, (uint32_t)table->count, value, len)))
            return rc;
        table->count++;
    }
    table->committed = table->count;
    return rehash(table);
}

void cyx_intern_rollback(cyx_intern *table)
{
    if (table->count == table->committed)
        return;
    while (table->count > table->committed) {
        char **text = &table->texts[--table->count];
        size_t at = slot_of(table, *text, strlen(*text));
        table->slots[at] = 0; /* the youngest entry: nothing was placed behind it */
        free(*text);
        *text = NULL;
    }
}

int cyx_intern_id(cyx_intern *table, MDB_txn *txn, MDB_dbi meta, const char *text, size_t len, uint32_t *id_r)
{
    size_t at = slot_of(table, text, len);
    if (table->slots[at]) {
        *id_r = table->slots[at] - 1;
        return CYX_OK;
    }
    if (len > CYX_TEXT_MAX || memchr(text, 0, len))
        return cyx_fail(CYX_EINVAL, "a server or partition is longer than %d bytes or has a NUL", CYX_TEXT_MAX);
    if (table->count >= table->limit)
        return cyx_fail(CYX_ELIMIT, "the store knows %u different %s, no more are possible", table->limit,
                        table->tag == CYX_TAG_SERVER ? "servers" : "partitions");
    uint32_t id = (uint32_t)table->count;
    uint8_t key[5];
    tagged_key(table->tag, id, key);
    int rc = cyx_meta_put(txn, meta, key, sizeof key, text, len);
    if (rc || (rc = keep(table, id, text, len)))
        return rc;
    table->count++;
    table->slots[at] = id + 1;
    if (2 * (table->count + 1) > table->slot_count)
        rc = rehash(table);
    *id_r = id;
    return rc;
}

int cyx_intern_find(MDB_txn *txn, MDB_dbi meta, char tag, const char *text, uint32_t *id_r)
{
    uint32_t limit = tag == CYX_TAG_SERVER ? CYX_SERVERS_MAX : CYX_PARTITIONS_MAX;
    size_t wanted = strlen(text);
    for (uint32_t id = 0; id < limit; id++) {
        uint8_t key[5];
        const uint8_t *value;
        size_t len;
        tagged_key(tag, id, key);
        int rc = cyx_meta_get(txn, meta, key, sizeof key, &value, &len);
        if (rc)
            return rc;
        if (len == wanted && memcmp(value, text, len) == 0) {
            *id_r = id;
            return CYX_OK;
        }
    }
    return CYX_ABSENT;
}
