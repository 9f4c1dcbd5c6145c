/* lookup.c - where is this mailbox: from the hot table, and from the store where that can not tell.
 *
 * The table tells of a hit whenever it is there.  Of a miss it tells only while the node lives: one that died between a
 * commit and its entry in the table has left a mailbox out.
 */
#include <stdlib.h>
#include <time.h>

#include "hot.h"

#define LOOKUP_BATCH 1024u     /* names per transaction of cyx_lookup_many */
#define AHEAD 32u              /* names whose lines are fetched before the first is looked at */
#define RETRY_NS 50000000u     /* look for a table at most this often */
#define ALIVE_NS 100000000u    /* how long the node counts as living once that was seen */
#define FROM_STORE (-1000)     /* not a code: the table does not tell */

struct cyx_known_route {
    const char *server, *partition; /* NULL: not looked at yet */
    uint32_t state, flags;
};

static uint64_t coarse_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void cyx_reader_drop_hot(cyx_reader *reader)
{
    cyx_hot_close(&reader->hot);
    free(reader->known);
    reader->known = NULL;
    reader->hot_tried_ns = reader->alive_until_ns = 0;
}

/* Have the table of this store mapped.  Whatever is wrong with it, the store answers. */
static bool have_hot(cyx_reader *reader)
{
    if (cyx_hot_serves(&reader->hot))
        return true;
    uint64_t now = coarse_ns();
    if (reader->hot_tried_ns && now - reader->hot_tried_ns < RETRY_NS && !reader->hot.header)
        return false;
    cyx_reader_drop_hot(reader);
    reader->hot_tried_ns = now;
    if (!reader->run_dir || cyx_hot_open(&reader->hot, reader->run_dir, reader->env) != CYX_OK)
        return false;
    reader->known = calloc(reader->hot.header->route_capacity, sizeof *reader->known);
    if (!reader->known)
        cyx_hot_close(&reader->hot);
    return reader->known != NULL;
}

/* The texts of a route that this handle meets for the first time. */
static bool learn(cyx_reader *reader, uint32_t id)
{
    cyx_hot_route route;
    const char *server, *partition;
    if (cyx_hot_route_at(&reader->hot, id, &route) || cyx_reader_renew(reader))
        return false;
    MDB_dbi meta = reader->env->meta;
    bool good = cyx_intern_text(&reader->servers, reader->txn, meta, route.server, &server) == CYX_OK &&
                cyx_intern_text(&reader->partitions, reader->txn, meta, route.partition, &partition) == CYX_OK;
    mdb_txn_reset(reader->txn);
    if (good)
        reader->known[id] = (struct cyx_known_route){server, partition, route.state, route.flags};
    return good;
}

static bool node_lives(cyx_reader *reader)
{
    uint64_t now = coarse_ns();
    if (now < reader->alive_until_ns)
        return true;
    if (!cyx_heartbeat_fresh(&reader->beat, reader->run_dir, reader->env, reader->no_max_age_ns))
        return false;
    reader->alive_until_ns = now + ALIVE_NS;
    return true;
}

static int from_route(cyx_reader *reader, uint32_t id, cyx_location *location_r)
{
    if (id == CYX_ROUTE_NONE && node_lives(reader)) {
        memset(location_r, 0, sizeof *location_r);
        return CYX_ABSENT;
    }
    if (id == CYX_ROUTE_NONE || id >= reader->hot.header->route_capacity ||
        (!reader->known[id].server && !learn(reader, id)))
        return FROM_STORE;
    const struct cyx_known_route *route = &reader->known[id];
    *location_r = (cyx_location){
        .server = route->server, .partition = route->partition, .state = route->state, .flags = route->flags};
    return CYX_OK;
}

/* Inside a transaction. */
static int from_store(cyx_reader *reader, const char *name, size_t len, cyx_location *location_r)
{
    uint8_t raw_key[CYX_KEY_MAX];
    MDB_val key;
    cyx_packed record;
    memset(location_r, 0, sizeof *location_r);
    int rc = cyx_reader_find(reader, name, len, &key, raw_key, &record);
    if (rc == CYX_OK)
        rc = cyx_reader_location(reader, &record, location_r);
    if (rc == CYX_OK && location_r->state == CYX_DELETED)
        rc = CYX_ABSENT;
    if (rc < 0)
        memset(location_r, 0, sizeof *location_r);
    return rc;
}

