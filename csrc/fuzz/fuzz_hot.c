/* fuzz_hot - a hot table as hostile bytes: opened, asked, and compared with its store (libFuzzer).
 *
 * The first byte of the input says what the rest is: the file itself; or changes to a good one (patch.h), after which the
 * header's checksum may be put right, so that what lies behind it is reached.  Without that a changed header is refused.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../tests/check.h"
#include "hot.h"
#include "patch.h"
#include "writer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define NAMES 200u
#define WHOLE 1u
#define SEAL 2u

static char root[] = "/tmp/cyx-fuzz-hot-XXXXXX";
static char state[64], run[64], file[80];
static cyx_reader *reader;
static cyx_writer *writer; /* stays open: the node lives */
static uint8_t *good;
static size_t good_size;

static void clean_up(void)
{
    char command[64];
    (void)snprintf(command, sizeof command, "rm -r %s", root);
    (void)!system(command);
}

static void name_of(uint32_t i, char name_r[32]) { (void)snprintf(name_r, 32, "user.u%u", i); }

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    CHECK(mkdtemp(root) && atexit(clean_up) == 0);
    (void)snprintf(state, sizeof state, "%s/state", root);
    (void)snprintf(run, sizeof run, "%s/run", root);
    (void)snprintf(file, sizeof file, "%s/hot", run);
    CHECK(cyx_writer_open(state, run, "", (size_t)1 << 28, &writer) == CYX_OK && cyx_writer_begin(writer) == CYX_OK);
    for (uint32_t i = 0; i < NAMES; i++) {
        char name[32];
        uint64_t seq;
        int64_t at;
        name_of(i, name);
        const cyx_put_record record = {.name = name, .name_len = strlen(name), .server = i % 2 ? "be1" : "be2",
                                       .server_len = 3, .partition = "", .acl = "", .by = "", .state = CYX_ACTIVE};
        CHECK(cyx_writer_put(writer, &record, &seq, &at) == CYX_OK);
    }
    CHECK(cyx_writer_commit(writer) == CYX_OK && cyx_writer_build_hot(writer) == CYX_OK);
    CHECK(cyx_open(state, &reader) == CYX_OK);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    good_size = (size_t)lseek(fd, 0, SEEK_END);
    CHECK((good = malloc(good_size)) && pread(fd, good, good_size, 0) == (ssize_t)good_size);
    (void)close(fd);
    return 0;
}

static void ignore(void *context, const char *text)
{
    (void)context;
    (void)text;
}

static void ask(void)
{
    cyx_hot hot;
    cyx_hot_route route;
    cyx_location at;
    uint64_t findings;
    if (cyx_hot_open(&hot, run, reader->env) == CYX_OK) {
        for (uint32_t id = 0; id < hot.header->route_capacity && id < 64; id++)
            (void)!cyx_hot_route_at(&hot, id, &route);
        for (uint64_t n = 0; n < 64; n++)
            (void)cyx_lines_find(&hot.lines, n << 58 ^ n * 0x9E3779B97F4A7C15u);
        cyx_hot_close(&hot);
    }
    cyx_reader_drop_hot(reader);
    for (uint32_t i = 0; i < NAMES; i += 23) {
        char name[32];
        name_of(i, name);
        int rc = cyx_lookup(reader, name, strlen(name), &at);
        if (rc == CYX_OK && (!at.server || !at.partition))
            abort();
    }
    (void)!cyx_hot_verify(reader, ignore, NULL, &findings);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t *bytes;
    char next[96];
    cyx_hot hot;
    bool changed = false;
    if (size < 1)
        return 0;
    unsigned how = data[0];
    data++, size--;
    if (!bytes)
        CHECK((bytes = malloc(good_size)) != NULL);
    size_t length = how & WHOLE ? size : good_size;
    memcpy(bytes, how & WHOLE ? data : good, length < good_size ? length : good_size);
    for (size_t at = 0; !(how & WHOLE) && at + PATCH_BYTES <= size; at += PATCH_BYTES)
        bytes[patch_place(data + at, length)] = data[at + 3];
    cyx_hot_header header;
    if (!(how & WHOLE)) {
        memcpy(&header, bytes, sizeof header);
        changed = memcmp(&header, good, offsetof(cyx_hot_header, state)) != 0;
        if (how & SEAL) {
            header.checksum = cyx_hot_header_checksum(&header);
            memcpy(bytes, &header, sizeof header);
        }
    }
    (void)snprintf(next, sizeof next, "%s.fuzz", file);
    int fd = open(next, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    CHECK(fd >= 0 && write(fd, bytes, length) == (ssize_t)length && close(fd) == 0 && rename(next, file) == 0);
    if (changed && !(how & SEAL) && cyx_hot_open(&hot, run, reader->env) == CYX_OK)
        abort();
    ask();
    return 0;
}
