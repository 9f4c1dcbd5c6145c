/* test_guard - what is given to the library ends where its pages end: one byte further is a page that nobody may read.
 *
 * A sanitizer sees what was allocated; this sees the processor, in the build that is shipped.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "changes.h"
#include "damage.h"
#include "hot.h"
#include "writer_state.h"

static sample s;
static uint8_t *guard; /* the first byte that can not be read */
static size_t before;  /* how many can be, in front of it */

static void make_guard(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    before = (size + page - 1) / page * page;
    uint8_t *map = mmap(NULL, before + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(map != MAP_FAILED && mprotect(map + before, page, PROT_NONE) == 0);
    guard = map + before;
}

/* The bytes once more, the last one in front of the guard. */
static const char *at_end(const void *bytes, size_t size)
{
    CHECK(size <= before);
    if (size)
        memcpy(guard - size, bytes, size);
    return (const char *)guard - size;
}

static int stop(void *context, const cyx_entry *entry)
{
    (void)context;
    CHECK(entry->name_len > 0);
    return 1;
}

/* Names of every length, in every call that takes one; the last of them also as the last of many. */
static void test_names(cyx_reader *reader, cyx_writer *writer)
{
    char name[CYX_MAX_NAME + 2], acl[16];
    cyx_secret secret;
    uint8_t key[CYX_KEY_MAX], keys[2][CYX_KEY_MAX];
    memset(&secret, 0x5A, sizeof secret);
    for (size_t len = 0; len <= CYX_MAX_NAME + 1; len++) {
        cyx_location location, two[2];
        size_t size = 0;
        uint64_t seq;
        int64_t time;
        memset(name, 'n', sizeof name);
        if (len > 8)
            name[5] = '.', name[len - 1] = len % 2 ? '^' : '!';
        const char *end = at_end(name, len);
        bool possible = len > 0 && len <= CYX_MAX_NAME;
        if (possible)
            CHECK(cyx_name_hash(&secret, end, len) == cyx_name_hash(&secret, name, len));
        CHECK((cyx_key_from_name(end, len, key, &size) == CYX_OK) == possible);
        CHECK(cyx_key_prefixes(end, len, keys, &size) == (len > CYX_MAX_NAME ? 0 : len > 8 && len % 2 ? 2 : len > 8 || len <= 8 ? 1 : 0));
        int absent = possible ? CYX_ABSENT : CYX_EINVAL;
        CHECK(cyx_lookup(reader, end, len, &location) == absent);
        CHECK(cyx_inspect(reader, end, len, &location) == absent);
        CHECK(cyx_acl(reader, end, len, acl, sizeof acl, &size) == absent);
        const cyx_name many[] = {{s.model[0].name, strlen(s.model[0].name)}, {end, len}};
        CHECK(cyx_lookup_many(reader, many, 2, two) == (possible ? CYX_OK : CYX_EINVAL));
        CHECK(two[0].state && (!possible || two[1].state == 0));
        int rc = cyx_walk(reader, end, len, NULL, stop, NULL);
        CHECK(rc == (len ? CYX_OK : CYX_STOPPED));
        CHECK(cyx_writer_begin(writer) == CYX_OK);
        const cyx_put_record put = {.name = end, .name_len = len, .server = "be1", .server_len = 3, .partition = "",
                                    .acl = "", .by = "", .state = CYX_ACTIVE};
        CHECK((cyx_writer_put(writer, &put, &seq, &time) == CYX_OK) == possible);
        cyx_writer_abort(writer);
    }
}

static void test_checksums(void)
{
    static uint8_t bytes[300];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7);
    for (size_t len = 0; len <= sizeof bytes; len++)
        CHECK(cyx_crc32c(0, at_end(bytes, len), len) == cyx_crc32c(0, bytes, len));
}