/* cyx_lookup's answer: the same whoever gives it. */
static int plain(int rc, cyx_location *location_r)
{
    if (rc != CYX_OK)
        memset(location_r, 0, sizeof *location_r);
    location_r->seq = 0;
    location_r->changed_at = 0;
    return rc;
}

static int from_store_alone(cyx_reader *reader, const char *name, size_t len, cyx_location *location_r)
{
    int rc = cyx_reader_renew(reader);
    if (rc)
        return rc;
    rc = from_store(reader, name, len, location_r);
    mdb_txn_reset(reader->txn);
    return rc;
}

uint64_t cyx_reader_hot_generation(cyx_reader *reader)
{
    if (cyx_reader_lock(reader))
        return 0;
    uint64_t generation = have_hot(reader) ? reader->hot.header->generation : 0;
    cyx_reader_unlock(reader);
    return generation;
}

int cyx_lookup(cyx_reader *reader, const char *name, size_t len, cyx_location *location_r)
{
    int rc = cyx_reader_lock(reader);
    if (rc)
        return rc;
    rc = FROM_STORE;
    if (len <= CYX_MAX_NAME && have_hot(reader))
        rc = from_route(reader, cyx_lines_find(&reader->hot.lines, cyx_name_hash(&reader->hot.header->secret, name, len)),
                        location_r);
    if (rc == FROM_STORE)
        rc = plain(from_store_alone(reader, name, len, location_r), location_r);
    cyx_reader_unlock(reader);
    return rc;
}

int cyx_inspect(cyx_reader *reader, const char *name, size_t len, cyx_location *location_r)
{
    int rc = cyx_reader_lock(reader);
    if (rc)
        return rc;
    rc = from_store_alone(reader, name, len, location_r);
    cyx_reader_unlock(reader);
    return rc;
}

/* All lines are asked for before the first is looked at: they come side by side. */
static int many_from_hot(cyx_reader *reader, const cyx_name *names, size_t count, cyx_location *locations_r)
{
    uint64_t hashes[AHEAD];
    int rc = CYX_OK;
    for (size_t i = 0; i < count; i++) {
        hashes[i] = names[i].len <= CYX_MAX_NAME
                        ? cyx_name_hash(&reader->hot.header->secret, names[i].data, names[i].len)
                        : 0;
        cyx_lines_prefetch(&reader->hot.lines, hashes[i]);
    }
    for (size_t i = 0; i < count && rc >= 0; i++) {
        rc = FROM_STORE;
        if (names[i].len <= CYX_MAX_NAME)
            rc = from_route(reader, cyx_lines_find(&reader->hot.lines, hashes[i]), &locations_r[i]);
        if (rc == FROM_STORE)
            rc = plain(from_store_alone(reader, names[i].data, names[i].len, &locations_r[i]), &locations_r[i]);
    }
    return rc;
}

static int many_from_store(cyx_reader *reader, const cyx_name *names, size_t count, cyx_location *locations_r)
{
    int rc = cyx_reader_renew(reader);
    if (rc)
        return rc;
    for (size_t i = 0; i < count && rc >= 0; i++)
        rc = plain(from_store(reader, names[i].data, names[i].len, &locations_r[i]), &locations_r[i]);
    mdb_txn_reset(reader->txn);
    return rc;
}

int cyx_lookup_many(cyx_reader *reader, const cyx_name *names, size_t count, cyx_location *locations_r)
{
    for (size_t i = 0; i < count;) {
        int rc = cyx_reader_lock(reader);
        if (rc)
            return rc;
        for (size_t end = count - i > LOOKUP_BATCH ? i + LOOKUP_BATCH : count; rc >= 0 && i < end;) {
            bool hot = have_hot(reader);
            size_t step = hot && end - i > AHEAD ? AHEAD : end - i;
            rc = hot ? many_from_hot(reader, names + i, step, locations_r + i)
                     : many_from_store(reader, names + i, step, locations_r + i);
            i += step;
        }
        cyx_reader_unlock(reader);
        if (rc < 0)
            return rc;
    }
    return CYX_OK;
}
