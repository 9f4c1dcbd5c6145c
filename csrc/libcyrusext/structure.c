/* structure.c - walk all pages of a store's file without LMDB, bounds first, contents then.
 *
 * Linear in the file: each page is looked at once.  A page that is reached twice, and all below it, is a finding and not
 * followed, so no damage makes the walk longer than the file.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "changes.h"
#include "structure.h"

#define MAGIC 0xBEEFC0DEu
#define DEPTH_MAX 20u
#define KEY_MAX 511u
#define SPARE_FLAGS 8u /* keys are numbers */

/* Sums over sets, whatever the order: two databases that say the same have the same sums. */
typedef struct sums {
    uint64_t live, dead;
} sums;

typedef struct walk walk;

typedef struct database {
    const char *name;
    const char *(*take)(walk *w, const MDB_val *key, const MDB_val *value);
    cyx_tree tree, counted;
    MDB_val last, floor; /* the key before; what the next one must reach */
    bool numbers;        /* keys are numbers of this machine */
    bool found;
} database;

enum { META, MAILBOXES, BY_SERVER, TOMBSTONES, CHANGES, KNOWN };

struct walk {
    const cyx_image *image;
    cyx_structure *out;
    cyx_finding_cb report;
    void *context;
    uint64_t last_page;
    uint32_t *marks, turn;
    database known[KNOWN], *at;
    database main, spare;
    sums records, indexes;
    uint64_t format, servers, partitions;
    bool doubtful; /* the meta page may be another than that of the last commit */
};

__attribute__((format(printf, 2, 3))) static void found(walk *w, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (w->out->findings++ < CYX_FINDINGS_MAX && w->report)
        w->report(w->context, text);
}

static bool enough(const walk *w) { return w->out->findings >= CYX_FINDINGS_MAX; }

/* Take a run of pages into `bits`; false, with a finding, when one of them is not there or was taken before. */
static bool take_pages(walk *w, uint64_t *bits, uint64_t first, uint64_t count)
{
    if (first < 2 || first > w->last_page || count > w->last_page - first + 1) {
        found(w, "%s: page %" PRIu64 " is not there", w->at->name, first);
        return false;
    }
    for (uint64_t page = first; page < first + count; page++) {
        if (cyx_bit(w->out->reached, page) || cyx_bit(w->out->spare, page)) {
            found(w, "%s: page %" PRIu64 " has two uses", w->at->name, page);
            w->out->spare_sound = w->out->spare_sound && !cyx_bit(w->out->spare, page);
            return false;
        }
        bits[page / 64] |= (uint64_t)1 << page % 64;
    }
    return true;
}

static uint64_t number(const MDB_val *key)
{
    uint64_t value = 0;
    memcpy(&value, key->mv_data, key->mv_size < 8 ? key->mv_size : 8);
    return value;
}

static int order(const database *db, const MDB_val *a, const MDB_val *b)
{
    if (db->numbers)
        return number(a) < number(b) ? -1 : number(a) > number(b);
    size_t shorter = a->mv_size < b->mv_size ? a->mv_size : b->mv_size;
    int result = memcmp(a->mv_data, b->mv_data, shorter);
    return result ? result : a->mv_size < b->mv_size ? -1 : a->mv_size > b->mv_size;
}

/* The bytes of a value, with the pages that a big one has for itself; false with a finding. */
static bool value_of(walk *w, const cyx_node *node, uint64_t page, MDB_val *value_r)
{
    *value_r = (MDB_val){node->size, (void *)(uintptr_t)node->value};
    if (!(node->flags & CYX_NODE_BIG))
        return true;
    const uint8_t *big = cyx_page(w->image, node->child);
    uint64_t needed = cyx_big_pages(w->image, node->size);
    uint64_t run = big && node->child >= 2 && node->child <= w->last_page ? cyx_get32(big + 12) : 0;
    if (!run || cyx_page_flags(big) != CYX_PAGE_OVERFLOW || cyx_get64(big) != node->child || run < needed) {
        found(w, "%s: a value of page %" PRIu64 " does not stand in page %" PRIu64, w->at->name, page, node->child);
        return false;
    }
    if (!take_pages(w, w->out->reached, node->child, run))
        return false;
    w->at->counted.overflow_pages += run;
    value_r->mv_data = (void *)(uintptr_t)(big + CYX_PAGE_HEAD);
    return true;
}

