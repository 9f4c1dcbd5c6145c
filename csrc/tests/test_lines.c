/* test_lines - the lines of the hot table against a plain array: every live name gets its route or "ask", whatever meets
 * whatever, beside readers that look all the time. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "lines.h"
#include "namehash.h"

#define CYX_LINES_PLAIN /* to be compared with what this processor has */
#include "lines_find.h"

static uint64_t state = 88172645463325252u;
static uint64_t draw(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 2685821657736338717u;
}

static cyx_lines_writer *new_table(uint64_t pages)
{
    cyx_lines_writer *table = calloc(1, sizeof *table);
    void *at = aligned_alloc(4096, pages * 4096);
    CHECK(table && at);
    memset(at, 0, pages * 4096);
    table->lines = (cyx_lines){at, pages * CYX_PAGE_LINES};
    return table;
}

static void free_table(cyx_lines_writer *table)
{
    free(table->lines.at);
    free(table);
}

static void test_hash(void)
{
    cyx_secret secret;
    char name[CYX_MAX_NAME + 1];
    for (size_t i = 0; i < CYX_SECRET_WORDS; i++)
        secret.words[i] = draw();
    memset(name, 'a', sizeof name);
    /* every byte and the length count, wherever they stand, and nothing behind the name does */
    for (size_t len = 0; len <= CYX_MAX_NAME; len++) {
        uint64_t hash = cyx_name_hash(&secret, name, len);
        CHECK(hash != cyx_name_hash(&secret, name, len + (len < CYX_MAX_NAME ? 1 : (size_t)-1)));
        for (size_t i = 0; i < len; i++) {
            name[i] ^= 1;
            CHECK(hash != cyx_name_hash(&secret, name, len));
            name[i] ^= 1;
        }
        name[len] ^= 1;
        CHECK(hash == cyx_name_hash(&secret, name, len));
        name[len] ^= 1;
    }
    /* the longest name uses the last words of the secret and none behind them */
    CHECK(CYX_HASH_SUM + 2 * ((CYX_MAX_NAME + CYX_HASH_BLOCK - 1) / CYX_HASH_BLOCK) <= CYX_SECRET_WORDS);
}

/* Few lines, few fingerprints: names look alike, pages overflow, and still no live name is answered wrongly. */
static void run_random(uint64_t pages, unsigned names, unsigned fingerprints, unsigned operations)
{
    cyx_lines_writer *table = new_table(pages);
    uint64_t *hashes = calloc(names, sizeof *hashes);
    uint32_t *routes = calloc(names, sizeof *routes);
    CHECK(hashes && routes);
    for (unsigned i = 0; i < names; i++) {
        uint64_t fingerprint = fingerprints ? draw() % fingerprints : draw() & (((uint64_t)1 << 40) - 1);
        hashes[i] = (draw() & ~(((uint64_t)1 << 40) - 1)) | fingerprint;
        for (unsigned j = 0; j < i; j++)
            if (hashes[j] == hashes[i])
                hashes[i] = draw(), j = 0;
    }
    for (unsigned n = 0; n < operations; n++) {
        unsigned i = (unsigned)(draw() % names);
        uint32_t route = 1 + (uint32_t)(draw() % 1000);
        if (!routes[i]) {
            CHECK(cyx_lines_insert(table, hashes[i], route));
            routes[i] = route;
        } else if (draw() % 2) {
            cyx_lines_update(table, hashes[i], route);
            routes[i] = route;
        } else {
            cyx_lines_delete(table, hashes[i]);
            routes[i] = 0;
        }
        if (n % 64 == 0 || n + 1 == operations) {
            for (unsigned j = 0; j < names; j++) {
                uint32_t found = cyx_lines_find(&table->lines, hashes[j]), told;
                CHECK(found == cyx_look(&table->lines, hashes[j]));
                CHECK(!cyx_look_home(&table->lines, hashes[j], &told) || told == found);
                if (routes[j])
                    CHECK(found == routes[j] || found == CYX_ROUTE_ASK);
                else if (!fingerprints)
                    CHECK(found == CYX_ROUTE_NONE || found == CYX_ROUTE_ASK);
            }
        }
    }
    /* with nothing alike, an emptied table is as good as new */
    for (unsigned i = 0; i < names; i++)
        if (routes[i])
            cyx_lines_delete(table, hashes[i]);
    CHECK(table->homeless_count == 0);
    if (!table->alike) {
        CHECK(table->placed == 0);
        for (uint64_t i = 0; i < table->lines.count; i++)
            for (unsigned slot = 0; slot < CYX_LINE_SLOTS; slot++)
                CHECK(table->lines.at[i].head == 0 && table->lines.at[i].slots[slot] == 0);
    }
    CHECK(fingerprints == 0 || fingerprints > 100 || table->alike > 0);
    free(routes);
    free(hashes);
    free_table(table);
}

