/* node.h - the three things that node.c measures beside look-ups. */
#ifndef NODE_H
#define NODE_H

#include "node_side.h"

/* visible.c: nanoseconds from the return of commit (0 when it was before) and from its call to the first answer of
 * another process that shows the change. */
typedef struct visible {
    double p50, p99, highest, called_p50, called_p99;
} visible;
visible measure_visible(const char *dir, cyx_writer *writer, uint64_t records, unsigned changes);

/* updates.c: changes of the table beside a reader in another process, which checks all its answers. */
typedef struct updates {
    double alone_per_s, per_s, reads_per_s;
} updates;
updates measure_updates(const char *dir, uint64_t records, size_t names, double seconds);

/* count.c: lines that a look-up touches, counted in the file by what docs/index-format.md says; and of how many in a
 * million names that are there the table can not tell. */
typedef struct lines {
    double hit, absent, asked, bytes_per_key;
} lines;
lines count_lines(const char *dir, uint64_t records, size_t lookups);

#endif
