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

static int by_place[4096]; /* one more than the server; a location has a number for this */

static inline int server_at(const cyx_location *at)
{
    if (!at->place || at->place >= sizeof by_place / sizeof by_place[0])
        return server_of(at->server);
    if (!by_place[at->place])
        by_place[at->place] = server_of(at->server) + 1;
    return by_place[at->place] - 1;
}

typedef int look(cyx_reader *reader, const char *name, size_t len, cyx_location *at);

static look *asked(void) { return from_store ? cyx_inspect : cyx_lookup; }

int engine_get(const char *name, size_t len)
{
    cyx_location at;
    int code = asked()(reader, name, len, &at);
    checked(code, "looking up");
    return code == CYX_OK ? server_at(&at) : -1;
}

/* Each was got by engine_get before: its place is known. */
static inline int known_at(const cyx_location *at)
{
    return by_place[at->place % (sizeof by_place / sizeof by_place[0])] - 1;
}

static int64_t sum_one(const questions *q)
{
    look *look_up = asked();
    int64_t sum = 0;
    int bad = 0;
    for (size_t n = 0; n < q->count; n++) {
        cyx_location at;
        int code = look_up(reader, question_name(q, n), question_len(q, n), &at);
        bad |= code; /* errors are negative */
        sum += code == CYX_OK ? known_at(&at) : -1;
    }
    checked(bad < 0 ? CYX_EINVAL : CYX_OK, "looking up");
    return sum;
}

#define BATCH 256u

static cyx_name *wanted;

static void want(const questions *q)
{
    if (wanted)
        return;
    if (!(wanted = calloc(q->count, sizeof *wanted)))
        die("out of memory");
    for (size_t n = 0; n < q->count; n++)
        wanted[n] = (cyx_name){question_name(q, n), question_len(q, n)};
}

static int64_t sum_many(const questions *q)
{
    static cyx_location at[BATCH];
    int64_t sum = 0;
    for (size_t n = 0; n < q->count; n += BATCH) {
        size_t size = q->count - n < BATCH ? q->count - n : BATCH;
        checked(cyx_lookup_many(reader, wanted + n, size, at), "looking up");
        for (size_t i = 0; i < size; i++)
            sum += at[i].state ? known_at(&at[i]) : -1;
    }
    return sum;
}

static uint64_t many_wrong(const questions *q)
{
    static cyx_location at[BATCH];
    uint64_t wrong = 0;
    want(q);
    for (size_t n = 0; n < q->count; n += BATCH) {
        size_t size = q->count - n < BATCH ? q->count - n : BATCH;
        checked(cyx_lookup_many(reader, wanted + n, size, at), "looking up");
        for (size_t i = 0; i < size; i++)
            wrong += (at[i].state ? server_at(&at[i]) : -1) != (int)q->server[n + i];
    }
    return wrong;
}

const own_loops engine_loops = {sum_one, sum_many, many_wrong};
