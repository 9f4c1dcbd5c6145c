/* node_side.c - what every program with our store in it begins with. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "node_side.h"

#define AT_ONCE 20000u
#define BEAT_NS 500000000

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
