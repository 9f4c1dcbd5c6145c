/* test_beside_store - a store and its hot table beside processes that check every answer: first while transactions are
 * committed as fast as they can be, then while one table after the other takes its predecessor's place.
 */
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "beside.h"
#include "check.h"
#include "hot.h"
#include "writer.h"

#define STAY 600u
#define FLIP 200u
#define COME 300u
#define NEVER 300u
#define SWAPS 150u
#define PERIOD_US 10000u
#define TABLES_MAX 8u /* that a process may have mapped at one time */

static char root[] = "/dev/shm/cyx-beside-XXXXXX";
static char state_dir[64], run_dir[64];

/* Where a mailbox is, so that each part tells the others: server, partition and ACL go together. */
static int place_text(char *text, size_t size, char kind, unsigned i, unsigned which)
{
    return snprintf(text, size, "%c%u.%u", kind, i % 50, which);
}

static void put(cyx_writer *writer, char kind, unsigned i, unsigned which, uint32_t state)
{
    char name[48], server[32], partition[32], acl[64];
    uint64_t seq;
    int64_t at;
    int name_len = snprintf(name, sizeof name, "user.%c%u", kind, i);
    int len = place_text(server, sizeof server, kind, i, which);
    (void)place_text(partition, sizeof partition, kind, i, which);
    int acl_len = snprintf(acl, sizeof acl, "%s\tlrs\t", server);
    const cyx_put_record record = {.name = name, .name_len = (size_t)name_len, .server = server,
                                   .server_len = (size_t)len, .partition = partition, .partition_len = (size_t)len,
                                   .acl = acl, .acl_len = state == CYX_DELETED ? 0 : (size_t)acl_len, .by = "test",
                                   .by_len = 4, .state = state};
    CHECK(cyx_writer_put(writer, &record, &seq, &at) == CYX_OK);
}

static void wrong(const char *name, const char *what)
{
    (void)fprintf(stderr, "%s: %s\n", name, what);
    _exit(1);
}

static bool is_place(const char *text, char kind, unsigned i, unsigned which)
{
    char expected[32];
    (void)place_text(expected, sizeof expected, kind, i, which);
    return strcmp(text, expected) == 0;
}

static void check_one(const char *name, char kind, unsigned i, int rc, const cyx_location *at)
{
    if (rc != CYX_OK && rc != CYX_ABSENT)
        wrong(name, cyx_detail());
    if (kind == 'n' && rc != CYX_ABSENT)
        wrong(name, "was never there, and is found");
    if ((kind == 's' || kind == 'f') && rc != CYX_OK)
        wrong(name, "is there all the time, and is not found");
    if (rc == CYX_ABSENT)
        return;
    unsigned which = is_place(at->server, kind, i, 0) ? 0 : 1;
    if (!is_place(at->server, kind, i, which) || (which == 1 && kind != 'f'))
        wrong(name, "is where it never was");
    if (strcmp(at->server, at->partition) != 0)
        wrong(name, "has the server of one place and the partition of another");
    if (at->state != CYX_ACTIVE || at->flags)
        wrong(name, "has a state that it never had");
}

static void check_acl(cyx_reader *reader, const char *name, size_t len, char kind, unsigned i)
{
    char acl[64];
    size_t acl_len;
    int rc = cyx_acl(reader, name, len, acl, sizeof acl - 1, &acl_len);
    if (rc == CYX_ABSENT && kind == 'c')
        return;
    if (rc != CYX_OK || acl_len < 5 || memcmp(acl + acl_len - 5, "\tlrs\t", 5) != 0)
        wrong(name, "has an ACL that it never had");
    acl[acl_len - 5] = 0;
    if (!is_place(acl, kind, i, 0) && (kind != 'f' || !is_place(acl, kind, i, 1)))
        wrong(name, "has the ACL of another");
}

typedef struct question {
    char name[32];
    size_t len;
    char kind;
    unsigned i;
} question;

static void draw_question(uint64_t *seed, question *q)
{
    static const char kinds[] = "sfcn";
    static const unsigned counts[] = {STAY, FLIP, COME, NEVER};
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    unsigned kind = (unsigned)(*seed >> 60) % 4;
    q->kind = kinds[kind];
    q->i = (unsigned)(*seed >> 33) % counts[kind];
    q->len = (size_t)snprintf(q->name, sizeof q->name, "user.%c%u", q->kind, q->i);
}