/* Records and logged changes of every length, whole and cut off. */
static void test_values(void)
{
    static uint8_t key_bytes[] = "Nuser\x1fguard", value[CYX_RECORD_HEAD + 200], change[400];
    MDB_val key = {sizeof key_bytes - 1, key_bytes};
    cyx_packed record = {.seq = 7, .state = CYX_ACTIVE, .acl = (const uint8_t *)damage_acl, .by = (const uint8_t *)"by"}, back;
    cyx_change logged;
    for (size_t len = 0; len < 150; len++) {
        record.acl_len = len, record.by_len = len % 3;
        size_t size = cyx_record_size(&record);
        cyx_record_pack(&record, &key, value);
        MDB_val end = {size, (void *)(uintptr_t)at_end(value, size)};
        CHECK(cyx_record_unpack(&key, &end, &back) == CYX_OK && back.acl_len == len);
        for (size_t cut = 0; cut < size; cut++) {
            end = (MDB_val){cut, (void *)(uintptr_t)at_end(value, cut)};
            CHECK(cyx_record_unpack(&key, &end, &back) == CYX_ECORRUPT);
            if (cut >= CYX_RECORD_HEAD) { /* and with a checksum that is right, but lengths that are not */
                memcpy(guard - cut, value, cut);
                cyx_record_seal(&key, guard - cut, cut);
                CHECK(cyx_record_unpack(&key, &end, &back) == CYX_ECORRUPT);
            }
        }
        uint8_t seq[8];
        cyx_put64_be(seq, 7);
        MDB_val seq_key = {8, seq};
        size = cyx_change_size(&key, &record);
        cyx_change_pack(&key, &record, NULL, change);
        for (size_t cut = 0; cut <= size; cut++) {
            MDB_val v = {cut, (void *)(uintptr_t)at_end(change, cut)};
            CHECK((cyx_change_unpack(&seq_key, &v, &logged) == CYX_OK) == (cut == size));
            if (cut > 6) {
                cyx_change_seal(7, guard - cut, cut);
                (void)!cyx_change_unpack(&seq_key, &v, &logged);
            }
        }
    }
}

/* The file of a store, whole, cut off at any page, and with all that is in its last pages changed. */
static void test_files(void)
{
    cyx_structure structure;
    cyx_salvage salvage;
    for (size_t pages = 0; pages <= s.size / 4096; pages++) {
        size_t size = s.size - pages * 4096;
        const cyx_image image = cyx_image_of((const uint8_t *)at_end(s.bytes, size), size);
        CHECK(cyx_structure_check(&image, 0, NULL, NULL, &structure) == CYX_OK);
        CHECK((structure.findings == 0) == (pages == 0));
        CHECK(cyx_salvage_run(&image, &structure, &salvage) == CYX_OK);
        cyx_salvage_free(&salvage);
        cyx_structure_free(&structure);
    }
    for (unsigned n = 0; n < 2000; n++) {
        const cyx_image image = cyx_image_of((const uint8_t *)at_end(s.bytes, s.size), s.size);
        for (unsigned bytes = 0; bytes < 3; bytes++) /* heads, slots and nodes of pages near the end */
            guard[-(ptrdiff_t)(1 + damage_draw(12) * 4096 + damage_draw(4096))] = (uint8_t)damage_draw(256);
        CHECK(cyx_structure_check(&image, 0, NULL, NULL, &structure) == CYX_OK);
        CHECK(cyx_salvage_run(&image, &structure, &salvage) == CYX_OK);
        cyx_salvage_free(&salvage);
        cyx_structure_free(&structure);
    }
}

/* A table whose last line ends where its pages end, and a name for which that line is looked into. */
static void test_table(void)
{
    cyx_lines_writer *writer = calloc(1, sizeof *writer);
    CHECK(writer != NULL);
    size_t size = 2 * CYX_PAGE_LINES * CYX_LINE_BYTES;
    memset(guard - size, 0, size);
    writer->lines = (cyx_lines){(cyx_line *)(void *)(guard - size), 2 * CYX_PAGE_LINES};
    for (uint64_t n = 0; n < 700; n++)
        CHECK(cyx_lines_insert(writer, (n << 55) ^ n * 0x9E3779B97F4A7C15u, 1 + (uint32_t)n));
    for (uint64_t n = 0; n < 4000; n++) {
        cyx_lines_prefetch(&writer->lines, ~(uint64_t)0 - n);
        (void)cyx_lines_find(&writer->lines, ~(uint64_t)0 - n * 0x1000003u);
    }
    free(writer);
}

int main(void)
{
    cyx_writer *writer;
    cyx_reader *reader;
    sample_make(&s);
    make_guard(s.size);
    test_checksums();
    test_values();
    test_files();
    test_table();
    CHECK(cyx_writer_open(s.state, s.run, "", (size_t)1 << 30, &writer) == CYX_OK);
    CHECK(cyx_open(s.state, &reader) == CYX_OK);
    cyx_writer_beat(writer, true);
    test_names(reader, writer); /* the store answers */
    CHECK(cyx_writer_build_hot(writer) == CYX_OK && cyx_refresh(reader) == CYX_OK);
    cyx_writer_beat(writer, true);
    test_names(reader, writer); /* and now the table */
    cyx_close(&reader);
    cyx_writer_close(&writer);
    CHECK(munmap(guard - before, before) == 0);
    sample_remove(&s);
    (void)printf("%lu checks\n", checks);
    return 0;
}
