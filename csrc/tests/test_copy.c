/* test_copy - a copy of a store holds what the store held, and one of the format before is brought up to this one. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "writer_state.h"

static char root[] = "/tmp/cyx-test-XXXXXX";
static char state[64], run[64], other[64];

static void put(cyx_writer *writer, unsigned number)
{
    char name[32];
    uint64_t seq;
    int64_t at;
    (void)snprintf(name, sizeof name, "user.u%u", number);
    const cyx_put_record record = {.name = name, .name_len = strlen(name), .server = "be1", .server_len = 3,
                                   .partition = "p", .partition_len = 1, .acl = "a\tl\t", .acl_len = 4, .by = "test",
                                   .by_len = 4, .changed_at = 7, .state = CYX_ACTIVE};
    CHECK(cyx_writer_put(writer, &record, &seq, &at) == CYX_OK);
}

static uint64_t findings_of(const char *place, cyx_stat *stat_r, char **id_r)
{
    cyx_reader *reader;
    uint64_t findings = 0;
    CHECK(cyx_open(place, &reader) == CYX_OK);
    CHECK(cyx_verify(reader, NULL, NULL, &findings) == CYX_OK);
    CHECK(cyx_reader_stat(reader, stat_r) == CYX_OK);
    CHECK(cyx_reader_text(reader, "store_id", id_r) >= 0);
    cyx_close(&reader);
    return findings;
}

static void test_copy(void)
{
    char path[128];
    cyx_writer *writer;
    cyx_reader *reader;
    cyx_stat here, there;
    char *id, *same_id;
    CHECK(cyx_writer_open(state, run, "", (size_t)64 << 20, &writer) == CYX_OK);
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    for (unsigned i = 0; i < 5000; i++)
        put(writer, i);
    CHECK(cyx_writer_commit(writer) == CYX_OK);
    CHECK(cyx_open(state, &reader) == CYX_OK);

    (void)snprintf(path, sizeof path, "%s/store", other);
    CHECK(mkdir(other, 0700) == 0 && mkdir(path, 0700) == 0);
    (void)snprintf(path, sizeof path, "%s/store/data.mdb", other);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK(cyx_reader_copy(reader, fd) == CYX_OK);
    CHECK(close(fd) == 0);
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    put(writer, 5000); /* too late for the copy */
    CHECK(cyx_writer_commit(writer) == CYX_OK);
    CHECK(findings_of(state, &here, &id) == 0 && findings_of(other, &there, &same_id) == 0);
    CHECK(here.counts.active == 5001 && there.counts.active == 5000 && there.seq + 1 == here.seq);
    CHECK(id && same_id && strlen(id) == 16 && strcmp(id, same_id) == 0);
    free(id);
    free(same_id);

    fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0 && cyx_reader_copy(reader, fd) == CYX_EFULL && close(fd) == 0);
    cyx_close(&reader);
    cyx_writer_close(&writer);
}

static void test_upgrade(void)
{
    cyx_writer *writer;
    cyx_reader *reader;
    cyx_stat stat;
    char *id, *from;
    CHECK(cyx_writer_open(state, run, "", (size_t)64 << 20, &writer) == CYX_OK);
    CHECK(cyx_open(state, &reader) == CYX_OK);
    for (uint64_t format = CYX_FORMAT_OLDEST; format <= CYX_FORMAT + 1; format++) {
        CHECK(cyx_writer_begin(writer) == CYX_OK);
        CHECK(cyx_writer_set_number(writer, "format", format) == CYX_OK);
        CHECK(cyx_writer_commit(writer) == CYX_OK);
        CHECK(cyx_refresh(reader) == (format > CYX_FORMAT ? CYX_EVERSION : CYX_OK));
        CHECK(cyx_upgrade(writer) == (format > CYX_FORMAT ? CYX_EVERSION : CYX_OK));
    }
    CHECK(strstr(cyx_detail(), "format 3, this version opens 1 to 2"));
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    CHECK(cyx_writer_set_number(writer, "format", 1) == CYX_OK);
    CHECK(cyx_writer_commit(writer) == CYX_OK);
    cyx_writer_close(&writer);
    CHECK(cyx_refresh(reader) == CYX_OK); /* of the format before */
    CHECK(cyx_writer_open(state, run, "", (size_t)64 << 20, &writer) == CYX_OK);
    CHECK(cyx_refresh(reader) == CYX_OK);
    CHECK(cyx_reader_text(reader, "upgraded_from", &from) == CYX_OK && strcmp(from, "1") == 0);
    CHECK(findings_of(state, &stat, &id) == 0 && stat.format == CYX_FORMAT && stat.counts.active == 5001 && id);
    free(id);
    free(from);
    cyx_close(&reader);
    cyx_writer_close(&writer);
}

int main(void)
{
    CHECK(mkdtemp(root) != NULL);
    (void)snprintf(state, sizeof state, "%s/state", root);
    (void)snprintf(run, sizeof run, "%s/run", root);
    (void)snprintf(other, sizeof other, "%s/other", root);
    test_copy();
    test_upgrade();
    char command[128];
    (void)snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0);
    (void)printf("%lu checks\n", checks);
    return 0;
}