#define MANY 70u
static void look_with(cyx_reader *reader, uint64_t *seed, unsigned rounds)
{
    question asked[MANY];
    cyx_name names[MANY];
    cyx_location at[MANY];
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned n = 0; n < MANY; n++) {
            draw_question(seed, &asked[n]);
            names[n] = (cyx_name){asked[n].name, asked[n].len};
            check_one(asked[n].name, asked[n].kind, asked[n].i,
                      cyx_lookup(reader, asked[n].name, asked[n].len, &at[n]), &at[n]);
        }
        if (cyx_lookup_many(reader, names, MANY, at) != CYX_OK)
            wrong("many", cyx_detail());
        for (unsigned n = 0; n < MANY; n++)
            check_one(asked[n].name, asked[n].kind, asked[n].i, at[n].state ? CYX_OK : CYX_ABSENT, &at[n]);
        if (asked[0].kind != 'n')
            check_acl(reader, asked[0].name, asked[0].len, asked[0].kind, asked[0].i);
    }
}

/* A mailbox that is renamed again and again, always forward: who misses it under one name finds it under a later one.
 * bounds[i] is the last name that it may have by now. */
static void follow_renames(cyx_reader *reader, uint64_t last[BOUNDS])
{
    for (unsigned i = 0; i < BOUNDS; i++) {
        for (;; last[i]++) {
            char name[48];
            cyx_location at;
            int len = snprintf(name, sizeof name, "user.r%u.%lu", i, (unsigned long)last[i]);
            int rc = cyx_lookup(reader, name, (size_t)len, &at);
            if (rc == CYX_OK)
                break;
            if (rc != CYX_ABSENT || __atomic_load_n(&beside->bounds[i], __ATOMIC_ACQUIRE) == last[i])
                wrong(name, "is renamed, and was found under no name");
        }
    }
}

static unsigned count_in(const char *directory)
{
    unsigned count = 0;
    DIR *dir = opendir(directory);
    CHECK(dir);
    while (readdir(dir))
        count++;
    (void)closedir(dir);
    return count;
}

/* Of hot tables, in use or not. */
static unsigned count_tables(void)
{
    char line[512];
    unsigned count = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    CHECK(file);
    while (fgets(line, sizeof line, file))
        count += strstr(line, run_dir) && strstr(line, "/hot");
    (void)fclose(file);
    return count;
}

static void check_usage(unsigned descriptors)
{
    if (count_tables() > TABLES_MAX)
        wrong("mappings", "are more with every table");
    if (count_in("/proc/self/fd") > descriptors)
        wrong("descriptors", "are more with every table");
}

static void note_generation(unsigned me, cyx_reader *reader, uint64_t *last)
{
    uint64_t generation = cyx_reader_hot_generation(reader);
    if (generation && generation < *last)
        wrong("generation", "went back");
    if (generation != *last && generation)
        (void)__atomic_add_fetch(&beside->generations[me], 1, __ATOMIC_RELAXED);
    *last = generation ? generation : *last;
}

static void look_alone(unsigned me)
{
    cyx_reader *reader;
    uint64_t seed = 99 + me, generation = 0;
    CHECK(cyx_open(state_dir, &reader) == CYX_OK);
    uint64_t last[BOUNDS] = {0};
    look_with(reader, &seed, 10);
    for (unsigned open_first = count_in("/proc/self/fd"); !beside_over(); check_usage(open_first)) {
        look_with(reader, &seed, 4);
        follow_renames(reader, last);
        note_generation(me, reader, &generation);
        beside_count(me, (uint64_t)8 * MANY);
    }
    cyx_close(&reader);
}

static cyx_reader *common;
static unsigned shared_by;

static void *look_in_thread(void *context)
{
    uint64_t seed = (uint64_t)(uintptr_t)context;
    while (!beside_over()) {
        look_with(common, &seed, 5);
        beside_count(shared_by, (uint64_t)10 * MANY);
    }
    return NULL;
}

/* Threads that share one handle. */
static void look_in_threads(unsigned me)
{
    pthread_t threads[3];
    uint64_t seed = 7, generation = 0;
    shared_by = me;
    CHECK(cyx_open(state_dir, &common) == CYX_OK);
    for (uintptr_t i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, look_in_thread, (void *)(i + 1)) == 0);
    look_with(common, &seed, 50);
    /* one more: another thread may be opening the next table while it is counted */
    for (unsigned open_first = count_in("/proc/self/fd") + 1; !beside_over(); check_usage(open_first)) {
        look_with(common, &seed, 5);
        note_generation(me, common, &generation);
    }
    for (unsigned i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    cyx_close(&common);
}

