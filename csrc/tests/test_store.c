/* test_store - the C interface as a C program sees it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "writer.h"

static char root[] = "/tmp/cyx-test-XXXXXX";
static char state[64], run[64];

static int put(cyx_writer *writer, const char *name, uint32_t what, const char *server, const char *acl)
{
    uint64_t seq;
    int64_t at;
    const cyx_put_record record = {
        .name = name, .name_len = strlen(name), .server = server, .server_len = strlen(server), .partition = "default",
        .partition_len = 7, .acl = acl, .acl_len = strlen(acl), .by = "test", .by_len = 4, .state = what};
    return cyx_writer_put(writer, &record, &seq, &at);
}

static void test_crc(void)
{
    uint8_t zeros[32] = {0};
    CHECK(cyx_crc32c(0, "123456789", 9) == 0xE3069283u);
    CHECK(cyx_crc32c(0, zeros, 32) == 0x8A9136AAu); /* RFC 3720 B.4 */
    CHECK(cyx_crc32c(cyx_crc32c(0, "1234", 4), "56789", 5) == 0xE3069283u);
    CHECK(cyx_crc32c(7, "", 0) == 7);
}

static void test_keys(void)
{
    const struct {
        const char *name, *key;
    } pairs[] = {{"user.alice.Sent", "Nuser\x1f" "alice\x1f" "Sent"},
                 {"example.org!user.foo.x", "Nexample.org\x1duser\x1f" "foo\x1fx"},
                 {"a!b!c.d", "Na\x1d" "b!c\x1f" "d"},
                 {"user.john^doe.a^b", "Nuser\x1f" "john.doe\x1f" "a.b"},
                 {"a^b.c!user.d^e", "Na^b.c\x1duser\x1f" "d.e"},
                 {"!", "N\x1d"},
                 {".", "N\x1f"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        uint8_t key[CYX_KEY_MAX], name[CYX_MAX_NAME];
        size_t key_len, name_len;
        CHECK(cyx_key_from_name(pairs[i].name, strlen(pairs[i].name), key, &key_len) == CYX_OK);
        CHECK(key_len == strlen(pairs[i].key) && memcmp(key, pairs[i].key, key_len) == 0);
        CHECK(cyx_name_from_key(key, key_len, name, &name_len) == CYX_OK);
        CHECK(name_len == strlen(pairs[i].name) && memcmp(name, pairs[i].name, name_len) == 0);
    }
    uint8_t name[CYX_MAX_NAME];
    size_t len;
    CHECK(cyx_name_from_key((const uint8_t *)"X", 1, name, &len) == CYX_ECORRUPT);
    CHECK(cyx_name_from_key((const uint8_t *)"Xuser", 5, name, &len) == CYX_ECORRUPT);
}

static void test_records(void)
{
    uint8_t raw_key[CYX_KEY_MAX];
    MDB_val key = {0, raw_key};
    CHECK(cyx_key_from_name("user.a", 6, raw_key, &key.mv_size) == CYX_OK);
    const cyx_packed record = {.seq = 1, .changed_at = -5, .flags = 7, .server = 9, .partition = 70000, .state = 2,
                               .acl = (const uint8_t *)"acl", .acl_len = 3, .by = (const uint8_t *)"me", .by_len = 2};
    uint8_t packed[CYX_RECORD_HEAD + 5];
    CHECK(cyx_record_size(&record) == sizeof packed);
    cyx_record_pack(&record, &key, packed);
    cyx_packed again;
    MDB_val value = {sizeof packed, packed};
    CHECK(cyx_record_unpack(&key, &value, &again) == CYX_OK);
    CHECK(again.changed_at == -5 && again.partition == 70000 && again.by_len == 2 && memcmp(again.by, "me", 2) == 0);
    /* every bit counts, in the value and in the key; so does every length */
    for (size_t bit = 0; bit < 8 * sizeof packed; bit++) {
        packed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(cyx_record_unpack(&key, &value, &again) == CYX_ECORRUPT);
        packed[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    raw_key[3] ^= 1;
    CHECK(cyx_record_unpack(&key, &value, &again) == CYX_ECORRUPT);
    raw_key[3] ^= 1;
    for (size_t size = 0; size < sizeof packed; size++) {
        uint8_t *copy = malloc(size ? size : 1); /* its end is watched by the sanitizer */
        memcpy(copy, packed, size);
        const MDB_val shorter = {size, copy};
        CHECK(cyx_record_unpack(&key, &shorter, &again) == CYX_ECORRUPT);
        free(copy);
    }
}

/* A value whose checksum is right and whose lengths lie. */
static void test_lying_lengths(void)
{
    uint8_t raw_key[CYX_KEY_MAX], packed[CYX_RECORD_HEAD + 4] = {0};
    MDB_val key = {0, raw_key}, value = {sizeof packed, packed};
    cyx_packed again;
    CHECK(cyx_key_from_name("user.a", 6, raw_key, &key.mv_size) == CYX_OK);
    const uint32_t lies[][3] = {{5, 0, 2}, {0, 5, 2}, {0xFFFFFFFF, 5, 2}, {0xFFFFFFFF, 0xFFFFFFFF, 2}, {2, 1, 2}, {4, 0, 0}, {4, 0, 4}};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        cyx_put32(packed + 36, lies[i][0]);
        cyx_put32(packed + 40, lies[i][1]);
        cyx_put32(packed + 32, lies[i][2]);
        cyx_put32(packed, cyx_crc32c(cyx_crc32c(0, raw_key, key.mv_size), packed + 4, sizeof packed - 4));
        CHECK(cyx_record_unpack(&key, &value, &again) == CYX_ECORRUPT);
    }
}

typedef struct seen {
    char text[256];
    unsigned count, stop_at;
    cyx_reader *reader;
} seen;

static int note(void *context, const cyx_entry *entry)
{
    seen *s = context;
    cyx_location location;
    (void)snprintf(s->text + strlen(s->text), sizeof s->text - strlen(s->text), "%.*s ", (int)entry->name_len,
                   entry->name);
    /* the walk holds no transaction here: the handle can be used */
    CHECK(cyx_inspect(s->reader, entry->name, entry->name_len, &location) == CYX_OK);
    CHECK(location.server == entry->location.server);
    return ++s->count == s->stop_at;
}

static void test_reading(cyx_writer *writer)
{
    cyx_reader *reader;
    cyx_location at, many[3];
    char acl[8];
    size_t acl_len;
    CHECK(cyx_open(state, &reader) == CYX_OK);
    CHECK(cyx_lookup(reader, "user.a", 6, &at) == CYX_OK);
    CHECK(strcmp(at.server, "be1") == 0 && strcmp(at.partition, "default") == 0 && at.state == CYX_ACTIVE);
    CHECK(cyx_lookup(reader, "user.gone", 9, &at) == CYX_ABSENT);
    CHECK(cyx_inspect(reader, "user.gone", 9, &at) == CYX_ABSENT && at.state == CYX_DELETED && at.changed_at > 0);
    CHECK(cyx_lookup(reader, "user.never", 10, &at) == CYX_ABSENT && at.state == 0);
    const cyx_name names[] = {{"user.b", 6}, {"user.never", 10}, {"user.a", 6}};
    CHECK(cyx_lookup_many(reader, names, 3, many) == CYX_OK);
    CHECK(many[0].state == CYX_RESERVED && many[1].state == 0 && strcmp(many[2].server, "be1") == 0);
    CHECK(cyx_acl(reader, "user.a", 6, acl, sizeof acl, &acl_len) == CYX_OK && acl_len == 4 && memcmp(acl, "a\tl\t", 4) == 0);
    CHECK(cyx_acl(reader, "user.a", 6, acl, 3, &acl_len) == CYX_ETOOSMALL && acl_len == 4);
    CHECK(cyx_acl(reader, "user.gone", 9, acl, 3, &acl_len) == CYX_ABSENT);
    seen s = {.reader = reader};
    CHECK(cyx_walk(reader, "", 0, NULL, note, &s) == CYX_OK && strcmp(s.text, "user.a user.a.x user.b ") == 0);
    s = (seen){.reader = reader};
    CHECK(cyx_walk(reader, "user.a", 6, "be1", note, &s) == CYX_OK && strcmp(s.text, "user.a ") == 0);
    s = (seen){.reader = reader};
    CHECK(cyx_walk(reader, "", 0, "nobody", note, &s) == CYX_OK && s.count == 0);
    s = (seen){.reader = reader, .stop_at = 2};
    CHECK(cyx_walk(reader, "", 0, NULL, note, &s) == CYX_STOPPED && s.count == 2);
    cyx_writer_beat(writer, false);
    CHECK(cyx_fresh(reader, 0) == CYX_STALE);
    cyx_writer_beat(writer, true);
    CHECK(cyx_fresh(reader, 3000) == CYX_OK);
    cyx_close(&reader);
    CHECK(reader == NULL);
    cyx_close(&reader);
}

static void test_two_handles(void)
{
    cyx_reader *first, *second;
    cyx_location at;
    CHECK(cyx_open(state, &first) == CYX_OK && cyx_open(state, &second) == CYX_OK);
    CHECK(cyx_lookup(first, "user.a", 6, &at) == CYX_OK);
    cyx_close(&first);
    CHECK(cyx_lookup(second, "user.a", 6, &at) == CYX_OK);
    pid_t child = fork();
    if (child == 0) {
        int rc = cyx_lookup(second, "user.a", 6, &at);
        cyx_close(&second);
        _exit(rc == CYX_OK && strcmp(at.server ? "be1" : "", "be1") == 0 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(cyx_lookup(second, "user.a", 6, &at) == CYX_OK && strcmp(at.server, "be1") == 0);
    cyx_close(&second);
}

static void *work(void *context)
{
    cyx_reader *reader = context;
    for (int i = 0; i < 2000; i++) {
        cyx_location at;
        CHECK(cyx_lookup(reader, "user.a", 6, &at) == CYX_OK && strcmp(at.partition, "default") == 0);
    }
    return NULL;
}

static void test_threads(cyx_writer *writer)
{
    cyx_reader *reader;
    pthread_t threads[3];
    CHECK(cyx_open(state, &reader) == CYX_OK);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, work, reader) == 0);
    for (int i = 0; i < 50; i++)
        CHECK(cyx_writer_begin(writer) == CYX_OK && put(writer, "user.a", CYX_ACTIVE, i % 2 ? "be1" : "be2", "a\tl\t") == CYX_OK &&
              cyx_writer_commit(writer) == CYX_OK);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    cyx_close(&reader);
}

static void test_verify(void)
{
    cyx_reader *reader;
    uint64_t findings = 99;
    CHECK(cyx_open(state, &reader) == CYX_OK);
    CHECK(cyx_verify(reader, NULL, NULL, &findings) == CYX_OK && findings == 0);
    cyx_close(&reader);
}

int main(void)
{
    cyx_writer *writer, *other;
    cyx_reader *reader;
    CHECK(mkdtemp(root));
    (void)snprintf(state, sizeof state, "%s/state", root);
    (void)snprintf(run, sizeof run, "%s/run", root);
    test_crc();
    test_keys();
    test_records();
    test_lying_lengths();
    CHECK(cyx_open(state, &reader) == CYX_EUNAVAIL && reader == NULL && *cyx_detail());
    CHECK(cyx_writer_open(state, run, "", (size_t)64 << 20, &writer) == CYX_OK);
    CHECK(cyx_writer_open(state, run, "", (size_t)64 << 20, &other) == CYX_EBUSY && !other);
    CHECK(put(writer, "user.a", CYX_ACTIVE, "be1", "") == CYX_EMISUSE);
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    CHECK(cyx_writer_begin(writer) == CYX_EMISUSE);
    CHECK(put(writer, "user.a", CYX_ACTIVE, "be1", "a\tl\t") == CYX_OK);
    CHECK(put(writer, "user.a.x", CYX_ACTIVE, "be2", "") == CYX_OK);
    CHECK(put(writer, "user.b", CYX_RESERVED, "be1", "") == CYX_OK);
    CHECK(put(writer, "user.gone", CYX_DELETED, "be1", "") == CYX_OK);
    CHECK(put(writer, "user.bad", 4, "be1", "") == CYX_EINVAL);
    CHECK(cyx_writer_commit(writer) == CYX_OK && cyx_writer_seq(writer) == 4);
    test_reading(writer);
    test_two_handles();
    test_threads(writer);
    test_verify();
    cyx_writer_close(&writer);
    for (int code = CYX_EMISUSE - 1; code <= CYX_STOPPED + 1; code++)
        CHECK(*cyx_strerror(code));
    char command[96];
    (void)snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0);
    (void)printf("%lu checks\n", checks);
    return 0;
}