/* A page that is full: names without a place are asked for, and remembered only up to a bound. */
static void test_full(void)
{
    cyx_lines_writer *table = new_table(1);
    uint64_t hashes[CYX_PAGE_LINES * CYX_LINE_SLOTS + CYX_HOMELESS_MAX + 1];
    size_t count = 0, limit = sizeof hashes / sizeof *hashes;
    while (count < limit) {
        hashes[count] = draw();
        if (!cyx_lines_insert(table, hashes[count], 7))
            break;
        count++;
    }
    CHECK(count < limit && table->homeless_count == CYX_HOMELESS_MAX);
    for (size_t i = 0; i < count; i++) {
        uint32_t found = cyx_lines_find(&table->lines, hashes[i]);
        CHECK(found == 7 || found == CYX_ROUTE_ASK);
    }
    free_table(table);
}

/* Readers beside a writer at full speed: names that stay are always found, with a route that they had. */
#define STAY 2000u
static struct {
    cyx_lines_writer *table;
    uint64_t stay[STAY];
    bool over;
    unsigned long looked;
} shared;

static void *look(void *unused)
{
    (void)unused;
    uint64_t seed = 0x9E3779B97F4A7C15u;
    while (!__atomic_load_n(&shared.over, __ATOMIC_ACQUIRE)) {
        for (unsigned n = 0; n < 1000; n++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            unsigned i = (unsigned)(seed >> 33) % STAY;
            uint32_t route = cyx_lines_find(&shared.table->lines, shared.stay[i]);
            if (route != CYX_ROUTE_ASK && route % STAY != i) {
                (void)fprintf(stderr, "name %u was answered with route %u\n", i, route);
                exit(1);
            }
        }
        (void)__atomic_add_fetch(&shared.looked, 1000, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void test_beside_readers(void)
{
    pthread_t readers[2];
    uint64_t churn[4000];
    bool there[4000] = {false};
    shared.table = new_table(16);
    for (unsigned i = 0; i < STAY; i++) {
        shared.stay[i] = draw();
        CHECK(cyx_lines_insert(shared.table, shared.stay[i], STAY + i));
    }
    for (unsigned i = 0; i < 4000; i++)
        churn[i] = draw();
    for (unsigned i = 0; i < 2; i++)
        CHECK(pthread_create(&readers[i], NULL, look, NULL) == 0);
    for (unsigned n = 0; n < 2000000 || __atomic_load_n(&shared.looked, __ATOMIC_RELAXED) < 200000; n++) {
        unsigned i = (unsigned)(draw() % 4000);
        if (there[i])
            cyx_lines_delete(shared.table, churn[i]);
        else
            CHECK(cyx_lines_insert(shared.table, churn[i], 1 + (uint32_t)(draw() % 100000)));
        there[i] = !there[i];
        unsigned j = (unsigned)(draw() % STAY);
        cyx_lines_update(shared.table, shared.stay[j], STAY * (1 + (uint32_t)(draw() % 8000)) + j);
    }
    __atomic_store_n(&shared.over, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < 2; i++)
        CHECK(pthread_join(readers[i], NULL) == 0);
    free_table(shared.table);
}

/* Names that count, under many secrets: as evenly spread as by chance. */
static void test_spread(void)
{
    static const char *const forms[] = {"user.u%u", "user.u%05u", "example.org!user.u%u.Sent.%u", "user.x.folder%u"};
    uint64_t homeless = 0, tables = 0;
    for (unsigned n = 0; n < 400; n++) {
        cyx_lines_writer *table = new_table(cyx_lines_for(5000, 67) / CYX_PAGE_LINES);
        cyx_secret secret;
        for (size_t i = 0; i < CYX_SECRET_WORDS; i++)
            secret.words[i] = draw();
        for (unsigned i = 0; i < 5000; i++) {
            char name[64];
            int len = snprintf(name, sizeof name, forms[n % 4], i, i);
            CHECK(cyx_lines_insert(table, cyx_name_hash(&secret, name, (size_t)len), 1));
        }
        homeless += table->homeless_count;
        tables++;
        free_table(table);
    }
    CHECK(tables == 400 && homeless < 20);
}

int main(void)
{
    test_hash();
    test_spread();
    run_random(4, 1200, 0, 200000);
    run_random(1, 400, 0, 100000);
    run_random(1, 300, 3, 100000);
    run_random(1, 440, 40, 100000);
    run_random(2, 500, 1, 50000);
    /* pages that fill up before many look alike: who comes first decides who stands before whom */
    for (unsigned n = 0; n < 600; n++)
        run_random(1, 400 + n % 200, 200 + n * 4, 1500);
    for (unsigned n = 0; n < 100; n++)
        run_random(1, 760, 300 + n * 20, 5000); /* with many that find no place */
    test_full();
    test_beside_readers();
    (void)printf("%lu checks\n", checks);
    return 0;
}
