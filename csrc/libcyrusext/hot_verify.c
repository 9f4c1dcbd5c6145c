/* hot_verify.c - the hot table against the store: every mailbox by its own look-up, and nothing besides.
 *
 * A node that goes on writing changes both; the comparison counts when the table had the snapshot's sequence before it
 * and after it, else it is made again.
 */
#include <inttypes.h>
#include <stdio.h>

#include "hot.h"
#include "writer.h"

#define ATTEMPTS 5u
#define TOLD 20u /* findings that are told one by one */

typedef struct comparison {
    uint64_t live, alike, wrong, seq;
    char told[TOLD][256];
} comparison;

static void note(comparison *c, const MDB_val *key, const char *what)
{
    uint8_t name[CYX_MAX_NAME];
    size_t len = 0;
    (void)!cyx_name_from_key(key->mv_data, key->mv_size, name, &len);
    if (c->wrong < TOLD)
        (void)snprintf(c->told[c->wrong], sizeof c->told[0], "the hot table %s %.*s", what, (int)(len < 200 ? len : 200),
                       (const char *)name);
    c->wrong++;
}

static void compare_one(comparison *c, const cyx_hot *hot, const MDB_val *key, const cyx_packed *record)
{
    uint8_t name[CYX_MAX_NAME];
    size_t len;
    cyx_hot_route route;
    if (record->state == CYX_DELETED || cyx_name_from_key(key->mv_data, key->mv_size, name, &len))
        return;
    c->live++;
    uint32_t id = cyx_lines_find(&hot->lines, cyx_name_hash(&hot->header->secret, name, len));
    if (id == CYX_ROUTE_ASK)
        c->alike++;
    else if (id == CYX_ROUTE_NONE)
        note(c, key, "does not have");
    else if (cyx_hot_route_at(hot, id, &route))
        note(c, key, "has a damaged route for");
    else if (route.server != record->server || route.partition != record->partition ||
             route.state != record->state || route.flags != record->flags)
        note(c, key, "has another place for");
}

/* Slots that stand for one name each. */
static uint64_t count_slots(const cyx_hot *hot)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < hot->lines.count; i++)
        for (unsigned slot = 0; slot < CYX_LINE_SLOTS; slot++) {
            uint64_t word = __atomic_load_n(&hot->lines.at[i].slots[slot], __ATOMIC_RELAXED);
            count += word && (word & CYX_ROUTE_ASK) != CYX_ROUTE_ASK;
        }
    return count;
}

static int compare(cyx_reader *reader, const cyx_hot *hot, comparison *c)
{
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    cyx_packed record;
    memset(c, 0, sizeof *c);
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

static uint64_t applied(const cyx_hot *hot) { return __atomic_load_n(&hot->header->applied_seq, __ATOMIC_ACQUIRE); }

int cyx_hot_verify(cyx_reader *reader, cyx_finding_cb report, void *context, uint64_t *findings_r)
{
    comparison c;
    cyx_hot hot;
    uint64_t slots = 0;
    bool same = false;
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
        uint64_t before = applied(&hot);
        rc = compare(reader, &hot, &c);
        slots = count_slots(&hot);
        same = cyx_hot_serves(&hot) && before == c.seq && applied(&hot) == c.seq;
        cyx_hot_close(&hot);
        if (rc)
            return rc;
    }
    if (!same)
        return cyx_fail(CYX_EBUSY, "the store changes faster than its hot table can be compared with it");
    for (uint64_t i = 0; i < c.wrong && i < TOLD; i++)
        report(context, c.told[i]);
    *findings_r = c.wrong;
    if (!c.wrong && (slots > c.live || slots + c.alike < c.live)) {
        char text[128];
        (void)snprintf(text, sizeof text, "the hot table has %" PRIu64 " entries for %" PRIu64 " mailboxes", slots,
                       c.live);
        report(context, text);
        ++*findings_r;
    }
    return CYX_OK;
}
