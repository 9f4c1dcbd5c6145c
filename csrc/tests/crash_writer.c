/* crash_writer - a writer that is meant to die (see tests/faults/test_store_kill.py).
 *
 * crash_writer STATE_DIR RUN_DIR ROUNDS: transactions of three changes each, among few names so that every kind of
 * change happens, with a purge now and then, beside a hot table that is built when it is wanted.  For every change it prints "name state server" before the transaction
 * and, when it is committed, "ok ROUND".  A line of a round without "ok" may or may not be in the store, all or none.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "writer.h"

#define NAMES 40u

static uint64_t seed = 88172645463325252u;

static uint32_t pick(uint32_t below)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (uint32_t)(seed >> 20) % below;
}

static int die(const char *what, int rc)
{
    (void)fprintf(stderr, "crash_writer: %s: %s: %s\n", what, cyx_strerror(rc), cyx_detail());
    return 1;
}

static int round_of_changes(cyx_writer *writer, unsigned number)
{
    int rc = cyx_writer_begin(writer);
    for (int i = 0; rc == CYX_OK && i < 3; i++) {
        char name[32], server[16];
        uint64_t seq;
        int64_t at;
        (void)snprintf(name, sizeof name, "user.u%u", pick(NAMES));
        (void)snprintf(server, sizeof server, "be%u", pick(3));
        uint32_t state = 1 + pick(3);
        cyx_put_record record = {.name = name, .name_len = strlen(name), .server = server,
                                 .server_len = strlen(server), .partition = "default", .partition_len = 7,
                                 .acl = "anyone\tlrs\t", .acl_len = 11, .by = "test", .by_len = 4,
                                 .changed_at = (int64_t)number + 1, .state = state};
        (void)printf("put %u %s %u %s\n", number, name, state, server);
        rc = cyx_writer_put(writer, &record, &seq, &at);
    }
    if (rc == CYX_OK && number % 10 == 9) {
        uint64_t purged;
        rc = cyx_writer_purge(writer, (int64_t)number, 2, &purged);
    }
    (void)fflush(stdout);
    if (rc == CYX_OK)
        rc = cyx_writer_commit(writer);
    if (rc)
        return rc;
    CYX_FAILPOINT("acknowledge");
    (void)printf("ok %u\n", number);
    (void)fflush(stdout);
    return CYX_OK;
}

int main(int argc, char **argv)
{
    cyx_writer *writer;
    if (argc != 4)
        return 2;
    int rc = cyx_writer_open(argv[1], argv[2], "", (size_t)256 << 20, &writer);
    if (rc)
        return die("open", rc);
    unsigned rounds = (unsigned)strtoul(argv[3], NULL, 10);
    for (unsigned number = 0; number < rounds; number++)
        if ((cyx_writer_hot_wanted(writer) && (rc = cyx_writer_build_hot(writer))) || (rc = round_of_changes(writer, number)))
            return die("round", rc);
    cyx_writer_close(&writer);
    return 0;
}
