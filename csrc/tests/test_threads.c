/* test_threads - threads that share one handle: tables come and go under their look-ups, the store is replaced, the
 * handle refreshed, processes are forked; every answer is checked.  Under ThreadSanitizer it shows that nobody reads
 * what another frees or changes.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "guard.h"
#include "hot.h"
#include "writer.h"

#define NAMES 600u
#define THREADS 4u
static char root[] = "/tmp/cyx-threads-XXXXXX";
static char state[64], run[64];
static char names[NAMES][48];
static cyx_reader *reader;
static bool over;
static unsigned long looked, generations;

/* Name i is on server i % 7 for ever, every fifth is not there. */
static bool there(uint32_t i) { return i % 5 != 0; }
static const char *server_of(uint32_t i)
{
    static const char *const servers[] = {"be0", "be1", "be2", "be3", "be4", "be5.example.org", "be6:1143"};
    return servers[i % 7];
}

static void put(cyx_writer *writer, uint32_t i)
{
    uint64_t seq;
    int64_t at;
    const cyx_put_record record = {.name = names[i], .name_len = strlen(names[i]), .server = server_of(i),
                                   .server_len = strlen(server_of(i)), .partition = "default", .partition_len = 7,
                                   .by = "test", .by_len = 4, .acl = "", .state = CYX_ACTIVE};
    CHECK(cyx_writer_put(writer, &record, &seq, &at) == CYX_OK);
}

static void put_all(cyx_writer *writer)
{
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    for (uint32_t i = 0; i < NAMES; i++)
        if (there(i))
            put(writer, i);
    CHECK(cyx_writer_commit(writer) == CYX_OK);
    cyx_writer_beat(writer, true);
}

static void check_one(uint32_t i, int rc, const cyx_location *at)
{
    CHECK(rc == (there(i) ? CYX_OK : CYX_ABSENT));
    CHECK(at->state == (there(i) ? CYX_ACTIVE : 0));
    if (there(i))
        CHECK(strcmp(at->server, server_of(i)) == 0 && strcmp(at->partition, "default") == 0 && at->flags == 0);
}

static void look_once(uint32_t from)
{
    cyx_location at[40];
    cyx_name wanted[40];
    for (uint32_t n = 0; n < 40; n++) {
        uint32_t i = (from + 11 * n) % NAMES;
        wanted[n] = (cyx_name){names[i], strlen(names[i])};
        int rc = cyx_lookup(reader, wanted[n].data, wanted[n].len, &at[n]);
        check_one(i, rc, &at[n]);
    }
    CHECK(cyx_lookup_many(reader, wanted, 40, at) == CYX_OK);
    for (uint32_t n = 0; n < 40; n++) {
        uint32_t i = (from + 11 * n) % NAMES;
        check_one(i, at[n].state ? CYX_OK : CYX_ABSENT, &at[n]);
    }
    (void)__atomic_add_fetch(&looked, 1, __ATOMIC_RELAXED);
}

static void *look(void *context)
{
    uint32_t from = (uint32_t)(uintptr_t)context;
    while (!__atomic_load_n(&over, __ATOMIC_ACQUIRE))
        look_once(from += 3);
    return NULL;
}

static void start(pthread_t threads[THREADS])
{
    __atomic_store_n(&over, false, __ATOMIC_RELEASE);
    for (uintptr_t n = 0; n < THREADS; n++)
        CHECK(pthread_create(&threads[n], NULL, look, (void *)(n * 101)) == 0);
}

static void stop(pthread_t threads[THREADS])
{
    __atomic_store_n(&over, true, __ATOMIC_RELEASE);
    for (unsigned n = 0; n < THREADS; n++)
        CHECK(pthread_join(threads[n], NULL) == 0);
}

static void await_looks(unsigned long more)
{
    unsigned long wanted = __atomic_load_n(&looked, __ATOMIC_RELAXED) + more;
    for (unsigned n = 0; n < 60000 && __atomic_load_n(&looked, __ATOMIC_RELAXED) < wanted; n++)
        (void)usleep(1000);
    CHECK(__atomic_load_n(&looked, __ATOMIC_RELAXED) >= wanted);
}

static unsigned given_up(void)
{
    unsigned count = 0;
    CHECK(cyx_reader_lock(reader) == CYX_OK);
    for (const cyx_table *table = reader->given_up; table; table = table->next)
        count++;
    cyx_reader_unlock(reader);
    return count;
}

/* Table after table while they look: those given up go, for nobody is in one for long. */
static void test_generations(cyx_writer *writer)
{
    pthread_t threads[THREADS];
    start(threads);
    for (unsigned n = 0; n < 60; n++) {
        CHECK(cyx_writer_build_hot(writer) == CYX_OK);
        cyx_writer_beat(writer, true);
        uint64_t before = generations;
        for (unsigned turn = 0; turn < 60000 && generations == before; turn++) {
            generations = cyx_reader_hot_generation(reader);
            (void)usleep(100);
        }
        CHECK(generations > before && given_up() <= THREADS);
        await_looks(THREADS);
        if (n % 7 == 0)
            CHECK(cyx_refresh(reader) == CYX_OK);
    }
    stop(threads);
}

