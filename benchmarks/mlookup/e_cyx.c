/* e_cyx.c - ours: from the hot table, or with MLOOKUP_STORE=1 from the store. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mlookup.h"
#include "writer.h"

#define AT_ONCE 20000u

const char engine_name[] = "cyx";
static cyx_reader *reader;
static int from_store;

static void checked(int code, const char *what)
{
    if (code < 0)
        die("%s: %s (%s)", what, cyx_strerror(code), cyx_detail());
}

/* The node's part: it writes, builds the table and beats.  Without `build` it only beats, for as long as the run lasts. */
static cyx_writer *open_writer(const char *dir)
{
    char state[512], run[512];
    cyx_writer *writer;
    (void)snprintf(state, sizeof state, "%s/state", dir);
    (void)snprintf(run, sizeof run, "%s/run", dir);
    checked(cyx_writer_open(state, run, "", (size_t)64 << 30, &writer), "opening the store");
    return writer;
}

static void put_some(cyx_writer *writer, uint64_t from, uint64_t to)
{
    static cyx_put_record records[AT_ONCE];
    static char names[AT_ONCE][NAME_MAX_LEN], acls[AT_ONCE][NAME_MAX_LEN], servers[AT_ONCE][32];
    for (uint64_t i = from; i < to; i++) {
        size_t n = i - from;
        int server_len = snprintf(servers[n], sizeof servers[n], "be%u.example.org", key_server(i));
        records[n] = (cyx_put_record){.name = names[n], .name_len = key_name(i, 0, names[n]), .server = servers[n],
                                      .server_len = (size_t)server_len, .partition = "default", .partition_len = 7,
                                      .acl = acls[n], .acl_len = key_acl(i, acls[n]), .by = "bench", .by_len = 5,
                                      .state = CYX_ACTIVE};
    }
    checked(cyx_writer_begin(writer), "beginning");
    checked(cyx_writer_put_many(writer, records, to - from), "writing");
    checked(cyx_writer_commit(writer), "committing");
}

void engine_build(const char *dir, uint64_t count)
{
    cyx_writer *writer = open_writer(dir);
    for (uint64_t i = 0; i < count; i += AT_ONCE)
        put_some(writer, i, i + AT_ONCE < count ? i + AT_ONCE : count);
    cyx_writer_close(&writer);
}

/* The first to open it is the node, too; a table is built at each of its starts. */
void engine_open(const char *dir)
{
    static cyx_writer *writer;
    char state[512];
    (void)snprintf(state, sizeof state, "%s/state", dir);
    from_store = getenv("MLOOKUP_STORE") != NULL;
    if (!writer) {
        writer = open_writer(dir);
        checked(cyx_writer_build_hot(writer), "building the table");
        cyx_writer_beat(writer, 1);
        checked(cyx_open(state, &reader), "opening");
        if (!from_store && !cyx_reader_hot_generation(reader))
            die("there is no hot table");
    }
}

static int server_of(const char *text) { return (int)strtol(text + 2, NULL, 10); }

int engine_get(const char *name, size_t len)
{
    cyx_location at;
    int code = from_store ? cyx_inspect(reader, name, len, &at) : cyx_lookup(reader, name, len, &at);
    checked(code, "looking up");
    return code == CYX_OK ? server_of(at.server) : -1;
}

static void get_many(const char *const *names, const size_t *lens, size_t count, int *servers_r)
{
    static cyx_name wanted[256];
    static cyx_location at[256];
    for (size_t i = 0; i < count; i++)
        wanted[i] = (cyx_name){names[i], lens[i]};
    checked(cyx_lookup_many(reader, wanted, count, at), "looking up");
    for (size_t i = 0; i < count; i++)
        servers_r[i] = at[i].state ? server_of(at[i].server) : -1;
}

void (*const engine_many)(const char *const *, const size_t *, size_t, int *) = get_many;
