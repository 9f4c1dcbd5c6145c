/* salvage.c - read what is left of a damaged store, record by record.
 *
 * Pages are not looked for through the tree, which may be what is damaged: each page of the file is read as a leaf, and
 * what has the checksum of a record is one.  A page whose nodes do not fit it is read as far as single nodes do.
 * Nobody can place a forged record: what others write into the store (ACLs) has no NUL byte, and every record has.
 */
#include <stdlib.h>

#include "salvage.h"

#define RECORD_MAX (CYX_RECORD_HEAD + CYX_ACL_MAX + CYX_TEXT_MAX)
#define TEXT_KEY 5u
#define MENDED_MAX 64u /* texts that are tried to be mended */

typedef struct reading {
    const cyx_image *image;
    cyx_salvage *out;
    cyx_node torn[MENDED_MAX]; /* texts that fail their checksum */
    size_t torn_count;
    bool reached, texts_only;
} reading;

static bool has_checksum(const uint8_t *key, size_t key_len, const uint8_t *value, size_t size)
{
    return size >= 4 && cyx_get32(value) == cyx_crc32c(cyx_crc32c(0, key, key_len), value + 4, size - 4);
}

/* Remember the text of a server or partition; the first one stays.  False when there is no memory. */
static bool keep_text(cyx_salvage *out, const uint8_t *key, const uint8_t *text, size_t len, bool mended)
{
    cyx_salvage_texts *texts = key[0] == CYX_TAG_SERVER ? &out->servers : &out->partitions;
    size_t id = (size_t)key[1] << 24 | (size_t)key[2] << 16 | (size_t)key[3] << 8 | key[4];
    if (id >= texts->count) {
        size_t count = id + 64;
        cyx_salvage_text *items = realloc(texts->items, count * sizeof *items);
        if (!items)
            return false;
        memset(items + texts->count, 0, (count - texts->count) * sizeof *items);
        texts->items = items;
        texts->count = count;
    }
    cyx_salvage_text *item = &texts->items[id];
    if (item->text)
        return true;
    uint8_t *copy = NULL;
    if (mended && !(copy = malloc(len + 1)))
        return false;
    if (copy && len)
        memcpy(copy, text, len);
    *item = (cyx_salvage_text){copy ? copy : text, len, mended};
    return true;
}

static bool is_text_key(const uint8_t *key)
{
    uint32_t id = (uint32_t)key[1] << 24 | (uint32_t)key[2] << 16 | (uint32_t)key[3] << 8 | key[4];
    return (key[0] == CYX_TAG_SERVER && id < CYX_SERVERS_MAX) ||
           (key[0] == CYX_TAG_PARTITION && id < CYX_PARTITIONS_MAX);
}

