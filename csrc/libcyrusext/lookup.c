/* lookup.c - where is this mailbox: from the hot table, and from the store where that can not tell.
 *
 * The table tells of a hit whenever it is there.  Of a miss it tells only while the node lives: one that died between a
 * commit and its entry in the table has left a mailbox out.
 *
 * What the table can tell is told without a lock, under the thread's guard (guard.h).  Everything that changes the
 * handle is done under its lock: looking for a table, meeting a route, looking at the heartbeat, asking the store.
 */
#include <stdlib.h>
#include <time.h>

#include "guard.h"
#include "hot.h"
#include "lines_find.h"
#include "namehash.h"
#include "writer.h"

#define LOOKUP_BATCH 1024u     /* names per transaction of cyx_lookup_many */
#define PIECE 256u             /* names that are looked up in one go, under one guard */
#define AHEAD 32u              /* and of these are waited for at once */
#define RETRY_NS 50000000u     /* look for a table at most this often */
#define ALIVE_NS 100000000u    /* how long the node counts as living once that was seen */
#define FROM_STORE (-1000)     /* not a code: the table does not tell */

static uint64_t coarse_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void free_table(cyx_table *table)
{
    cyx_hot_close(&table->hot);
    free(table);
}

/* Unmap what was given up and no thread is in any more.  So there are never more of them than threads. */
static void sweep(cyx_reader *reader)
{
    if (!reader->given_up || !cyx_guard_barrier())
        return;
    for (cyx_table **link = &reader->given_up; *link;) {
        cyx_table *table = *link;
        if (cyx_guard_holds(table)) {
            link = &table->next;
        } else {
            *link = table->next;
            free_table(table);
        }
    }
}

void cyx_reader_drop_hot(cyx_reader *reader)
{
    cyx_table *table = reader->table;
    reader->hot_tried_ns = 0;
    if (!table)
        return;
    __atomic_store_n(&reader->table, NULL, __ATOMIC_RELEASE);
    table->next = reader->given_up;
    reader->given_up = table;
    sweep(reader);
}

void cyx_reader_free_hot(cyx_reader *reader)
{
    cyx_reader_drop_hot(reader);
    while (reader->given_up) {
        cyx_table *table = reader->given_up;
        reader->given_up = table->next;
        free_table(table);
    }
}

/* Under the lock.  The table of this store, NULL if there is none; whatever is wrong with it, the store answers. */
static cyx_table *have_table(cyx_reader *reader)
{
    cyx_hot hot;
    if (reader->table && cyx_hot_serves(&reader->table->hot))
        return reader->table;
    uint64_t now = coarse_ns();
    if (reader->hot_tried_ns && now - reader->hot_tried_ns < RETRY_NS && !reader->table)
        return NULL;
    cyx_reader_drop_hot(reader);
    reader->hot_tried_ns = now;
    if (!reader->run_dir || cyx_hot_open(&hot, reader->run_dir, reader->env) != CYX_OK)
        return NULL;
    cyx_table *table = calloc(1, sizeof *table + hot.header->route_capacity * sizeof *table->known);
    if (!table) {
        cyx_hot_close(&hot);
        return NULL;
    }
    table->hot = hot;
    __atomic_store_n(&reader->table, table, __ATOMIC_RELEASE);
    return table;
}

/* Under the lock.  The texts of a route that this handle meets for the first time. */
static void learn(cyx_reader *reader, cyx_table *table, uint32_t id)
{
    cyx_hot_route route;
    const char *server, *partition;
    cyx_location *known = &table->known[id].at;
    if (known->server || cyx_hot_route_at(&table->hot, id, &route) || cyx_reader_renew(reader))
        return;
    MDB_dbi meta = reader->env->meta;
    bool good = cyx_intern_text(&reader->servers, reader->txn, meta, route.server, &server) == CYX_OK &&
                cyx_intern_text(&reader->partitions, reader->txn, meta, route.partition, &partition) == CYX_OK;
    mdb_txn_reset(reader->txn);
    if (!good)
        return;
    known->partition = partition;
    known->state = route.state;
    known->flags = route.flags;
    known->place = cyx_place_number(&reader->places, server, partition, route.state, route.flags);
    __atomic_store_n(&known->server, server, __ATOMIC_RELEASE);
}