static void visit_leaf(walk *w, const uint8_t *page, uint64_t at, size_t count)
{
    database *db = w->at;
    cyx_node node;
    MDB_val value;
    db->counted.leaf_pages++;
    for (size_t i = 0; i < count && !enough(w); i++) {
        if (!cyx_page_node(w->image, page, cyx_get16(page + CYX_PAGE_HEAD + 2 * i), 0, false, &node))
            return; /* cyx_page_problem was here before */
        MDB_val key = {node.key_len, (void *)(uintptr_t)node.key};
        unsigned allowed = db == &w->main ? CYX_NODE_DATABASE : CYX_NODE_BIG;
        if (node.key_len == 0 || node.key_len > KEY_MAX || (db->numbers && node.key_len != 8) || (node.flags & ~allowed)) {
            found(w, "%s: page %" PRIu64 " has a key that can not be", db->name, at);
            continue;
        }
        if ((db->last.mv_data && order(db, &db->last, &key) >= 0) ||
            (db->floor.mv_data && order(db, &key, &db->floor) < 0))
            found(w, "%s: the keys of page %" PRIu64 " are not in order", db->name, at);
        db->last = key;
        db->floor.mv_data = NULL;
        db->counted.entries++;
        const char *problem = value_of(w, &node, at, &value) && db->take ? db->take(w, &key, &value) : NULL;
        if (problem)
            found(w, "%s: page %" PRIu64 ": %s", db->name, at, problem);
    }
}

static void visit(walk *w, uint64_t at, unsigned level)
{
    database *db = w->at;
    if (enough(w) || !take_pages(w, w->out->reached, at, 1))
        return;
    const uint8_t *page = cyx_page(w->image, at);
    bool branch = level > 1;
    const char *problem =
        cyx_get64(page) != at || cyx_page_flags(page) != (branch ? CYX_PAGE_BRANCH : CYX_PAGE_LEAF)
            ? "is of another kind than its parent says"
            : cyx_page_problem(w->image, page, branch, w->marks, ++w->turn);
    if (problem) {
        found(w, "%s: page %" PRIu64 " %s", db->name, at, problem);
        return;
    }
    size_t count = (cyx_page_lower(page) - CYX_PAGE_HEAD) / 2;
    if (!branch) {
        visit_leaf(w, page, at, count);
        return;
    }
    db->counted.branch_pages++;
    for (size_t i = 0; i < count && !enough(w); i++) {
        cyx_node node;
        if (!cyx_page_node(w->image, page, cyx_get16(page + CYX_PAGE_HEAD + 2 * i), 0, true, &node))
            return;
        MDB_val key = {node.key_len, (void *)(uintptr_t)node.key};
        if (i > 0) { /* the first one's key counts for nothing: LMDB does not look at it */
            if (node.key_len == 0 || node.key_len > KEY_MAX || (db->numbers && node.key_len != 8) ||
                (db->last.mv_data && order(db, &db->last, &key) >= 0))
                found(w, "%s: the keys of page %" PRIu64 " are not in order", db->name, at);
            else
                db->floor = key;
        }
        visit(w, node.child, level - 1);
    }
}

