/* node_side.c - what every program with our store in it begins with. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "node_side.h"

#define AT_ONCE 20000u
#define BEAT_NS 500000000
#define ROUTES 1024u

void checked(int code, const char *what)
{
    if (code < 0)
        die("%s: %s (%s)", what, cyx_strerror(code), cyx_detail());
}

static void *beat(void *writer)
{
    const struct timespec pause = {0, BEAT_NS};
    for (;;) {
        cyx_writer_beat(writer, true);
        (void)nanosleep(&pause, NULL);
    }
    return NULL;
}

cyx_writer *start_node(const char *dir)
{
    char state[512], run[512];
    cyx_writer *writer;
    pthread_t thread;
    (void)snprintf(state, sizeof state, "%s/state", dir);
    (void)snprintf(run, sizeof run, "%s/run", dir);
    checked(cyx_writer_open(state, run, "", (size_t)256 << 30, &writer), "opening the store");
    cyx_writer_beat(writer, true);
    if (pthread_create(&thread, NULL, beat, writer))
        die("no thread");
    return writer;
}

cyx_reader *open_reader(const char *dir)
{
    char state[512];
    cyx_reader *reader;
    (void)snprintf(state, sizeof state, "%s/state", dir);
    checked(cyx_open(state, &reader), "opening");
    return reader;
}

size_t server_text(uint32_t server, char text_r[SERVER_TEXT_LEN])
{
    return (size_t)snprintf(text_r, SERVER_TEXT_LEN, "be%u.example.org", server);
}

cyx_put_record record_of(uint64_t i, uint32_t server, char name_r[NAME_MAX_LEN], char acl_r[NAME_MAX_LEN],
                         char server_r[SERVER_TEXT_LEN])
{
    return (cyx_put_record){.name = name_r, .name_len = key_name(i, 0, name_r), .server = server_r,
                            .server_len = server_text(server, server_r), .partition = "default", .partition_len = 7,
                            .acl = acl_r, .acl_len = key_acl(i, acl_r), .by = "bench", .by_len = 5,
                            .state = CYX_ACTIVE};
}

typedef struct filling {
    cyx_writer *writer;
    size_t count;
    cyx_put_record records[AT_ONCE];
    char names[AT_ONCE][NAME_MAX_LEN], acls[AT_ONCE][NAME_MAX_LEN], servers[AT_ONCE][SERVER_TEXT_LEN];
} filling;

static void write_some(filling *f)
{
    checked(cyx_writer_begin(f->writer), "beginning");
    checked(cyx_writer_put_many(f->writer, f->records, f->count), "writing");
    checked(cyx_writer_commit(f->writer), "committing");
    f->count = 0;
}

static void put(void *context, uint64_t i)
{
    filling *f = context;
    size_t n = f->count++;
    f->records[n] = record_of(i, key_server(i), f->names[n], f->acls[n], f->servers[n]);
    if (f->count == AT_ONCE)
        write_some(f);
}

void put_all(cyx_writer *writer, uint64_t count)
{
    filling *f = calloc(1, sizeof *f);
    if (!f)
        die("out of memory");
    f->writer = writer;
    key_each(count, put, f);
    write_some(f);
    free(f);
}

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

void table_change(table *t, uint64_t met, int was_there, int is_there, uint32_t server)
{
    if (!cyx_hot_apply(t->hot, met, was_there, is_there, &t->routes[server]))
        die("the table is full");
}

void table_apply(table *t, const char *name, size_t len, int was_there, int is_there, uint32_t server)
{
    table_change(t, cyx_hot_meet(t->hot, (const uint8_t *)name, len), was_there, is_there, server);
}

static void insert(void *context, uint64_t i)
{
    char name[NAME_MAX_LEN];
    table_apply(context, name, key_name(i, 0, name), 0, 1, key_server(i));
}

table make_table(const char *dir, uint64_t records)
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

/* A store that knows the servers and has next to no mailbox. */
static void name_servers(cyx_writer *writer)
{
    checked(cyx_writer_begin(writer), "beginning");
    for (uint32_t server = 0; server < SERVERS; server++) {
        char name[NAME_MAX_LEN], acl[NAME_MAX_LEN], text[SERVER_TEXT_LEN];
        const cyx_put_record record = record_of(server, server, name, acl, text);
        checked(cyx_writer_put_many(writer, &record, 1), "writing");
    }
    checked(cyx_writer_commit(writer), "committing");
}

uint64_t table_alone(void)
{
    const char *wanted = getenv("MLOOKUP_TABLE");
    return wanted ? strtoull(wanted, NULL, 10) : 0;
}

void start_table_alone(const char *dir)
{
    name_servers(start_node(dir));
    (void)make_table(dir, table_alone());
}
