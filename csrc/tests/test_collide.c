/* test_collide - names that look alike, through every short sequence of insert, update and delete, in pages with and
 * without room; seen after each single store of the writer, and by a reader that is overtaken between any two loads.
 *
 * The lines are compiled into this program a second time, with its own loads and stores.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static uint64_t stepped_load(const uint64_t *word);
static void stepped_store(uint64_t *word, uint64_t value);

#define cyx_lines_for stepped_lines_for
#define cyx_lines_prefetch stepped_lines_prefetch
#define cyx_lines_find stepped_lines_find
#define cyx_lines_probe stepped_lines_probe
#define cyx_lines_insert stepped_lines_insert
#define cyx_lines_update stepped_lines_update
#define cyx_lines_delete stepped_lines_delete
#define CYX_LINES_PLAIN
#define __atomic_load_n(word, order) stepped_load(word)
#define __atomic_store_n(word, value, order) stepped_store(word, value)
#include "lines.c" /* NOLINT: on purpose */

#define KEYS 6u
#define TRIED 4u /* of them, where every sequence is tried; the others join in where they wander */
#define DEPTH_MAX 8u
#define HOME 10u
#define FILLERS ((size_t)CYX_PAGE_LINES * CYX_LINE_SLOTS)

static cyx_line page[CYX_PAGE_LINES] __attribute__((aligned(4096)));
static cyx_lines_writer table = {.lines = {page, CYX_PAGE_LINES}};
static uint64_t hashes[KEYS], fillers[FILLERS];
static uint32_t routes[KEYS], were[KEYS]; /* 0: absent; before the operation under way */
static size_t filler_count;
static uint32_t next_route = 1;
static unsigned long sequences, overtaken;

static uint64_t hash_of(uint64_t home, uint64_t middle, uint64_t fingerprint)
{
    return home << 58 | middle << 40 | fingerprint;
}

static uint64_t fingerprint_of(uint64_t hash)
{
    uint64_t fingerprint = hash & (((uint64_t)1 << 40) - 1);
    return fingerprint ? fingerprint : 1;
}

/* What a look-up may say of key i when all routes were first as in `a`, then as in `b`, then as in `c`.  A name that was
 * not there for a moment can be taken for one with the same fingerprint, but never for what that one was not. */
static bool may_say(unsigned i, uint32_t found, const uint32_t *a, const uint32_t *b, const uint32_t *c)
{
    bool missed = !a[i] || !b[i] || !c[i];
    if (found == CYX_ROUTE_ASK)
        return true;
    for (unsigned j = 0; j < KEYS; j++)
        if (i == j || (missed && found && fingerprint_of(hashes[j]) == fingerprint_of(hashes[i])))
            if (found == a[j] || found == b[j] || found == c[j])
                return true;
    return false;
}

static bool watching;

static void look_at_all(void)
{
    watching = false;
    for (unsigned i = 0; i < KEYS; i++)
        CHECK(may_say(i, stepped_lines_find(&table.lines, hashes[i]), were, routes, routes));
    watching = true;
}

/* The load of a look-up before which the writer overtakes it, and what that does. */
static unsigned overtake_at;
static void (*overtake)(void);

static uint64_t stepped_load(const uint64_t *word)
{
    if (overtake_at && --overtake_at == 0)
        overtake();
    return *(const volatile uint64_t *)word;
}

static void stepped_store(uint64_t *word, uint64_t value)
{
    *(volatile uint64_t *)word = value;
    if (watching)
        look_at_all();
}

/* Operation 0: insert what is not there, update what is; 1: delete. */
static void operate(unsigned key, unsigned operation)
{
    were[key] = routes[key];
    if (operation == 1) {
        routes[key] = 0;
        stepped_lines_delete(&table, hashes[key]);
    } else {
        bool there = routes[key] != 0;
        routes[key] = next_route++ % 1000000 + 1;
        if (there)
            stepped_lines_update(&table, hashes[key], routes[key]);
        else
            CHECK(stepped_lines_insert(&table, hashes[key], routes[key]));
    }
}

static void settle(void) { memcpy(were, routes, sizeof were); }

typedef struct saved {
    cyx_line page[CYX_PAGE_LINES];
    uint64_t placed, alike, homeless[2 * KEYS];
    uint32_t homeless_count, routes[KEYS];
} saved;

static void save(saved *to)
{
    memcpy(to->page, page, sizeof page);
    memcpy(to->homeless, table.homeless, sizeof to->homeless);
    memcpy(to->routes, routes, sizeof routes);
    to->placed = table.placed, to->alike = table.alike, to->homeless_count = table.homeless_count;
    CHECK(table.homeless_count <= 2 * KEYS);
}

static void restore(const saved *from)
{
    memcpy(page, from->page, sizeof page);
    memcpy(table.homeless, from->homeless, sizeof from->homeless);
    memcpy(routes, from->routes, sizeof routes);
    table.placed = from->placed, table.alike = from->alike, table.homeless_count = from->homeless_count;
    settle();
}

static unsigned pending[2]; /* two operations, each as key * 2 + operation */
static uint32_t between[KEYS];

static void operate_now(void)
{
    operate(pending[0] / 2, pending[0] % 2);
    memcpy(between, routes, sizeof between);
    if (pending[1] % 2 == 0 || routes[pending[1] / 2])
        operate(pending[1] / 2, pending[1] % 2);
}

