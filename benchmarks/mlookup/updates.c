/* updates.c - the table by itself: how many changes a second it takes, beside a process that looks mailboxes up.
 *
 * A generation of its own, made and changed by what the node uses at a commit, in the place of the node's.  Seven of
 * eight names are moved to and fro between two servers: a reader must see one of the two, always.  The eighth comes and
 * goes: it must see its server or nothing.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "node.h"

#define AHEAD CYX_HOT_AHEAD /* as a commit and a rebuild do it */
#define AT_ONCE 1024u /* between two looks at the clock */

typedef struct shared {
    uint64_t answered, wrong, stop;
} shared;

static inline int comes_and_goes(uint64_t i) { return i % 8 == 3; }
static inline uint32_t moved(uint32_t server) { return (server + 1) % SERVERS; }

static _Noreturn void read_all(const char *dir, const questions *q, shared *both)
{
    stay_on(1);
    cyx_reader *reader = open_reader(dir);
    if (!cyx_reader_hot_generation(reader))
        die("there is no hot table");
    for (size_t n = 0; !__atomic_load_n(&both->stop, __ATOMIC_ACQUIRE); n = n + 1 < q->count ? n + 1 : 0) {
        cyx_location at;
        uint32_t home = key_server(q->which[n]);
        int code = cyx_lookup(reader, question_name(q, n), question_len(q, n), &at);
        checked(code, "looking up");
        int right = code == CYX_OK ? server_of(at.server) == (int)home ||
                                         (!comes_and_goes(q->which[n]) && server_of(at.server) == (int)moved(home))
                                   : comes_and_goes(q->which[n]);
        both->wrong += !right;
        __atomic_store_n(&both->answered, both->answered + 1, __ATOMIC_RELEASE);
    }
    _exit(0);
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Names all over the table, each once: what it is now stands beside the name, not in a line of its own. */
static questions each_once(uint64_t records, size_t count)
{
    questions q = ask(1, count < records ? count : (size_t)records, 0);
    uint64_t step = records / 13 * 8 + 1; /* far, and through all of them */
    while (common_divisor(step, records) != 1)
        step++;
    for (size_t n = 0; n < q.count; n++)
        question_set(&q, n, (uint64_t)((unsigned __int128)n * step % records), 0);
    return q;
}

/* One change that was met and waits for its line, as those of a commit do (hot_build.c). */
typedef struct change {
    uint64_t met;
    uint32_t server;
    uint8_t was_there, is_there;
} change;

static change meet_next(table *t, const questions *q, uint8_t *changed, size_t n)
{
    uint32_t server = key_server(q->which[n]);
    uint64_t met = cyx_hot_meet(t->hot, (const uint8_t *)question_name(q, n), question_len(q, n));
    changed[n] = !changed[n];
    if (comes_and_goes(q->which[n]))
        return (change){met, server, changed[n], !changed[n]};
    return (change){met, changed[n] ? moved(server) : server, 1, 1};
}

/* Changes a second, for so long; what a name is now is kept between the calls. */
static double change_for(table *t, const questions *q, uint8_t *changed, double seconds)
{
    change waiting[AHEAD];
    double began = now_ns(), now = began;
    uint64_t met = 0, done = 0;
    size_t n = 0;
    while ((now = now_ns()) - began < seconds * 1e9)
        for (unsigned step = 0; step < AT_ONCE; step++) {
            if (met - done == AHEAD) {
                const change *next = &waiting[done++ % AHEAD];
                table_change(t, next->met, next->was_there, next->is_there, next->server);
            }
            waiting[met++ % AHEAD] = meet_next(t, q, changed, n);
            n = n + 1 < q->count ? n + 1 : 0;
        }
    double took = now - began;
    for (uint64_t last = done; last < met; last++) {
        const change *next = &waiting[last % AHEAD];
        table_change(t, next->met, next->was_there, next->is_there, next->server);
    }
    return (double)done / took * 1e9;
}

updates measure_updates(const char *dir, uint64_t records, size_t names, double seconds)
{
    table t = make_table(dir, records);
    questions changing = each_once(records, names), asking = ask(records, names, 0);
    uint8_t *changed = calloc(changing.count, 1);
    shared *both = mmap(NULL, sizeof *both, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status;
    if (!changed || both == MAP_FAILED)
        die("out of memory");
    updates found = {.alone_per_s = change_for(&t, &changing, changed, seconds)};
    pid_t child = fork();
    if (child < 0)
        die("no process");
    if (child == 0)
        read_all(dir, &asking, both);
    while (!__atomic_load_n(&both->answered, __ATOMIC_ACQUIRE))
        if (waitpid(child, &status, WNOHANG) == child)
            die("the process that reads failed");
    double began = now_ns();
    uint64_t before = __atomic_load_n(&both->answered, __ATOMIC_ACQUIRE);
    found.per_s = change_for(&t, &changing, changed, seconds);
    uint64_t answered = __atomic_load_n(&both->answered, __ATOMIC_ACQUIRE) - before;
    found.reads_per_s = (double)answered / (now_ns() - began) * 1e9;
    __atomic_store_n(&both->stop, 1, __ATOMIC_RELEASE);
    if (waitpid(child, &status, 0) != child || status)
        die("the process that reads failed");
    if (both->wrong > untold_max(answered) || !answered)
        die("%llu wrong answers beside the writer, of %llu", (unsigned long long)both->wrong,
            (unsigned long long)answered);
    free(changed);
    return found;
}
