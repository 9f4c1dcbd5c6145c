/* hot_verify.c - the hot table against the store: every mailbox by its own look-up, and nothing besides; what the heads
 * of its lines count; its routes.
 *
 * A node that goes on writing changes both; the comparison counts when the table had the snapshot's sequence before it
 * and after it and nothing was committed meanwhile, else it is made again.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "hot.h"
#include "writer.h"

#define ATTEMPTS 5u
#define TOLD 20u /* findings that are told one by one */
#define STUCK 255u /* a count that is not lowered any more (lines.c) */

typedef struct comparison {
    uint64_t live, alike, wrong, seq;
    uint8_t (*heads)[CYX_PROBES]; /* what each line's head should say */
    char told[TOLD][256];
} comparison;

__attribute__((format(printf, 2, 3))) static void note(comparison *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (c->wrong < TOLD)
        (void)vsnprintf(c->told[c->wrong], sizeof c->told[0], format, args);
    va_end(args);
    c->wrong++;
}

static void compare_one(comparison *c, const cyx_hot *hot, const MDB_val *key, const cyx_packed *record)
{
    uint8_t name[CYX_MAX_NAME];
    size_t len;
    uint64_t home;
    cyx_hot_route route;
    if (record->state == CYX_DELETED || cyx_name_from_key(key->mv_data, key->mv_size, name, &len))
        return;
    c->live++;
    uint64_t hash = cyx_name_hash(&hot->header->secret, name, len);
    unsigned probe = cyx_lines_probe(&hot->lines, hash, &home);
    if (probe == CYX_PROBES)
        c->heads[home][0] = 1;
    else if (probe && c->heads[home][probe] < STUCK)
        c->heads[home][probe]++;
    uint32_t id = cyx_lines_find(&hot->lines, hash);
    int shown = (int)(len < 200 ? len : 200);
    if (id == CYX_ROUTE_ASK)
        c->alike++;
    else if (id == CYX_ROUTE_NONE)
        note(c, "the hot table does not have %.*s", shown, (const char *)name);
    else if (cyx_hot_route_at(hot, id, &route) || id >= __atomic_load_n(&hot->header->route_count, __ATOMIC_ACQUIRE))
        note(c, "the hot table has a damaged route for %.*s", shown, (const char *)name);
    else if (route.server != record->server || route.partition != record->partition ||
             route.state != record->state || route.flags != record->flags)
        note(c, "the hot table has another place for %.*s", shown, (const char *)name);
}

/* A head may count names that are gone where some are alike, and for ever where it is STUCK; it never counts too few. */
static void compare_heads(comparison *c, const cyx_hot *hot, bool some_alike)
{
    for (uint64_t line = 0; line < hot->lines.count; line++) {
        uint64_t head = __atomic_load_n(&hot->lines.at[line].head, __ATOMIC_RELAXED);
        if (!head && !memcmp(c->heads[line], &head, sizeof head))
            continue;
        for (unsigned i = 0; i < CYX_PROBES; i++) {
            unsigned says = (unsigned)(head >> 8 * i) & 255u, is = c->heads[line][i];
            if (i == 0 ? (says != 0) != (is != 0) : says < is || (says > is && says != STUCK && !some_alike))
                note(c, "line %" PRIu64 " of the hot table counts %u names in its place %u, there are %u", line, says, i, is);
        }
    }
}

static void check_routes(comparison *c, const cyx_hot *hot)
{
    uint64_t count = __atomic_load_n(&hot->header->route_count, __ATOMIC_ACQUIRE);
    cyx_hot_route route;
    if (count > hot->header->route_capacity) {
        note(c, "the hot table counts %" PRIu64 " routes and has room for %" PRIu64, count, hot->header->route_capacity);
        return;
    }
    for (uint64_t id = 1; id < count; id++)
        if (cyx_hot_route_at(hot, (uint32_t)id, &route))
            note(c, "%s", cyx_detail());
}

typedef struct slot_counts {
    uint64_t used, alike; /* of these, what stands for more than one name */
} slot_counts;

static slot_counts count_slots(const cyx_hot *hot)
{
    slot_counts counts = {0};
    for (uint64_t i = 0; i < hot->lines.count; i++)
        for (unsigned slot = 0; slot < CYX_LINE_SLOTS; slot++) {
            uint64_t word = __atomic_load_n(&hot->lines.at[i].slots[slot], __ATOMIC_RELAXED);
            counts.used += word != 0;
            counts.alike += (word & CYX_ROUTE_ASK) == CYX_ROUTE_ASK;
        }
    return counts;
}