static inline bool alive(const cyx_table *table)
{
    return coarse_ns() < __atomic_load_n(&table->alive_until_ns, __ATOMIC_RELAXED);
}

/* Under the lock: whether the node lives, for this moment and the next. */
static void look_alive(cyx_reader *reader, cyx_table *table)
{
    if (!alive(table) && cyx_heartbeat_fresh(&reader->beat, reader->run_dir, reader->env, reader->no_max_age_ns))
        __atomic_store_n(&table->alive_until_ns, coarse_ns() + ALIVE_NS, __ATOMIC_RELAXED);
}

/* No byte below 0x20, nothing empty: what is left is a name that a mailbox can have.  Others are looked at closely where
 * there is time. */
static inline bool plain_words(const char *name, size_t len)
{
    const uint64_t every = 0x0101010101010101u, high = 0x80 * every;
    uint64_t word, low = 0;
    if (len < sizeof word) {
        for (size_t i = 0; i < len; i++)
            low |= (uint8_t)name[i] < 0x20;
        return len && !low;
    }
    for (size_t i = 0; i < len; i += sizeof word) {
        memcpy(&word, name + (len - i < sizeof word ? len - sizeof word : i), sizeof word);
        low |= (word - 0x20 * every) & ~word & high;
    }
    return !low;
}

#ifdef CYX_LINES_WIDE
static inline __m128i block_at(const char *at) { return _mm_loadu_si128((const __m128i *)(const void *)at); }

/* Nearly all names are looked at as they are hashed: four blocks, without a branch on how many there are. */
static inline bool plain_name(const char *name, size_t len)
{
    if (__builtin_expect(len < CYX_HASH_BLOCK || len > 4 * CYX_HASH_BLOCK, false))
        return plain_words(name, len);
    size_t last = len - CYX_HASH_BLOCK;
    __m128i first = _mm_min_epu8(block_at(name), block_at(name + (last < 16 ? last : 16)));
    __m128i least = _mm_min_epu8(first, _mm_min_epu8(block_at(name + (last < 32 ? last : 32)), block_at(name + last)));
    return !_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(least, _mm_set1_epi8(0x1F)), least));
}
#else
static inline bool plain_name(const char *name, size_t len) { return plain_words(name, len); }
#endif

/* What the table tells, FROM_STORE if nothing.  Nothing is written then. */
static inline int from_route(const cyx_table *table, uint32_t id, const cyx_name *name, cyx_location *location_r)
{
    if (id == CYX_ROUTE_NONE) {
        if (!plain_name(name->data, name->len) || !alive(table))
            return FROM_STORE;
        *location_r = (cyx_location){0};
        return CYX_ABSENT;
    }
    if (id >= table->hot.header->route_capacity)
        return FROM_STORE;
    const cyx_location *known = &table->known[id].at;
    if (!__atomic_load_n(&known->server, __ATOMIC_ACQUIRE))
        return FROM_STORE;
    *location_r = *known;
    return CYX_OK;
}

static inline uint64_t hash_in(const cyx_table *table, const cyx_name *name)
{
    return cyx_hash_name(&table->hot.header->secret, name->data, name->len);
}

static inline int from_table(const cyx_table *table, const cyx_name *name, cyx_location *location_r)
{
    if (name->len > CYX_MAX_NAME || !cyx_hot_serves(&table->hot))
        return FROM_STORE;
    return from_route(table, cyx_look(&table->hot.lines, hash_in(table, name)), name, location_r);
}

