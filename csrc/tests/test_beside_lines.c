/* test_beside_lines - the lines written at full speed beside two processes that check every answer. */
#include <stdio.h>
#include <stdlib.h>

#include "beside.h"
#include "check.h"
#include "lines.h"

#define PAGES 15u   /* so crowded that some names find no place */
#define STAY 3000u  /* there all the time, in one place */
#define FLIP 1000u  /* there all the time, in one of two places */
#define COME 4000u  /* there or not */
#define NEVER 2000u /* never there */
#define ALIKE 40u   /* of FLIP and COME each: with the fingerprint and home of one that stays */

enum { OF_STAY = 1, OF_FLIP = 100000, OF_COME = 200000 };

static cyx_lines_writer *table;
static uint64_t stay[STAY], flip[FLIP], come[COME], never[NEVER];

static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 2685821657736338717u;
}

static void say(const char *kind, unsigned i, uint32_t found)
{
    (void)fprintf(stderr, "%s %u was answered with route %u\n", kind, i, found);
    _exit(1);
}

static void look(unsigned me)
{
    uint64_t seed = 1234567 + me;
    while (!beside_over()) {
        for (unsigned n = 0; n < 1000; n++) {
            uint64_t random = draw(&seed);
            unsigned i = (unsigned)(random >> 8) % STAY, j = (unsigned)(random >> 8) % FLIP,
                     k = (unsigned)(random >> 8) % COME, l = (unsigned)(random >> 8) % NEVER;
            uint32_t found;
            if ((found = cyx_lines_find(&table->lines, stay[i])) != OF_STAY + i && found != CYX_ROUTE_ASK)
                say("one that stays", i, found);
            found = cyx_lines_find(&table->lines, flip[j]);
            if (found != OF_FLIP + 2 * j && found != OF_FLIP + 2 * j + 1 && found != CYX_ROUTE_ASK)
                say("one that moves", j, found);
            found = cyx_lines_find(&table->lines, come[k]);
            /* the last ones look like one that stays, and are taken for it until they have come once */
            if (found != CYX_ROUTE_NONE && found != OF_COME + k && found != CYX_ROUTE_ASK &&
                (k >= ALIKE || found != OF_STAY + k))
                say("one that comes and goes", k, found);
            found = cyx_lines_find(&table->lines, never[l]);
            if (found != CYX_ROUTE_NONE && found != CYX_ROUTE_ASK)
                say("one that is never there", l, found);
        }
        beside_count(me, 4000);
    }
}

static void fill(uint64_t *seed)
{
    for (unsigned i = 0; i < STAY; i++) {
        stay[i] = draw(seed);
        CHECK(cyx_lines_insert(table, stay[i], OF_STAY + i));
    }
    for (unsigned i = 0; i < FLIP; i++) {
        flip[i] = i < ALIKE ? stay[ALIKE + i] ^ (uint64_t)1 << 40 : draw(seed);
        CHECK(cyx_lines_insert(table, flip[i], OF_FLIP + 2 * i));
    }
    for (unsigned i = 0; i < COME; i++)
        come[i] = i < ALIKE ? stay[i] ^ (uint64_t)1 << 40 : draw(seed);
    for (unsigned i = 0; i < NEVER; i++)
        never[i] = draw(seed);
}

int main(void)
{
    static bool there[COME];
    uint64_t seed = 88172645463325252u, operations = 0, homeless = 0;
    beside_prepare();
    size_t size = sizeof *table + PAGES * 4096;
    uint8_t *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    table = (cyx_lines_writer *)(at + PAGES * 4096);
    table->lines = (cyx_lines){(cyx_line *)at, PAGES * CYX_PAGE_LINES};
    fill(&seed);
    beside_start(look);
    beside_start(look);
    double begun = beside_now(), until = begun + beside_seconds(3);
    while (beside_now() < until || beside_looked_least() < 100000) {
        for (unsigned n = 0; n < 10000; n++) {
            uint64_t random = draw(&seed);
            unsigned k = (unsigned)(random >> 8) % COME, j = (unsigned)(random >> 40) % FLIP;
            if (there[k])
                cyx_lines_delete(table, come[k]);
            else
                CHECK(cyx_lines_insert(table, come[k], OF_COME + k));
            there[k] = !there[k];
            cyx_lines_update(table, flip[j], OF_FLIP + 2 * j + (uint32_t)(random & 1));
        }
        operations += 20000;
        homeless += table->homeless_count;
        beside_alive();
    }
    double took = beside_now() - begun;
    uint64_t looked = beside->looked[0] + beside->looked[1];
    beside_stop();
    CHECK(looked > 200000 && table->alike > 0 && homeless > 0);
    (void)printf("%lu changes and %lu look-ups in %.1f s, %lu checks\n", (unsigned long)operations,
                 (unsigned long)looked, took, checks);
    return 0;
}