/* One changed bit can be told from its checksum: no two texts of this length are so alike. */
static bool mend(cyx_salvage *out, const cyx_node *node)
{
    uint8_t raw[TEXT_KEY + 4 + CYX_TEXT_MAX];
    size_t size = TEXT_KEY + node->size;
    memcpy(raw, node->key, TEXT_KEY);
    memcpy(raw + TEXT_KEY, node->value, node->size);
    for (size_t bit = 0; bit < 8 * size; bit++) {
        raw[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (is_text_key(raw) && has_checksum(raw, TEXT_KEY, raw + TEXT_KEY, node->size))
            return keep_text(out, raw, raw + TEXT_KEY + 4, node->size - 4, true);
        raw[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    return true;
}

static bool take_text(reading *r, const cyx_node *node)
{
    if (node->flags || node->size < 4 || node->size > 4 + CYX_TEXT_MAX)
        return true;
    if (is_text_key(node->key) && has_checksum(node->key, TEXT_KEY, node->value, node->size))
        return keep_text(r->out, node->key, node->value + 4, node->size - 4, false);
    if (r->torn_count < MENDED_MAX)
        r->torn[r->torn_count++] = *node;
    return true;
}

static void take_value(reading *r, const cyx_node *node)
{
    const struct {
        const char *name;
        cyx_salvage_text *to;
    } wanted[] = {{"mode", &r->out->mode}, {"followed", &r->out->followed}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!wanted[i].to->text && !node->flags && node->key_len == strlen(wanted[i].name) &&
            memcmp(node->key, wanted[i].name, node->key_len) == 0 &&
            has_checksum(node->key, node->key_len, node->value, node->size))
            *wanted[i].to = (cyx_salvage_text){node->value + 4, node->size - 4, false};
}

static bool take_record(reading *r, const cyx_node *node)
{
    cyx_salvage *out = r->out;
    cyx_packed record;
    MDB_val key = {node->key_len, (void *)(uintptr_t)node->key};
    MDB_val value = {node->size, (void *)(uintptr_t)node->value};
    if (node->size < CYX_RECORD_HEAD || node->size > RECORD_MAX || node->flags & ~CYX_NODE_BIG)
        return true;
    if (node->flags & CYX_NODE_BIG) {
        const uint8_t *big = cyx_page(r->image, node->child);
        if (!big || cyx_big_pages(r->image, node->size) > r->image->pages - node->child)
            return true;
        value.mv_data = (void *)(uintptr_t)(big + CYX_PAGE_HEAD);
    }
    if (cyx_record_unpack(&key, &value, &record)) {
        out->damaged += r->reached;
        return true;
    }
    if (out->count == out->capacity) {
        size_t capacity = out->capacity ? 2 * out->capacity : 1024;
        cyx_salvage_item *items = realloc(out->items, capacity * sizeof *items);
        if (!items)
            return false;
        out->items = items;
        out->capacity = capacity;
    }
    out->items[out->count++] = (cyx_salvage_item){key, value, record.seq, r->reached};
    return true;
}

static bool take_node(reading *r, const cyx_node *node)
{
    if (node->key_len == TEXT_KEY && node->key[0] != 'N')
        return take_text(r, node);
    if (r->texts_only)
        return true;
    if (cyx_key_is_name(node->key, node->key_len))
        return take_record(r, node);
    if (r->reached)
        take_value(r, node);
    return true;
}

static bool read_page(reading *r, const uint8_t *page, uint32_t *marks, uint32_t turn)
{
    const cyx_image *image = r->image;
    unsigned flags = cyx_page_flags(page);
    if (flags == CYX_PAGE_BRANCH || flags == CYX_PAGE_OVERFLOW || flags == CYX_PAGE_META)
        return true; /* one bit makes none of these of a leaf */
    bool whole = flags == CYX_PAGE_LEAF && !cyx_page_problem(image, page, false, marks, turn);
    size_t end = whole ? cyx_page_lower(page) : image->page_size, used = 0;
    for (size_t slot = CYX_PAGE_HEAD; slot + 2 <= end && used <= 2 * image->page_size; slot += 2) {
        cyx_node node;
        size_t offset = cyx_get16(page + slot);
        if (!cyx_page_node(image, page, offset, slot + 2, false, &node))
            continue;
        if (!whole)
            used += cyx_node_room(&node, false); /* where the slots end is not known, nor what follows them */
        if (!take_node(r, &node))
            return false;
    }
    return true;
}

enum { IN_USE, LEFT_OVER, FREE, PASSES };

static bool belongs(const cyx_structure *structure, uint64_t page, int pass)
{
    if (cyx_bit(structure->reached, page))
        return pass == IN_USE;
    return pass == (structure->spare_sound && cyx_bit(structure->spare, page) ? FREE : LEFT_OVER);
}

static int read_all(reading *r, const cyx_structure *structure)
{
    uint32_t turn = 0, *marks = calloc(r->image->page_size / 2, sizeof *marks);
    bool good = marks != NULL;
    for (int pass = 0; pass < PASSES && good; pass++) {
        r->reached = pass == IN_USE;
        r->texts_only = pass == FREE;
        for (uint64_t page = 2; page < r->image->pages && good; page++)
            if (belongs(structure, page, pass))
                good = read_page(r, cyx_page(r->image, page), marks, ++turn);
    }
    for (size_t i = 0; i < r->torn_count && good; i++)
        good = mend(r->out, &r->torn[i]);
    free(marks);
    return good ? CYX_OK : cyx_fail(CYX_ENOMEM, "out of memory");
}

/* By key, the one that counts first. */
static int by_key(const void *left, const void *right)
{
    const cyx_salvage_item *a = left, *b = right;
    size_t shorter = a->key.mv_size < b->key.mv_size ? a->key.mv_size : b->key.mv_size;
    int result = memcmp(a->key.mv_data, b->key.mv_data, shorter);
    if (result || a->key.mv_size != b->key.mv_size)
        return result ? result : a->key.mv_size < b->key.mv_size ? -1 : 1;
    if (a->seq != b->seq)
        return a->seq > b->seq ? -1 : 1;
    return b->reached - a->reached;
}

static bool same_key(const MDB_val *a, const MDB_val *b)
{
    return a->mv_size == b->mv_size && memcmp(a->mv_data, b->mv_data, a->mv_size) == 0;
}

static bool knows(const cyx_salvage_texts *texts, uint32_t id) { return id < texts->count && texts->items[id].text; }

int cyx_salvage_run(const cyx_image *image, const cyx_structure *structure, cyx_salvage *salvage_r)
{
    memset(salvage_r, 0, sizeof *salvage_r);
    salvage_r->image = image;
    reading *r = calloc(1, sizeof *r);
    if (!r)
        return cyx_fail(CYX_ENOMEM, "out of memory");
    r->image = image;
    r->out = salvage_r;
    int rc = read_all(r, structure);
    free(r);
    if (rc || !salvage_r->count)
        return rc;
    cyx_salvage_item *items = salvage_r->items;
    qsort(items, salvage_r->count, sizeof *items, by_key);
    size_t kept = 0, seen = 0;
    for (size_t i = 0; i < salvage_r->count; i++) {
        cyx_packed record;
        if (i && same_key(&items[i].key, &items[seen].key))
            continue;
        seen = i;
        if (cyx_record_unpack(&items[i].key, &items[i].value, &record))
            continue;
        if (!knows(&salvage_r->servers, record.server) || !knows(&salvage_r->partitions, record.partition))
            salvage_r->unknown++;
        else
            items[kept++] = items[i];
    }
    salvage_r->count = kept;
    return CYX_OK;
}

void cyx_salvage_record(const cyx_salvage *salvage, size_t at, cyx_packed *record_r)
{
    (void)!cyx_record_unpack(&salvage->items[at].key, &salvage->items[at].value, record_r);
}

static void free_texts(cyx_salvage_texts *texts)
{
    for (size_t i = 0; i < texts->count; i++)
        if (texts->items[i].mended)
            free((void *)(uintptr_t)texts->items[i].text);
    free(texts->items);
}

void cyx_salvage_free(cyx_salvage *salvage)
{
    free_texts(&salvage->servers);
    free_texts(&salvage->partitions);
    free(salvage->items);
    memset(salvage, 0, sizeof *salvage);
}
