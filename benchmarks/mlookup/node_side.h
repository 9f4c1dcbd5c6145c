/* node_side.h - the node's part: it writes, builds the table and beats for as long as the program runs. */
#ifndef NODE_SIDE_H
#define NODE_SIDE_H

#include <stdlib.h>

#include "mlookup.h"
#include "writer.h"

/* The store DIR/state with its table in DIR/run.  From now on a thread beats. */
cyx_writer *start_node(const char *dir);
void put_all(cyx_writer *writer, uint64_t count);
cyx_reader *open_reader(const char *dir);
void checked(int code, const char *what);
static inline int server_of(const char *text) { return (int)strtol(text + 2, NULL, 10); } /* be17.example.org */
#define SERVER_TEXT_LEN 32
size_t server_text(uint32_t server, char text_r[SERVER_TEXT_LEN]);
cyx_put_record record_of(uint64_t i, uint32_t server, char name_r[NAME_MAX_LEN], char acl_r[NAME_MAX_LEN],
                         char server_r[SERVER_TEXT_LEN]);

#endif
