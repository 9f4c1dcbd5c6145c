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

#include "hot.h"
#include "node.h"

#define ROUTES 1024u
#define AT_ONCE 1024u /* between two looks at the clock */

typedef struct table {
    cyx_hot_writer *hot;
    cyx_hot_route routes[SERVERS];
} table;

typedef struct shared {
    uint64_t answered, wrong, stop;
} shared;

static inline int comes_and_goes(uint64_t i) { return i % 8 == 3; }
static inline uint32_t moved(uint32_t server) { return (server + 1) % SERVERS; }

/* The numbers that the store has for the servers. */
static void find_routes(table *t, const cyx_env *env)
{
    MDB_txn *txn;
    uint32_t partition;
    if (mdb_txn_begin(env->mdb, NULL, MDB_RDONLY, &txn))
        die("reading the store");
    checked(cyx_intern_find(txn, env->meta, CYX_TAG_PARTITION, "default", &partition), "finding the partition");
    for (uint32_t server = 0; server < SERVERS; server++) {
        char text[SERVER_TEXT_LEN];
        uint32_t id = 0;
        (void)server_text(server, text);
        checked(cyx_intern_find(txn, env->meta, CYX_TAG_SERVER, text, &id), "finding a server");
        t->routes[server] = (cyx_hot_route){.server = id, .partition = partition, .state = CYX_ACTIVE};
    }
    mdb_txn_abort(txn);
}

static void apply(table *t, const char *name, size_t len, int was_there, int is_there, uint32_t server)
{
    if (!cyx_hot_apply(t->hot, cyx_hot_meet(t->hot, (const uint8_t *)name, len), was_there, is_there, &t->routes[server]))
        die("the table is full");
}

static void insert(void *context, uint64_t i)
{
    char name[NAME_MAX_LEN];
    apply(context, name, key_name(i, 0, name), 0, 1, key_server(i));
}

static table make_table(const char *dir, uint64_t records)
{
    char state[512], run[512];
    cyx_env *env;
    table t;
    (void)snprintf(state, sizeof state, "%s/state", dir);
    (void)snprintf(run, sizeof run, "%s/run", dir);
    checked(cyx_env_open(state, NULL, &env), "opening the store");
    find_routes(&t, env);
    checked(cyx_hot_create(run, env, records, ROUTES, &t.hot), "making a table");
    key_each(records, insert, &t);
    checked(cyx_hot_publish(t.hot), "publishing it");
    return t;
}

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

/* Changes a second, for so long; what a name is now is kept between the calls. */
static double change_for(table *t, const questions *q, uint8_t *changed, double seconds)
{
    double began = now_ns(), now = began;
    uint64_t done = 0;
    for (size_t n = 0; (now = now_ns()) - began < seconds * 1e9;)
        for (unsigned step = 0; step < AT_ONCE; step++, done++) {
            uint64_t i = q->which[n];
            uint32_t server = key_server(i);
            changed[n] = !changed[n];
            if (comes_and_goes(i))
                apply(t, question_name(q, n), question_len(q, n), changed[n], !changed[n], server);
            else
                apply(t, question_name(q, n), question_len(q, n), 1, 1, changed[n] ? moved(server) : server);
            n = n + 1 < q->count ? n + 1 : 0;
        }
    return (double)done / (now - began) * 1e9;
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
    if (both->wrong || !answered)
        die("%llu wrong answers beside the writer, of %llu", (unsigned long long)both->wrong,
            (unsigned long long)answered);
    free(changed);
    return found;
}