static void walk_tree(walk *w, database *db)
{
    const cyx_tree *tree = &db->tree;
    cyx_tree *counted = &db->counted;
    w->at = db;
    uint64_t before = w->out->findings;
    if (tree->root == CYX_PAGE_NONE ? tree->depth != 0 : tree->depth == 0 || tree->depth > DEPTH_MAX)
        found(w, "%s: it can not be %u pages deep", db->name, tree->depth);
    else if (tree->root != CYX_PAGE_NONE)
        visit(w, tree->root, tree->depth);
    if (w->out->findings == before &&
        (tree->branch_pages != counted->branch_pages || tree->leaf_pages != counted->leaf_pages ||
         tree->overflow_pages != counted->overflow_pages || tree->entries != counted->entries))
        found(w, "%s: it has %" PRIu64 " entries on %" PRIu64 " pages, and should have %" PRIu64 " on %" PRIu64, db->name,
              counted->entries, counted->branch_pages + counted->leaf_pages + counted->overflow_pages, tree->entries,
              tree->branch_pages + tree->leaf_pages + tree->overflow_pages);
}

/* Each key is the transaction that freed the pages of the value: their number, and they, the highest first. */
static const char *take_spare(walk *w, const MDB_val *key, const MDB_val *value)
{
    const uint8_t *at = value->mv_data;
    (void)key;
    if (value->mv_size < 8 || value->mv_size % 8 || cyx_get64(at) > value->mv_size / 8 - 1)
        return "a list of free pages that makes no sense";
    uint64_t count = cyx_get64(at), above = CYX_PAGE_NONE;
    for (uint64_t i = 1; i <= count && !enough(w); i++) {
        uint64_t page = cyx_get64(at + 8 * i);
        if (page >= above)
            return "a list of free pages that is not in order";
        above = page;
        (void)take_pages(w, w->out->spare, page, 1);
    }
    return NULL;
}

static const char *take_main(walk *w, const MDB_val *key, const MDB_val *value)
{
    for (size_t i = 0; i < KNOWN; i++) {
        database *db = &w->known[i];
        if (key->mv_size != strlen(db->name) || memcmp(key->mv_data, db->name, key->mv_size) != 0)
            continue;
        if (value->mv_size != sizeof db->tree)
            return "the description of a database has another size";
        memcpy(&db->tree, value->mv_data, sizeof db->tree);
        db->found = true;
        return db->tree.flags || db->tree.pad ? "a database of another kind" : NULL;
    }
    return "a database that is none of a store's";
}

static const char *take_meta(walk *w, const MDB_val *key, const MDB_val *value)
{
    const uint8_t *name = key->mv_data, *p = value->mv_data;
    size_t size = value->mv_size;
    if (size < 4 || cyx_get32(p) != cyx_crc32c(cyx_crc32c(0, name, key->mv_size), p + 4, size - 4))
        return "a value that fails its checksum";
    if (key->mv_size == 6 && memcmp(name, "format", 6) == 0 && size == 12)
        w->format = cyx_get64(p + 4);
    w->servers += key->mv_size == 5 && name[0] == CYX_TAG_SERVER;
    w->partitions += key->mv_size == 5 && name[0] == CYX_TAG_PARTITION;
    return NULL;
}

static uint64_t digest(const uint8_t *key, size_t len, uint64_t tag)
{
    uint64_t h = ((uint64_t)cyx_crc32c(0, key, len) << 32 | (uint32_t)len) ^ tag * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
    return h ^ h >> 32;
}

static const char *take_mailbox(walk *w, const MDB_val *key, const MDB_val *value)
{
    cyx_packed record;
    w->out->records++;
    if (cyx_record_unpack(key, value, &record))
        return "a record that fails its checksum";
    if (record.server >= w->servers || record.partition >= w->partitions)
        return "a record of an unknown server or partition";
    if (record.state == CYX_DELETED)
        w->records.dead += digest(key->mv_data, key->mv_size, (uint64_t)record.changed_at);
    else
        w->records.live += digest(key->mv_data, key->mv_size, record.server);
    return NULL;
}

