/* node.c - what the node does beside look-ups: it builds the table, changes it, and what it commits is seen.
 *
 *   mlookup-node DIR COUNT NAMES CHANGES SECONDS
 *
 * DIR is what mlookup-cyx has built with COUNT names; with MLOOKUP_TABLE=COUNT there is a table only, and what wants a
 * store is left out.  Prints one JSON object; every answer is checked.
 */
#include <stdio.h>
#include <stdlib.h>

#include "node.h"

int main(int argc, char **argv)
{
    if (argc != 6)
        die("usage: mlookup-node DIR COUNT NAMES CHANGES SECONDS");
    const char *dir = argv[1];
    uint64_t records = strtoull(argv[2], NULL, 10);
    size_t names = strtoull(argv[3], NULL, 10);
    stay_on(0);
    visible seen = {0};
    double rebuild_s = 0;
    lines counted;
    if (table_alone()) {
        start_table_alone(dir);
        counted = count_lines(dir, records, names);
    } else {
        cyx_writer *writer = start_node(dir);
        double began = now_ns();
        checked(cyx_writer_build_hot(writer), "building the table");
        rebuild_s = (now_ns() - began) / 1e9;
        counted = count_lines(dir, records, names);
        seen = measure_visible(dir, writer, records, (unsigned)strtoul(argv[4], NULL, 10));
    }
    updates done = measure_updates(dir, records, names, strtod(argv[5], NULL));
    (void)printf("{\"rebuild_s\": %.3f, \"lines_hit\": %.4f, \"lines_absent\": %.4f, \"asked\": %.1f, "
                 "\"bytes_per_key\": %.3f, \"visible_p50_ns\": %.0f, \"visible_p99_ns\": %.0f, "
                 "\"visible_max_ns\": %.0f, \"called_p50_ns\": %.0f, \"called_p99_ns\": %.0f, "
                 "\"updates_per_s\": %.0f, \"updates_alone_per_s\": %.0f, \"reads_per_s\": %.0f}\n",
                 rebuild_s, counted.hit, counted.absent, counted.asked, counted.bytes_per_key, seen.p50, seen.p99,
                 seen.highest, seen.called_p50, seen.called_p99, done.per_s, done.alone_per_s, done.reads_per_s);
    return 0;
}
