/* test_listing - a walk over several calls: of one moment while it holds its snapshot, complete when it does not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "internal.h"
#include "writer.h"

#define COUNT 300u

static char root[] = "/tmp/cyx-test-XXXXXX";

static void put_all(cyx_writer *writer, const char *server)
{
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    for (unsigned i = 0; i < COUNT; i++) {
        char name[16];
        uint64_t seq;
        int64_t at;
        (void)snprintf(name, sizeof name, "user.u%04u", i);
        const cyx_put_record record = {.name = name, .name_len = strlen(name), .server = server,
                                       .server_len = strlen(server), .partition = "p", .partition_len = 1,
                                       .acl = "a\tl\t", .acl_len = 4, .changed_at = 7,
                                       .state = i % 10 ? CYX_ACTIVE : CYX_DELETED};
        CHECK(cyx_writer_put(writer, &record, &seq, &at) == CYX_OK);
    }
    CHECK(cyx_writer_commit(writer) == CYX_OK);
}

/* Take `most` entries; all have to be on `server`.  Returns how many there were. */
static unsigned take(cyx_listing *listing, cyx_reader *reader, unsigned most, const char *server)
{
    cyx_entry entry;
    unsigned count = 0;
    int rc = CYX_OK;
    CHECK(cyx_listing_resume(listing, reader) == CYX_OK);
    while (count < most && (rc = cyx_listing_next(listing, &entry)) == CYX_OK) {
        CHECK(entry.name_len == 10 && entry.acl_len == 4 && entry.location.state == CYX_ACTIVE);
        CHECK(strcmp(entry.location.server, server) == 0);
        count++;
    }
    CHECK(rc == CYX_OK || rc == CYX_ABSENT);
    cyx_listing_pause(listing);
    return count;
}

int main(void)
{
    char state[64], run[64];
    cyx_writer *writer;
    cyx_reader *reader;
    cyx_listing *listing, *of_server, *left;
    CHECK(mkdtemp(root));
    (void)snprintf(state, sizeof state, "%s/state", root);
    (void)snprintf(run, sizeof run, "%s", root);
    CHECK(cyx_writer_open(state, run, "", (size_t)1 << 26, &writer) == CYX_OK);
    put_all(writer, "be1");
    CHECK(cyx_open(state, &reader) == CYX_OK);
    CHECK(cyx_listing_open(reader, NULL, &listing) == CYX_OK && cyx_listing_open(reader, "be1", &of_server) == CYX_OK);
    CHECK(take(listing, reader, 100, "be1") == 100 && take(of_server, reader, 100, "be1") == 100);
    put_all(writer, "be2"); /* a server that the reader has not met */
    CHECK(take(listing, reader, 50, "be1") == 50); /* still that moment */
    CHECK(take(of_server, reader, 50, "be1") == 50);
    cyx_listing_let_go(listing);
    cyx_listing_let_go(listing);
    cyx_listing_let_go(of_server);
    CHECK(take(listing, reader, COUNT, "be2") == COUNT - COUNT / 10 - 150);
    CHECK(take(listing, reader, COUNT, "be2") == 0);
    CHECK(take(of_server, reader, COUNT, "be1") == 0);
    CHECK(cyx_listing_open(reader, "nobody", &left) == CYX_OK && take(left, reader, 1, "") == 0);
    cyx_listing_close(&left);
    CHECK(!left);
    cyx_listing_close(&left);
    CHECK(cyx_listing_open(reader, NULL, &left) == CYX_OK && take(left, reader, 1, "be2") == 1);
    cyx_listing_close(&listing);
    cyx_listing_close(&of_server);
    cyx_close(&reader);
    cyx_writer_close(&writer);
    cyx_listing_close(&left); /* it has the environment until now */
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK(system(command) == 0);
    (void)printf("%lu checks\n", checks);
    return 0;
}
