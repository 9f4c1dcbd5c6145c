/* e_cyx.c - ours: from the hot table, with MLOOKUP_STORE=1 from the store, with MLOOKUP_TABLE=COUNT from a table alone. */
#include <stdlib.h>

#include "node_side.h"

const char engine_name[] = "cyx";
static cyx_reader *reader;
static int from_store;

void engine_build(const char *dir, uint64_t count)
{
    put_all(start_node(dir), count);
}

/* The first to open it is the node, too; a table is built at each of its starts. */
void engine_open(const char *dir)
{
    if (reader)
        return; /* forked, which the handle knows */
    from_store = getenv("MLOOKUP_STORE") != NULL;
    if (table_alone()) {
        start_table_alone(dir);
    } else {
        cyx_writer *writer = start_node(dir);
        if (!from_store)
            checked(cyx_writer_build_hot(writer), "building the table");
    }
    reader = open_reader(dir);
    if (!from_store && !cyx_reader_hot_generation(reader))
        die("there is no hot table");
}

/* By the number that a location has for this. */
static inline int server_at(const cyx_location *at)
{
    static int known[4096]; /* one more than the server, by place */
    if (!at->place || at->place >= sizeof known / sizeof known[0])
        return server_of(at->server);
    if (!known[at->place])
        known[at->place] = server_of(at->server) + 1;
    return known[at->place] - 1;
}

int engine_get(const char *name, size_t len)
{
    cyx_location at;
    int code = from_store ? cyx_inspect(reader, name, len, &at) : cyx_lookup(reader, name, len, &at);
    checked(code, "looking up");
    return code == CYX_OK ? server_at(&at) : -1;
}

static void get_many(const char *const *names, const size_t *lens, size_t count, int *servers_r)
{
    static cyx_name wanted[256];
    static cyx_location at[256];
    for (size_t i = 0; i < count; i++)
        wanted[i] = (cyx_name){names[i], lens[i]};
    checked(cyx_lookup_many(reader, wanted, count, at), "looking up");
    for (size_t i = 0; i < count; i++)
        servers_r[i] = at[i].state ? server_at(&at[i]) : -1;
}

void (*const engine_many)(const char *const *, const size_t *, size_t, int *) = get_many;
