/* rekey.c - from format 1 to 2: a `^`, the dot of a name, becomes a dot in the keys, as in Cyrus' own database (key.c).
 *
 * A key keeps its length, so everything that holds one is copied with other bytes in it and another checksum.  Readers
 * of format 1 would not find these names any more: the heartbeat's magic has changed with the format, so that they
 * know nothing of a miss (heartbeat.c).
 */
#include <stdlib.h>

#include "changes.h"
#include "writer_state.h"

typedef struct entry {
    size_t key_len, value_len;
    uint8_t *bytes; /* key, value */
} entry;

typedef struct entries {
    entry *items;
    size_t count, capacity;
} entries;

static void free_entries(entries *all)
{
    for (size_t i = 0; i < all->count; i++)
        free(all->items[i].bytes);
    free(all->items);
}

static int remember(entries *all, const MDB_val *key, const MDB_val *value)
{
    if (all->count == all->capacity) {
        size_t capacity = all->capacity ? 2 * all->capacity : 256;
        entry *items = realloc(all->items, capacity * sizeof *items);
        if (!items)
            return cyx_fail(CYX_ENOMEM, "out of memory");
        all->items = items;
        all->capacity = capacity;
    }
    uint8_t *bytes = malloc(key->mv_size + value->mv_size + 1);
    if (!bytes)
        return cyx_fail(CYX_ENOMEM, "out of memory");
    memcpy(bytes, key->mv_data, key->mv_size);
    if (value->mv_size)
        memcpy(bytes + key->mv_size, value->mv_data, value->mv_size);
    all->items[all->count++] = (entry){key->mv_size, value->mv_size, bytes};
    return CYX_OK;
}

/* The `^` of a mailbox' key, but for those of its domain. */
static uint8_t *first_dot(uint8_t *key, size_t len)
{
    uint8_t *domain_end = memchr(key, CYX_KEY_DOMAIN, len);
    uint8_t *local = domain_end ? domain_end : key;
    return memchr(local, '^', len - (size_t)(local - key));
}

static void translate(uint8_t *key, size_t len)
{
    for (uint8_t *dot; (dot = first_dot(key, len)) != NULL;)
        *dot = '.';
}

/* What a database holds besides the key of a mailbox, which it must not lose. */
typedef struct kind {
    MDB_dbi dbi;
    size_t tag;    /* bytes before the key */
    bool in_value; /* the change log: the mailbox is named in the value */
    bool record;
} kind;

static void where(const kind *k, MDB_val *key, MDB_val *value, uint8_t **name_r, size_t *len_r)
{
    if (k->in_value) {
        *name_r = (uint8_t *)value->mv_data + 4;
        const uint8_t *end = value->mv_size > 4 ? memchr(*name_r, 0, value->mv_size - 4) : NULL;
        *len_r = value->mv_size <= 4 ? 0 : end ? (size_t)(end - *name_r) : value->mv_size - 4;
    } else {
        *name_r = (uint8_t *)key->mv_data + k->tag;
        *len_r = key->mv_size > k->tag ? key->mv_size - k->tag : 0;
    }
}

static int collect(MDB_txn *txn, const kind *k, entries *all)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    uint8_t *name;
    size_t len;
    int code = CYX_OK, rc = mdb_cursor_open(txn, k->dbi, &cursor);
    if (rc)
        return cyx_fail_mdb(rc, "upgrading the store");
    while (code == CYX_OK && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        where(k, &key, &value, &name, &len);
        if (len && first_dot(name, len))
            code = remember(all, &key, &value);
    }
    mdb_cursor_close(cursor);
    return code == CYX_OK && rc != MDB_NOTFOUND ? cyx_fail_mdb(rc, "upgrading the store") : code;
}

/* What is damaged is left as it is: its checksum must not become right. */
static bool is_sound(const kind *k, const MDB_val *key, const MDB_val *value)
{
    cyx_packed record;
    cyx_change logged;
    return !(k->record && cyx_record_unpack(key, value, &record) != CYX_OK) &&
           !(k->in_value && cyx_change_unpack(key, value, &logged) != CYX_OK);
}

static void change(const kind *k, MDB_val *key, MDB_val *value)
{
    uint8_t *name;
    size_t len;
    where(k, key, value, &name, &len);
    translate(name, len);
    if (k->record)
        cyx_record_seal(key, value->mv_data, value->mv_size);
    if (k->in_value)
        cyx_change_seal(cyx_get64_be(key->mv_data), value->mv_data, value->mv_size);
}

static int rekey(cyx_writer *writer, const kind *k)
{
    entries all = {0};
    int code = collect(writer->txn, k, &all), rc = 0;
    for (size_t i = 0; i < all.count && code == CYX_OK && !rc; i++) {
        entry *e = &all.items[i];
        MDB_val key = {e->key_len, e->bytes}, value = {e->value_len, e->bytes + e->key_len};
        if (!is_sound(k, &key, &value))
            continue;
        if (!k->in_value)
            rc = mdb_del(writer->txn, k->dbi, &key, NULL);
        change(k, &key, &value);
        if (!rc)
            rc = mdb_put(writer->txn, k->dbi, &key, &value, 0);
        writer->pages += 4 + e->value_len / writer->env->page_size;
    }
    free_entries(&all);
    return code == CYX_OK && rc ? cyx_writer_fail_write(writer, rc, "upgrading the store") : code;
}

int cyx_rekey(cyx_writer *writer)
{
    const cyx_env *env = writer->env;
    const kind kinds[] = {
        {.dbi = env->mailboxes, .record = true},
        {.dbi = env->by_server, .tag = 2},
        {.dbi = env->tombstones, .tag = 8},
        {.dbi = env->changes, .in_value = true},
    };
    int rc = CYX_OK;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && rc == CYX_OK; i++) {
        rc = rekey(writer, &kinds[i]);
        if (i == 0)
            CYX_FAILPOINT("upgrade-rekeyed"); /* the records are, what points at them is not */
    }
    return rc;
}
