/* node_side.h - the node's part: it writes, builds the table and beats for as long as the program runs. */
#ifndef NODE_SIDE_H
#define NODE_SIDE_H

#include <stdlib.h>

#include "hot.h"
#include "mlookup.h"
#include "writer.h"

/* The store DIR/state with its table in DIR/run.  From now on a thread beats. */
cyx_writer *start_node(const char *dir);
void put_all(cyx_writer *writer, uint64_t count);
cyx_reader *open_reader(const char *dir);
void checked(int code, const char *what);
/* The number in be17.example.org.  The text of an answer belongs to its handle and stays, so it is read once: the other
 * engines have a number ready, and reading digits would be a tenth of what is measured. */
static inline int server_of(const char *text)
{
    static struct {
        const char *text;
        int server;
    } known[4096];
    size_t at = (size_t)((uintptr_t)text * 0x9E3779B97F4A7C15u >> 52);
    if (known[at].text != text) {
        known[at].text = text;
        known[at].server = (int)strtol(text + 2, NULL, 10);
    }
    return known[at].server;
}
#define SERVER_TEXT_LEN 32
size_t server_text(uint32_t server, char text_r[SERVER_TEXT_LEN]);
cyx_put_record record_of(uint64_t i, uint32_t server, char name_r[NAME_MAX_LEN], char acl_r[NAME_MAX_LEN],
                         char server_r[SERVER_TEXT_LEN]);

/* A table in the place of the node's, filled name by name and changed by what the node uses at a commit. */
typedef struct table {
    cyx_hot_writer *hot;
    cyx_hot_route routes[SERVERS];
} table;
table make_table(const char *dir, uint64_t records);
/* One change: of what was met with cyx_hot_meet, and of a name that was not. */
void table_change(table *t, uint64_t met, int was_there, int is_there, uint32_t server);
void table_apply(table *t, const char *name, size_t len, int was_there, int is_there, uint32_t server);

/* Of how many names there is a table and no store behind it (MLOOKUP_TABLE); 0: there is a store. */
uint64_t table_alone(void);
void start_table_alone(const char *dir);

#endif