/* Inside a transaction. */
static int from_store(cyx_reader *reader, const cyx_name *name, cyx_location *location_r)
{
    uint8_t raw_key[CYX_KEY_MAX];
    MDB_val key;
    cyx_packed record;
    memset(location_r, 0, sizeof *location_r);
    int rc = cyx_reader_find(reader, name->data, name->len, &key, raw_key, &record);
    if (rc == CYX_OK)
        rc = cyx_reader_location(reader, &record, location_r);
    if (rc == CYX_OK && location_r->state == CYX_DELETED)
        rc = CYX_ABSENT;
    if (rc == CYX_OK)
        location_r->place = cyx_place_number(&reader->places, location_r->server, location_r->partition,
                                             location_r->state, location_r->flags);
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

/* Under the lock: have the table find out what it lacks for this name, and ask it again; else the store. */
static int under_lock(cyx_reader *reader, const cyx_name *name, cyx_location *location_r)
{
    int rc = FROM_STORE;
    cyx_table *table = have_table(reader);
    if (table) {
        uint32_t id = cyx_look(&table->hot.lines, hash_in(table, name));
        if (id == CYX_ROUTE_NONE)
            look_alive(reader, table);
        else if (id < table->hot.header->route_capacity)
            learn(reader, table, id);
        rc = from_route(table, id, name, location_r);
    }
    if (rc == FROM_STORE && (rc = cyx_reader_renew(reader)) == CYX_OK) {
        rc = plain(from_store(reader, name, location_r), location_r);
        mdb_txn_reset(reader->txn);
    }
    return rc;
}

/* Not inlined: cyx_lookup keeps fewer registers. */
static __attribute__((noinline)) int lookup_slowly(cyx_reader *reader, const cyx_name *name, cyx_location *location_r)
{
    int rc = cyx_name_check(name->data, name->len);
    if (rc || (rc = cyx_reader_lock(reader)))
        return rc;
    (void)cyx_guard_claim();
    rc = under_lock(reader, name, location_r);
    cyx_reader_unlock(reader);
    return rc;
}

uint64_t cyx_reader_hot_generation(cyx_reader *reader)
{
    if (cyx_reader_lock(reader))
        return 0;
    const cyx_table *table = have_table(reader);
    uint64_t generation = table ? table->hot.header->generation : 0;
    cyx_reader_unlock(reader);
    return generation;
}

int cyx_reader_hot_stat(cyx_reader *reader, cyx_hot_stat *stat_r)
{
    memset(stat_r, 0, sizeof *stat_r);
    int rc = cyx_reader_lock(reader);
    if (rc)
        return rc;
    const cyx_table *table = have_table(reader);
    if (table) {
        const cyx_hot_header *header = table->hot.header;
        *stat_r = (cyx_hot_stat){
            .generation = header->generation,
            .bytes = header->size,
            .slots = header->line_count * CYX_LINE_SLOTS,
            .placed = __atomic_load_n(&header->placed, __ATOMIC_RELAXED),
            .alike = __atomic_load_n(&header->alike, __ATOMIC_RELAXED),
            .homeless = __atomic_load_n(&header->homeless, __ATOMIC_RELAXED),
            .routes = __atomic_load_n(&header->route_count, __ATOMIC_RELAXED) - 1, /* number 0 is none */
            .applied_seq = __atomic_load_n(&header->applied_seq, __ATOMIC_RELAXED),
            .age_ns = cyx_boot_ns() - header->built_at_ns,
        };
    }
    cyx_reader_unlock(reader);
    return table ? CYX_OK : CYX_ABSENT;
}

int cyx_lookup(cyx_reader *reader, const char *name, size_t len, cyx_location *location_r)
{
    const cyx_name wanted = {name, len};
    cyx_guard *guard = cyx_thread_guard;
    if (__builtin_expect(guard != NULL, true)) {
        const cyx_table *table = cyx_guard_hold(guard, &reader->table);
        int rc = table ? from_table(table, &wanted, location_r) : FROM_STORE;
        cyx_guard_leave(guard);
        if (__builtin_expect(rc != FROM_STORE, true))
            return rc;
    }
    return lookup_slowly(reader, &wanted, location_r);
}

int cyx_inspect(cyx_reader *reader, const char *name, size_t len, cyx_location *location_r)
{
    const cyx_name wanted = {name, len};
    int rc = cyx_name_check(name, len);
    if (rc || (rc = cyx_reader_begin(reader)))
        return rc;
    rc = from_store(reader, &wanted, location_r);
    cyx_reader_end(reader);
    return rc;
}

static inline uint64_t ask_for(const cyx_table *table, const cyx_name *name)
{
    uint64_t hash = name->len <= CYX_MAX_NAME ? hash_in(table, name) : 0;
    __builtin_prefetch(table->hot.lines.at + cyx_home_line(&table->hot.lines, hash));
    return hash;
}

/* A name's line is asked for so many names before it is looked into: more than the processor fetches at once, and few
 * enough that the next names are hashed while it waits.  One that does not stand in its home line waits for its other
 * lines until all have had their turn.  `left_r` has the numbers of those names that the table did not tell of; returns
 * how many. */
static size_t many_from_table(const cyx_table *table, const cyx_name *names, size_t count, cyx_location *locations_r,
                              uint16_t left_r[PIECE])
{
    uint64_t hashes[PIECE];
    uint16_t waiting[PIECE];
    size_t left = 0, waits = 0;
    if (!cyx_hot_serves(&table->hot)) {
        for (size_t i = 0; i < count; i++)
            left_r[left++] = (uint16_t)i;
        return left;
    }
    for (size_t i = 0; i < count && i < AHEAD; i++)
        hashes[i] = ask_for(table, &names[i]);
    for (size_t i = 0; i < count; i++) {
        uint32_t route;
        if (i + AHEAD < count)
            hashes[i + AHEAD] = ask_for(table, &names[i + AHEAD]);
        if (names[i].len > CYX_MAX_NAME)
            left_r[left++] = (uint16_t)i;
        else if (!cyx_look_home(&table->hot.lines, hashes[i], &route))
            waiting[waits++] = (uint16_t)i;
        else if (from_route(table, route, &names[i], &locations_r[i]) == FROM_STORE)
            left_r[left++] = (uint16_t)i;
    }
    for (size_t n = 0; n < waits; n++) {
        size_t i = waiting[n];
        uint32_t route = cyx_look(&table->hot.lines, hashes[i]);
        if (from_route(table, route, &names[i], &locations_r[i]) == FROM_STORE)
            left_r[left++] = (uint16_t)i;
    }
    return left;
}

/* One transaction for all, as long as there is no table.  *done_r names were answered. */
static int many_from_store(cyx_reader *reader, const cyx_name *names, size_t count, cyx_location *locations_r,
                           size_t *done_r)
{
    size_t i = 0;
    int rc = cyx_reader_lock(reader);
    if (rc)
        return rc;
    (void)cyx_guard_claim();
    if (!have_table(reader) && (rc = cyx_reader_renew(reader)) == CYX_OK) {
        for (; i < count && rc >= 0; i += rc >= 0)
            if ((rc = cyx_name_check(names[i].data, names[i].len)) == CYX_OK)
                rc = plain(from_store(reader, &names[i], &locations_r[i]), &locations_r[i]);
        mdb_txn_reset(reader->txn);
    }
    cyx_reader_unlock(reader);
    *done_r = i;
    return rc < 0 ? rc : CYX_OK;
}

int cyx_lookup_many(cyx_reader *reader, const cyx_name *names, size_t count, cyx_location *locations_r)
{
    for (size_t i = 0; i < count;) {
        size_t step = count - i > PIECE ? PIECE : count - i, done = 0, left = 0;
        uint16_t untold[PIECE];
        cyx_guard *guard = cyx_thread_guard;
        const cyx_table *table = guard ? cyx_guard_hold(guard, &reader->table) : NULL;
        if (table)
            left = many_from_table(table, names + i, step, locations_r + i, untold);
        if (guard)
            cyx_guard_leave(guard);
        if (!table) {
            size_t batch = count - i > LOOKUP_BATCH ? LOOKUP_BATCH : count - i;
            int rc = many_from_store(reader, names + i, batch, locations_r + i, &done);
            if (rc)
                return rc;
            i += done;
            if (done)
                continue;
            for (; left < step; left++) /* there is a table after all, but perhaps no guard for this thread */
                untold[left] = (uint16_t)left;
        }
        for (size_t k = 0; k < left; k++) {
            int rc = lookup_slowly(reader, &names[i + untold[k]], &locations_r[i + untold[k]]);
            if (rc < 0)
                return rc;
        }
        i += step;
    }
    return CYX_OK;
}