static const char *take_by_server(walk *w, const MDB_val *key, const MDB_val *value)
{
    const uint8_t *p = key->mv_data;
    if (key->mv_size < 2 || value->mv_size)
        return "an entry that makes no sense";
    w->indexes.live += digest(p + 2, key->mv_size - 2, (uint64_t)p[0] << 8 | p[1]);
    return NULL;
}

static const char *take_tombstone(walk *w, const MDB_val *key, const MDB_val *value)
{
    const uint8_t *p = key->mv_data;
    if (key->mv_size < 8 || value->mv_size)
        return "an entry that makes no sense";
    w->indexes.dead += digest(p + 8, key->mv_size - 8, cyx_get64_be(p));
    return NULL;
}

static const char *take_change(walk *w, const MDB_val *key, const MDB_val *value)
{
    cyx_change change;
    (void)w;
    return cyx_change_unpack(key, value, &change) ? "a change that fails its checksum" : NULL;
}

/* One of the two meta pages; false with a finding. */
static bool meta_at(walk *w, uint64_t at, cyx_meta_page *meta_r)
{
    const uint8_t *page = cyx_page(w->image, at);
    if (!page) {
        found(w, "the file is cut off: it has no meta page %" PRIu64, at);
        return false;
    }
    memcpy(meta_r, page + CYX_PAGE_HEAD, sizeof *meta_r);
    bool good = cyx_get64(page) == at && cyx_page_flags(page) == CYX_PAGE_META && meta_r->magic == MAGIC &&
                meta_r->version == 1 && meta_r->spare.pad == w->image->page_size && meta_r->address == 0 &&
                meta_r->spare.flags == SPARE_FLAGS && meta_r->main.flags == 0 && meta_r->main.pad == 0;
    if (!good)
        found(w, "meta page %" PRIu64 " is damaged", at);
    return good;
}

/* The last transaction that a meta page's list of free pages tells of; 0 where it can not be read. */
static uint64_t last_freed(walk *w, const cyx_tree *tree)
{
    uint64_t at = tree->root;
    cyx_node node;
    for (unsigned level = tree->depth; level >= 1 && level <= DEPTH_MAX; level--) {
        const uint8_t *page = at >= 2 ? cyx_page(w->image, at) : NULL;
        if (!page || cyx_page_flags(page) != (level > 1 ? CYX_PAGE_BRANCH : CYX_PAGE_LEAF) ||
            cyx_page_problem(w->image, page, level > 1, w->marks, ++w->turn) ||
            !cyx_page_node(w->image, page, cyx_get16(page + cyx_page_lower(page) - 2), 0, level > 1, &node))
            return 0;
        if (level == 1)
            return node.key_len == 8 ? cyx_get64(node.key) : 0;
        at = node.child;
    }
    return 0;
}

/* A transaction frees the pages that it wrote anew, so its own number is the last one in its list: a meta page that says
 * another one, and would have the last commit forgotten, is found out.  The one before is whole, too, until the next. */
static void check_numbers(walk *w, const cyx_meta_page both[2])
{
    for (unsigned at = 0; at < 2; at++) {
        uint64_t freed = both[at].txn > 1 ? last_freed(w, &both[at].spare) : both[at].txn;
        if (freed != both[at].txn)
            found(w, "meta page %u says that it is of transaction %" PRIu64 ", its free pages of %" PRIu64, at, both[at].txn,
                  freed);
    }
}