static void put_renamed(cyx_writer *writer, unsigned i, uint64_t number, uint32_t state)
{
    char name[48];
    uint64_t seq;
    int64_t at;
    int len = snprintf(name, sizeof name, "user.r%u.%lu", i, (unsigned long)number);
    const cyx_put_record record = {.name = name, .name_len = (size_t)len, .server = "be1", .server_len = 3,
                                   .partition = "", .acl = "", .by = "test", .by_len = 4, .state = state};
    CHECK(cyx_writer_put(writer, &record, &seq, &at) == CYX_OK);
}

static void rename_one(cyx_writer *writer, unsigned i)
{
    uint64_t now = beside->bounds[i];
    __atomic_store_n(&beside->bounds[i], now + 1, __ATOMIC_RELEASE);
    put_renamed(writer, i, now, CYX_DELETED);
    put_renamed(writer, i, now + 1, CYX_ACTIVE);
}

/* One transaction: some move, some of them by a deletion and a new beginning, some come, some go. */
static void change(cyx_writer *writer, uint64_t *seed, bool *there, unsigned count)
{
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    rename_one(writer, (unsigned)(*seed >> 40) % BOUNDS);
    for (unsigned n = 0; n < count; n++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        unsigned i = (unsigned)(*seed >> 33), which = (unsigned)(*seed >> 20) & 1;
        if (n % 2) {
            if (n % 4 == 3)
                put(writer, 'f', i % FLIP, which, CYX_DELETED);
            put(writer, 'f', i % FLIP, which, CYX_ACTIVE);
        } else {
            there[i % COME] = !there[i % COME];
            put(writer, 'c', i % COME, 0, there[i % COME] ? CYX_ACTIVE : CYX_DELETED);
        }
    }
    CHECK(cyx_writer_commit(writer) == CYX_OK);
    cyx_writer_beat(writer, true);
}

static void beside_full_speed(cyx_writer *writer, uint64_t *seed, bool *there)
{
    unsigned long commits = 0;
    beside_start(look_alone);
    beside_start(look_alone);
    double begun = beside_now(), until = begun + beside_seconds(3);
    for (; beside_now() < until || beside_looked_least() < 20000; commits++) {
        change(writer, seed, there, 1 + (unsigned)commits % 30);
        beside_alive();
    }
    double took = beside_now() - begun;
    uint64_t looked = beside->looked[0] + beside->looked[1];
    beside_stop();
    (void)printf("%lu commits beside %lu look-ups in %.1f s\n", commits, (unsigned long)looked, took);
}

static void beside_swaps(cyx_writer *writer, uint64_t *seed, bool *there)
{
    unsigned long swaps = 0;
    beside_start(look_alone);
    beside_start(look_alone);
    beside_start(look_in_threads);
    double begun = beside_now(), until = begun + beside_seconds(1.5), next = begun;
    for (; beside_now() < until || swaps < SWAPS || beside_looked_least() < 20000; swaps++) {
        change(writer, seed, there, 8);
        CHECK(cyx_writer_build_hot(writer) == CYX_OK);
        beside_alive();
        next += PERIOD_US / 1e6;
        double wait = next - beside_now();
        if (wait > 0)
            (void)usleep((useconds_t)(wait * 1e6));
    }
    double took = beside_now() - begun;
    uint64_t looked = beside->looked[0] + beside->looked[1] + beside->looked[2];
    for (unsigned i = 0; i < looker_count; i++)
        CHECK(beside->generations[i] > SWAPS / 20);
    beside_stop();
    (void)printf("%lu tables beside %lu look-ups in %.1f s\n", swaps, (unsigned long)looked, took);
}

int main(void)
{
    static bool there[COME];
    cyx_writer *writer;
    uint64_t seed = 42;
    beside_prepare();
    CHECK(mkdtemp(root));
    (void)snprintf(state_dir, sizeof state_dir, "%s/state", root);
    (void)snprintf(run_dir, sizeof run_dir, "%s/run", root);
    CHECK(cyx_writer_open(state_dir, run_dir, "", (size_t)1 << 30, &writer) == CYX_OK);
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    for (unsigned i = 0; i < STAY; i++)
        put(writer, 's', i, 0, CYX_ACTIVE);
    for (unsigned i = 0; i < FLIP; i++)
        put(writer, 'f', i, i % 2, CYX_ACTIVE);
    for (unsigned i = 0; i < BOUNDS; i++)
        put_renamed(writer, i, 0, CYX_ACTIVE);
    CHECK(cyx_writer_commit(writer) == CYX_OK);
    cyx_writer_beat(writer, true);
    CHECK(cyx_writer_build_hot(writer) == CYX_OK);
    beside_full_speed(writer, &seed, there);
    beside_swaps(writer, &seed, there);
    cyx_writer_close(&writer);
    char command[64];
    (void)snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0);
    (void)printf("%lu checks\n", checks);
    return 0;
}