/* A thread that is in a table keeps it, and that one only. */
static void test_guard(cyx_writer *writer)
{
    cyx_guard *guard = cyx_guard_claim();
    CHECK(guard && guard == cyx_thread_guard && cyx_guard_claim() == guard);
    CHECK(cyx_reader_hot_generation(reader) > 0);
    const cyx_table *inside = cyx_guard_hold(guard, &reader->table);
    CHECK(inside && inside == reader->table && cyx_guard_holds(inside));
    uint64_t generation = inside->hot.header->generation;
    for (unsigned n = 1; n < 4; n++) {
        CHECK(cyx_writer_build_hot(writer) == CYX_OK);
        for (unsigned turn = 0; turn < 60000 && cyx_reader_hot_generation(reader) < generation + n; turn++)
            (void)usleep(100);
        CHECK(cyx_reader_hot_generation(reader) == generation + n);
        CHECK(given_up() == 1 && reader->given_up == inside && inside->hot.header->generation == generation);
    }
    cyx_guard_leave(guard);
    CHECK(cyx_writer_build_hot(writer) == CYX_OK && cyx_reader_hot_generation(reader) > 0 && given_up() == 0);
}

/* Children of a process whose threads look, swap and refresh: whatever was half done there, theirs is whole. */
static void test_forks(cyx_writer *writer)
{
    pthread_t threads[THREADS];
    start(threads);
    for (unsigned n = 0; n < 40; n++) {
        if (n % 4 == 0) {
            CHECK(cyx_writer_build_hot(writer) == CYX_OK);
            cyx_writer_beat(writer, true);
        }
        if (n % 3 == 0)
            CHECK(cyx_refresh(reader) == CYX_OK);
        pid_t child = fork();
        if (child == 0) {
            for (uint32_t i = 0; i < 20; i++)
                look_once(i);
            CHECK(cyx_refresh(reader) == CYX_OK);
            look_once(1);
            cyx_location at;
            CHECK(cyx_inspect(reader, names[1], strlen(names[1]), &at) == CYX_OK && strcmp(at.server, "be1") == 0);
            cyx_close(&reader);
            _exit(0);
        }
        int status;
        CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    }
    stop(threads);
}

/* Another store in the place of the first, with other numbers for its servers, while they look. */
static void test_other_store(cyx_writer **writer)
{
    char old[80], other_run[80], command[256];
    pthread_t threads[THREADS];
    start(threads);
    for (unsigned n = 0; n < 4; n++) {
        cyx_writer *second;
        (void)snprintf(old, sizeof old, "%s/old%u", root, n);
        (void)snprintf(other_run, sizeof other_run, "%s/run%u", root, n);
        CHECK(rename(state, old) == 0);
        CHECK(cyx_writer_open(state, other_run, "", (size_t)1 << 26, &second) == CYX_OK);
        CHECK(cyx_writer_begin(second) == CYX_OK);
        for (uint32_t i = NAMES - n; i-- > 0;)
            if (there(i))
                put(second, i);
        for (uint32_t i = NAMES - n; i < NAMES; i++)
            if (there(i))
                put(second, i);
        CHECK(cyx_writer_commit(second) == CYX_OK);
        CHECK(cyx_writer_build_hot(second) == CYX_OK);
        cyx_writer_beat(second, true);
        await_looks(THREADS); /* in the first one */
        CHECK(cyx_refresh(reader) == CYX_OK);
        await_looks(THREADS);
        cyx_writer_close(writer);
        *writer = second;
        (void)snprintf(command, sizeof command, "rm -r %s", old);
        CHECK(system(command) == 0);
    }
    stop(threads);
}

/* More threads than there are guards: the rest look under the lock. */
static void *look_a_little(void *barrier)
{
    look_once(7);
    (void)pthread_barrier_wait(barrier);
    look_once(8);
    return NULL;
}

static void test_many_threads(void)
{
    enum { MANY = 300 };
    static pthread_t threads[MANY];
    pthread_barrier_t barrier;
    for (unsigned round = 0; round < 2; round++) { /* guards are given back */
        CHECK(pthread_barrier_init(&barrier, NULL, MANY) == 0);
        for (unsigned n = 0; n < MANY; n++)
            CHECK(pthread_create(&threads[n], NULL, look_a_little, &barrier) == 0);
        for (unsigned n = 0; n < MANY; n++)
            CHECK(pthread_join(threads[n], NULL) == 0);
        CHECK(pthread_barrier_destroy(&barrier) == 0);
    }
}

int main(void)
{
    cyx_writer *writer;
    CHECK(mkdtemp(root));
    (void)snprintf(state, sizeof state, "%s/state", root);
    (void)snprintf(run, sizeof run, "%s/run", root);
    for (uint32_t i = 0; i < NAMES; i++)
        (void)snprintf(names[i], sizeof names[i], i % 3 ? "user.u%u" : "example.org!user.u%u.Sent.%u", i, i);
    CHECK(cyx_writer_open(state, run, "", (size_t)1 << 26, &writer) == CYX_OK);
    put_all(writer);
    CHECK(cyx_writer_build_hot(writer) == CYX_OK);
    CHECK(cyx_open(state, &reader) == CYX_OK);
    test_generations(writer);
    test_guard(writer);
    test_forks(writer);
    test_many_threads();
    test_other_store(&writer);
    for (unsigned n = 0; n < 2; n++) { /* the second handle begins where the first did */
        look_once(n);
        cyx_close(&reader);
        CHECK(!reader && cyx_open(state, &reader) == CYX_OK);
    }
    cyx_close(&reader);
    cyx_writer_close(&writer);
    char command[64];
    (void)snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0);
    (void)printf("%lu checks\n", checks);
    return 0;
}