/* The meta page to follow.  Transactions write them in turn, so that they are always one apart. */
static int choose(walk *w, uint64_t txn, cyx_meta_page *meta_r)
{
    cyx_meta_page both[2];
    bool good[2] = {meta_at(w, 0, &both[0]), meta_at(w, 1, &both[1])};
    if (txn) {
        if (!good[txn & 1] || both[txn & 1].txn != txn)
            return good[txn & 1] ? CYX_STALE : CYX_OK;
        *meta_r = both[txn & 1];
    } else {
        if (!good[0] || !good[1])
            return CYX_OK;
        unsigned newest = both[1].txn > both[0].txn;
        *meta_r = both[newest];
        if (meta_r->txn && (both[!newest].txn != meta_r->txn - 1 || newest != (meta_r->txn & 1)))
            found(w, "the meta pages are of transactions %" PRIu64 " and %" PRIu64, both[0].txn, both[1].txn);
        check_numbers(w, both);
        w->doubtful = w->out->findings > 0;
    }
    if (meta_r->last_page < 1 || meta_r->last_page >= w->image->pages)
        found(w, "the file is cut off: %" PRIu64 " pages of %" PRIu64, w->image->pages, meta_r->last_page + 1);
    else if (meta_r->map_size / w->image->page_size <= meta_r->last_page || meta_r->map_size > CYX_MAP_MAX)
        found(w, "the meta pages tell of a map that can not be");
    else
        w->last_page = meta_r->last_page;
    return CYX_OK;
}

static void compare(walk *w)
{
    if (w->records.live != w->indexes.live)
        found(w, "mailboxes and by_server do not agree");
    if (w->records.dead != w->indexes.dead)
        found(w, "mailboxes and tombstones do not agree");
}

/* Everything that a good meta page leads to. */
static int walk_all(walk *w, const cyx_meta_page *meta)
{
    w->spare = (database){.name = "free pages", .take = take_spare, .tree = meta->spare, .numbers = true};
    w->main = (database){.name = "the list of databases", .take = take_main, .tree = meta->main};
    uint64_t before = w->out->findings;
    walk_tree(w, &w->spare);
    w->out->spare_sound = w->out->findings == before && !w->doubtful;
    walk_tree(w, &w->main);
    for (size_t i = 0; i < KNOWN; i++) {
        database *db = &w->known[i];
        if (!db->found && !enough(w))
            found(w, "%s: it is missing", db->name);
        else if (db->found)
            walk_tree(w, db);
        if (i == META && w->format && (w->format < CYX_FORMAT_OLDEST || w->format > CYX_FORMAT))
            return cyx_fail(CYX_EVERSION, "the store has format %" PRIu64 ", this version opens %d to %d", w->format,
                            CYX_FORMAT_OLDEST, CYX_FORMAT);
    }
    if (!w->out->findings)
        compare(w);
    return CYX_OK;
}

int cyx_structure_check(const cyx_image *image, uint64_t txn, cyx_finding_cb report, void *context,
                        cyx_structure *structure_r)
{
    walk w = {.image = image,
              .out = structure_r,
              .report = report,
              .context = context,
              .known = {[META] = {.name = "meta", .take = take_meta},
                        [MAILBOXES] = {.name = "mailboxes", .take = take_mailbox},
                        [BY_SERVER] = {.name = "by_server", .take = take_by_server},
                        [TOMBSTONES] = {.name = "tombstones", .take = take_tombstone},
                        [CHANGES] = {.name = "changes", .take = take_change}}};
    cyx_meta_page meta = {0};
    size_t words = image->pages / 64 + 1;
    memset(structure_r, 0, sizeof *structure_r);
    structure_r->reached = calloc(words, sizeof *structure_r->reached);
    structure_r->spare = calloc(words, sizeof *structure_r->spare);
    w.marks = calloc(image->page_size / 2, sizeof *w.marks);
    int rc = structure_r->reached && structure_r->spare && w.marks ? CYX_OK : cyx_fail(CYX_ENOMEM, "out of memory");
    if (rc == CYX_OK)
        rc = choose(&w, txn, &meta);
    if (rc == CYX_OK && w.last_page) {
        structure_r->txn = meta.txn;
        structure_r->pages = meta.last_page + 1;
        rc = walk_all(&w, &meta);
    }
    free(w.marks);
    return rc;
}

void cyx_structure_free(cyx_structure *structure)
{
    free(structure->reached);
    free(structure->spare);
    memset(structure, 0, sizeof *structure);
}