/* What status shows. */
static void check_counts(comparison *c, const cyx_hot *hot, const slot_counts *counts)
{
    uint64_t placed = __atomic_load_n(&hot->header->placed, __ATOMIC_RELAXED);
    uint64_t alike = __atomic_load_n(&hot->header->alike, __ATOMIC_RELAXED);
    if (placed != counts->used || alike != counts->alike)
        note(c, "the hot table counts %" PRIu64 " slots in use, %" PRIu64 " of them for several names; there are %" PRIu64
             " and %" PRIu64, placed, alike, counts->used, counts->alike);
}

static int walk(cyx_reader *reader, const cyx_hot *hot, comparison *c)
{
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    cyx_packed record;
    int rc = cyx_reader_begin(reader);
    if (rc)
        return rc;
    rc = cyx_meta_get64(reader->txn, reader->env->meta, "seq", &c->seq);
    int mdb = rc ? 0 : mdb_cursor_open(reader->txn, reader->env->mailboxes, &cursor);
    while (rc == CYX_OK && !mdb && (mdb = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
        if (cyx_record_unpack(&key, &value, &record) == CYX_OK) /* cyx_verify tells of others */
            compare_one(c, hot, &key, &record);
    if (cursor)
        mdb_cursor_close(cursor);
    cyx_reader_end(reader);
    if (rc == CYX_OK && mdb && mdb != MDB_NOTFOUND)
        rc = cyx_fail_mdb(mdb, "walking the store");
    return rc < 0 ? rc : CYX_OK;
}

static int compare(cyx_reader *reader, const cyx_hot *hot, comparison *c)
{
    memset(c, 0, sizeof *c);
    if (!(c->heads = calloc(hot->lines.count, sizeof *c->heads)))
        return cyx_fail(CYX_ENOMEM, "out of memory");
    int rc = walk(reader, hot, c);
    const slot_counts counts = count_slots(hot);
    uint64_t slots = counts.used - counts.alike;
    if (!c->wrong && (slots > c->live || slots + c->alike < c->live))
        note(c, "the hot table has %" PRIu64 " entries for %" PRIu64 " mailboxes", slots, c->live);
    compare_heads(c, hot, counts.alike != 0);
    check_counts(c, hot, &counts);
    check_routes(c, hot);
    free(c->heads);
    c->heads = NULL;
    return rc;
}

static uint64_t applied(const cyx_hot *hot) { return __atomic_load_n(&hot->header->applied_seq, __ATOMIC_ACQUIRE); }

/* The sequence of the last commit: a change is committed before it goes into the table. */
static int committed(cyx_reader *reader, uint64_t *seq_r)
{
    int rc = cyx_reader_begin(reader);
    if (rc)
        return rc;
    rc = cyx_meta_get64(reader->txn, reader->env->meta, "seq", seq_r);
    cyx_reader_end(reader);
    return rc;
}

int cyx_hot_verify(cyx_reader *reader, cyx_finding_cb report, void *context, uint64_t *findings_r)
{
    comparison c = {0};
    cyx_hot hot;
    uint64_t after = 0, before = 0;
    bool same = false, quiet = false;
    *findings_r = 0;
    for (unsigned attempt = 0; attempt < ATTEMPTS && !same; attempt++) {
        int rc = cyx_hot_open(&hot, reader->run_dir, reader->env);
        if (rc == CYX_ABSENT)
            return CYX_OK; /* the store answers */
        if (rc == CYX_ECORRUPT || rc == CYX_EVERSION) {
            *findings_r = 1;
            report(context, cyx_detail());
            return CYX_OK;
        }
        if (rc)
            return rc;
        before = applied(&hot);
        rc = compare(reader, &hot, &c);
        if (rc == CYX_OK)
            rc = committed(reader, &after);
        quiet = cyx_hot_serves(&hot) && before == applied(&hot) && after == c.seq;
        same = quiet && before == c.seq;
        cyx_hot_close(&hot);
        if (rc)
            return rc;
    }
    if (!same && !quiet)
        return cyx_fail(CYX_EBUSY, "the store changes faster than its hot table can be compared with it");
    if (!same) {
        char text[128];
        (void)snprintf(text, sizeof text, "the hot table says that it has change %" PRIu64 ", the store has %" PRIu64, before,
                       c.seq);
        report(context, text);
        *findings_r = 1;
    }
    for (uint64_t i = 0; i < c.wrong && i < TOLD; i++)
        report(context, c.told[i]);
    *findings_r += c.wrong;
    return CYX_OK;
}
