/* visible.c - one change after the other is committed, and another process looks the mailbox up until it sees it. */
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "node.h"

#define PATIENCE_NS 10e9

/* In memory that both processes have.  Each number is written by one of them. */
typedef struct shared {
    uint64_t asked, watching, seen; /* the number of the change; `watching` once the old place was answered */
    uint64_t which;
    int before, after;
    double seen_ns;
} shared;

static inline uint64_t load(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
static inline void store(uint64_t *at, uint64_t value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }

static void await(const uint64_t *at, uint64_t value)
{
    for (double until = now_ns() + PATIENCE_NS; load(at) != value;)
        if (now_ns() > until)
            die("a change is not seen by the other process");
}

static _Noreturn void watch(const char *dir, shared *both, unsigned changes)
{
    stay_on(1);
    cyx_reader *reader = open_reader(dir);
    for (uint64_t n = 1; n <= changes; n++) {
        char name[NAME_MAX_LEN];
        cyx_location at;
        await(&both->asked, n);
        size_t len = key_name(both->which, 0, name);
        for (int server = -1; server != both->after;) {
            checked(cyx_lookup(reader, name, len, &at), "looking up");
            server = at.state ? server_of(at.server) : -1;
            if (server == both->before)
                store(&both->watching, n);
            else if (server != both->after)
                die("a place that the mailbox never had: %d", server);
        }
        both->seen_ns = now_ns();
        store(&both->seen, n);
    }
    _exit(cyx_reader_hot_generation(reader) == 0); /* it must have been the table that told */
}

static int by_size(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

visible measure_visible(const char *dir, cyx_writer *writer, uint64_t records, unsigned changes)
{
    shared *both = mmap(NULL, sizeof *both, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double *took = calloc(changes, sizeof *took), *called = calloc(changes, sizeof *called);
    int status;
    if (both == MAP_FAILED || !took || !called || !changes)
        die("out of memory");
    pid_t child = fork();
    if (child < 0)
        die("no process");
    if (child == 0)
        watch(dir, both, changes);
    for (unsigned n = 1; n <= changes; n++) {
        char name[NAME_MAX_LEN], acl[NAME_MAX_LEN], server[SERVER_TEXT_LEN];
        uint64_t i = (uint64_t)n * 7919 % records;
        both->which = i;
        both->before = (int)key_server(i);
        both->after = (int)((key_server(i) + 1) % SERVERS);
        store(&both->asked, n);
        await(&both->watching, n);
        cyx_put_record record = record_of(i, (uint32_t)both->after, name, acl, server);
        checked(cyx_writer_begin(writer), "beginning");
        checked(cyx_writer_put_many(writer, &record, 1), "writing");
        double began = now_ns();
        checked(cyx_writer_commit(writer), "committing");
        double committed = now_ns();
        await(&both->seen, n);
        took[n - 1] = both->seen_ns > committed ? both->seen_ns - committed : 0;
        called[n - 1] = both->seen_ns - began;
        record = record_of(i, key_server(i), name, acl, server); /* as it was, for the others */
        checked(cyx_writer_begin(writer), "beginning");
        checked(cyx_writer_put_many(writer, &record, 1), "writing");
        checked(cyx_writer_commit(writer), "committing");
    }
    if (waitpid(child, &status, 0) != child || status)
        die("the process that watched failed");
    qsort(took, changes, sizeof *took, by_size);
    qsort(called, changes, sizeof *called, by_size);
    size_t late = changes - 1 - changes / 100;
    visible found = {took[changes / 2], took[late], took[changes - 1], called[changes / 2], called[late]};
    free(took);
    free(called);
    (void)munmap(both, sizeof *both);
    return found;
}