/* Each key is looked for while two operations happen between two of the look-up's loads. */
static void overtake_every_load(const saved *before, unsigned first, unsigned second)
{
    for (unsigned i = 0; i < KEYS; i++) {
        for (unsigned at = 1;; at++) {
            pending[0] = first, pending[1] = second;
            overtake = operate_now;
            overtake_at = at;
            uint32_t found = stepped_lines_find(&table.lines, hashes[i]);
            bool happened = overtake_at == 0;
            overtake_at = 0;
            if (!happened)
                break;
            CHECK(may_say(i, found, before->routes, between, routes));
            restore(before);
            overtaken++;
        }
    }
}

static void check_fillers(void)
{
    for (size_t i = 0; i < filler_count; i++) {
        uint32_t found = stepped_lines_find(&table.lines, fillers[i]);
        CHECK(found == 2000000 + i || found == CYX_ROUTE_ASK);
    }
}

static void go_deeper(unsigned depth, unsigned depth_end)
{
    static saved levels[DEPTH_MAX];
    if (depth == depth_end) {
        if (++sequences % 256 == 0)
            check_fillers();
        return;
    }
    save(&levels[depth]);
    for (unsigned key = 0; key < TRIED; key++)
        for (unsigned operation = 0; operation < 2; operation++) {
            if (operation == 1 && !routes[key])
                continue;
            for (unsigned next = 0; depth + 2 == depth_end && next < 2 * TRIED; next++)
                overtake_every_load(&levels[depth], 2 * key + operation, next);
            watching = true;
            operate(key, operation);
            watching = false;
            settle();
            look_at_all();
            watching = false;
            go_deeper(depth + 1, depth_end);
            restore(&levels[depth]);
        }
}

/* Fill a line up to `count` slots with names of its own, that resemble nobody. */
static void fill_line(unsigned line, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        fillers[filler_count] = hash_of(line, 0, 0x1000 + filler_count);
        CHECK(stepped_lines_insert(&table, fillers[filler_count], 2000000 + (uint32_t)filler_count));
        filler_count++;
    }
}

enum { EMPTY, HOMES_FULL, ONE_FREE, ONE_FREE_FAR, TWO_FREE, FULL, PATTERNS };

static void fill(unsigned pattern)
{
    memset(page, 0, sizeof page);
    table.placed = table.alike = table.homeless_count = 0;
    filler_count = 0;
    memset(routes, 0, sizeof routes);
    settle();
    for (unsigned line = 0; line < CYX_PAGE_LINES && pattern != EMPTY; line++) {
        bool near = line >= HOME && line < HOME + 3;
        if (pattern == HOMES_FULL)
            fill_line(line, near ? 7 : 5);
        else if (pattern == ONE_FREE) /* where all three homes look, for one of them first and for one late */
            fill_line(line, line == HOME + 3 || line == HOME + 1 ? 6 : 7);
        else if (pattern == ONE_FREE_FAR)
            fill_line(line, line == HOME + 28 || line == HOME + 10 ? 6 : 7);
        else if (pattern == TWO_FREE)
            fill_line(line, line == HOME + 1 ? 5 : line == HOME + 3 || line == HOME + 6 ? 6 : 7);
        else
            fill_line(line, 7);
    }
}

static uint64_t seed = 88172645463325252u;
static unsigned draw(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)((seed * 2685821657736338717u) >> 40) % below;
}

/* Long ways at random, with two more names that take and give back room in the lines between. */
static void wander(unsigned pattern, unsigned ways)
{
    for (unsigned way = 0; way < ways; way++) {
        fill(pattern);
        for (unsigned step = 0; step < 40; step++) {
            unsigned key = draw(KEYS);
            watching = true;
            operate(key, routes[key] && draw(3) ? 1 : 0);
            watching = false;
            settle();
            look_at_all();
            watching = false;
        }
        check_fillers();
    }
}

/* Who meets whom: three names, and the fourth is one that makes room in the home line when it goes. */
static const struct {
    uint64_t home, middle, fingerprint;
} worlds[][3] = {
    {{HOME, 1, 7}, {HOME, 2, 7}, {HOME + 1, 3, 7}},      /* same home and fingerprint; the neighbour's too */
    {{HOME, 1, 7}, {HOME, 1, 7}, {HOME, 1, 8}},          /* the whole hash is the same */
    {{HOME, 1, 7}, {HOME + 1, 1, 7}, {HOME + 2, 1, 7}},  /* the same fingerprint in three homes in a row */
    {{HOME, 1, 7}, {HOME + 3, 1, 7}, {HOME + 2, 9, 11}}, /* one that is looked for where the other lives */
    {{HOME, 1, 0}, {HOME, 1, 1}, {HOME + 1, 1, 0}},      /* fingerprint 0 is kept as 1 */
};

int main(void)
{
    const char *wanted = getenv("CYREXT_LONG");
    unsigned depth = wanted && *wanted && strcmp(wanted, "0") != 0 ? 7 : 5;
    for (size_t world = 0; world < sizeof worlds / sizeof *worlds; world++)
        for (unsigned pattern = 0; pattern < PATTERNS; pattern++) {
            for (unsigned i = 0; i < 3; i++)
                hashes[i] = hash_of(worlds[world][i].home, worlds[world][i].middle, worlds[world][i].fingerprint);
            hashes[3] = hash_of(HOME, 77, 0xABCDEF);
            hashes[4] = hash_of(HOME + 1, 5, 0xABCDE0);
            hashes[5] = hash_of(HOME + 3, 5, 0xABCDE1);
            fill(pattern);
            go_deeper(0, depth);
            check_fillers();
            wander(pattern, 2000);
        }
    CHECK(sequences > 10000 && overtaken > 100000);
    (void)printf("%lu sequences, overtaken %lu times, %lu checks\n", sequences, overtaken, checks);
    return 0;
}
