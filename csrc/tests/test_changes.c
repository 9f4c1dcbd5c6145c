/* test_changes - entries of the change log: damaged ones are refused, and those of a store's first versions are read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "changes.h"
#include "writer_state.h"

static char root[] = "/tmp/cyx-test-XXXXXX";
static char state[64], run[64];

static void put(cyx_writer *writer, const char *name, uint32_t what)
{
    uint64_t seq;
    int64_t at;
    const cyx_put_record record = {.name = name, .name_len = strlen(name), .server = "be1", .server_len = 3,
                                   .partition = "p", .partition_len = 1, .acl = "a\tl\t", .acl_len = 4, .by = "test",
                                   .by_len = 4, .changed_at = 7, .state = what};
    CHECK(cyx_writer_put(writer, &record, &seq, &at) == CYX_OK);
}

static void test_entries(void)
{
    uint8_t raw_seq[8], raw[128], copy[128];
    MDB_val seq = {8, raw_seq}, key = {9, (void *)(uintptr_t) "Nuser\x1f" "abc"}, value = {0, raw};
    const cyx_packed record = {.seq = 5, .changed_at = 7, .flags = CYX_HELD, .server = 1, .partition = 2,
                               .state = CYX_ACTIVE, .acl = (const uint8_t *)"x", .acl_len = 1,
                               .by = (const uint8_t *)"me", .by_len = 2};
    cyx_change change;
    cyx_put64_be(raw_seq, 5);
    value.mv_size = cyx_change_size(&key, &record);
    CHECK(value.mv_size <= sizeof raw);
    cyx_change_pack(&key, &record, NULL, raw);
    CHECK(cyx_change_unpack(&seq, &value, &change) == CYX_OK && change.detailed && change.acl_changed && !change.was);
    CHECK(change.key.mv_size == 9 && memcmp(change.key.mv_data, key.mv_data, 9) == 0);
    CHECK(change.record.flags == CYX_HELD && change.record.by_len == 2 && change.record.partition == 2);
    for (size_t at = 0; at < value.mv_size; at++) {
        memcpy(copy, raw, sizeof raw);
        copy[at] ^= 1;
        const MDB_val damaged = {value.mv_size, copy};
        CHECK(cyx_change_unpack(&seq, &damaged, &change) == CYX_ECORRUPT);
    }
    /* right checksums over what makes no sense */
    for (size_t size = 0; size < value.mv_size; size++) {
        memcpy(copy, raw, sizeof raw);
        if (size >= 4)
            cyx_put32(copy, cyx_crc32c(cyx_crc32c(0, raw_seq, 8), copy + 4, size - 4));
        const MDB_val cut = {size, copy};
        int rc = cyx_change_unpack(&seq, &cut, &change);
        CHECK(rc == CYX_ECORRUPT || (rc == CYX_OK && size <= 4 + 9 && !change.detailed));
    }
}

/* Overwrite the entry of one change with what the first versions wrote. */
static void make_old(cyx_writer *writer, uint64_t number, const char *key)
{
    uint8_t raw_seq[8], raw[64];
    size_t len = strlen(key);
    cyx_put64_be(raw_seq, number);
    memcpy(raw + 4, key, len);
    cyx_put32(raw, cyx_crc32c(cyx_crc32c(0, raw_seq, 8), raw + 4, len));
    MDB_val k = {8, raw_seq}, v = {4 + len, raw};
    CHECK(mdb_put(writer->txn, writer->env->changes, &k, &v, 0) == 0);
}

static int count(void *context, const cyx_history_item *item)
{
    unsigned *seen = context;
    seen[item->detailed]++;
    return 0;
}

static void test_entries_of_the_first_versions(void)
{
    cyx_writer *writer;
    cyx_reader *reader;
    cyx_chunk chunk = {0};
    cyx_changed changed;
    uint64_t findings, purged;
    unsigned seen[2] = {0, 0};
    CHECK(cyx_writer_open(state, run, "", (size_t)16 << 20, &writer) == CYX_OK);
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    put(writer, "user.gone", CYX_ACTIVE);
    put(writer, "user.gone", CYX_DELETED);
    put(writer, "user.a", CYX_ACTIVE);
    put(writer, "user.a", CYX_ACTIVE);
    make_old(writer, 1, "Nuser\x1fgone");
    make_old(writer, 2, "Nuser\x1fgone");
    make_old(writer, 3, "Nuser\x1f" "a");
    CHECK(cyx_writer_purge(writer, 100, 10, &purged) == CYX_OK && purged == 1);
    CHECK(cyx_writer_commit(writer) == CYX_OK);
    CHECK(cyx_open(state, &reader) == CYX_OK);
    CHECK(cyx_reader_changed(reader, 0, 100, &chunk, &changed) == CYX_OK && chunk.done);
    CHECK(changed.first == 1 && changed.upto == 4 && chunk.count == 3);
    CHECK(chunk.items[0].location.state == CYX_DELETED && chunk.items[1].location.state == CYX_DELETED);
    CHECK(chunk.items[2].location.seq == 4 && chunk.items[2].location.state == CYX_ACTIVE);
    CHECK(cyx_reader_history(reader, "user.a", 6, count, seen) == CYX_OK && seen[0] == 1 && seen[1] == 1);
    CHECK(cyx_verify(reader, NULL, NULL, &findings) == CYX_OK && findings == 0);
    cyx_chunk_free(&chunk);
    cyx_close(&reader);
    cyx_writer_close(&writer);
}

int main(void)
{
    if (!mkdtemp(root))
        return 1;
    (void)snprintf(state, sizeof state, "%s/state", root);
    (void)snprintf(run, sizeof run, "%s/run", root);
    (void)mkdir(state, 0755);
    test_entries();
    test_entries_of_the_first_versions();
    char command[64];
    (void)snprintf(command, sizeof command, "rm -r %s", root);
    if (system(command) != 0)
        return 1;
    (void)printf("%lu checks\n", checks);
    return 0;
}
