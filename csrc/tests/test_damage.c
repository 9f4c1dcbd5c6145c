/* test_damage - single changed bits of a store's file: found before LMDB sees them, and what can be read is read.
 *
 * In one process and in memory of just the file's size, so that a sanitizer sees each step behind it.  CYREXT_LONG=1
 * tries 32768 bits instead of 2000.  What passes the check is given to LMDB, in a process of its own.
 */
#include <sys/wait.h>

#include "damage.h"

static sample s;
static uint8_t *damaged;
static unsigned long passed, refused, lost_all, opened;

/* A salvaged record is exactly one that was there: the newest, or an older one of that name; where it is known which
   pages are free, only that of the record that is damaged, which its page may still have. */
static uint32_t check_salvaged(const cyx_salvage *salvage, bool exact)
{
    uint32_t right = 0, older = 0, at = 0;
    char name[CYX_MAX_NAME + 1];
    for (size_t i = 0; i < salvage->count; i++) {
        cyx_packed record;
        size_t len;
        cyx_salvage_record(salvage, i, &record);
        CHECK(cyx_name_from_key(salvage->items[i].key.mv_data, salvage->items[i].key.mv_size, (uint8_t *)name, &len) ==
              CYX_OK);
        name[len] = 0;
        const char *digits = strstr(name, ".u");
        at = digits ? (uint32_t)atoi(digits + 2) : DAMAGE_NAMES;
        CHECK(at < DAMAGE_NAMES && strcmp(s.model[at].name, name) == 0 && record.seq <= s.model[at].seq);
        const cyx_salvage_text *server = &salvage->servers.items[record.server];
        if (record.seq < s.model[at].seq) {
            older++;
            continue;
        }
        CHECK(record.state == s.model[at].state && record.acl_len == s.model[at].acl_len &&
              record.changed_at == 1700000000000000 + (int64_t)at &&
              server->len == strlen(damage_servers[s.model[at].server]) &&
              memcmp(server->text, damage_servers[s.model[at].server], server->len) == 0);
        right++;
    }
    CHECK(older <= 1 || !exact);
    return right;
}

static int check_damaged(cyx_structure *structure, cyx_salvage *salvage, const cyx_image *image)
{
    int rc = cyx_structure_check(image, 0, NULL, NULL, structure);
    CHECK(rc == CYX_OK || rc == CYX_EVERSION);
    CHECK(cyx_salvage_run(image, structure, salvage) == CYX_OK);
    return rc;
}

/* What the check lets through, LMDB and everything above it has to read without a difference. */
static void open_in_child(uint64_t bit)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        cyx_reader *reader;
        int fd = open(s.data, O_RDWR | O_CLOEXEC), bad = 0;
        if (fd < 0 || pwrite(fd, damaged, s.size, 0) != (ssize_t)s.size || close(fd) || cyx_open(s.state, &reader))
            _exit(2);
        for (uint32_t i = 0; i < DAMAGE_NAMES; i++) {
            cyx_location at;
            int rc = cyx_inspect(reader, s.model[i].name, strlen(s.model[i].name), &at);
            bool live = s.model[i].state != CYX_DELETED;
            bad |= rc != (live ? CYX_OK : CYX_ABSENT) || at.seq != s.model[i].seq ||
                   (live && strcmp(at.server, damage_servers[s.model[i].server]) != 0);
        }
        cyx_close(&reader);
        _exit(bad);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (status)
        (void)fprintf(stderr, "bit %lu of page %lu was let through: status %#x\n", (unsigned long)(bit % 32768),
                      (unsigned long)(bit / 32768), (unsigned)status);
    CHECK(status == 0);
    opened++;
}

static void try_bit(uint64_t bit)
{
    const cyx_image image = cyx_image_of(damaged, s.size);
    cyx_structure structure;
    cyx_salvage salvage;
    damaged[bit / 8] ^= (uint8_t)(1u << bit % 8);
    const cyx_image seen = cyx_image_of(damaged, s.size); /* the page size may be what is damaged */
    int rc = check_damaged(&structure, &salvage, &seen);
    bool exact = structure.spare_sound;
    uint32_t right = check_salvaged(&salvage, exact);
    if (rc == CYX_OK && structure.findings == 0) {
        CHECK(right == DAMAGE_NAMES && seen.page_size == image.page_size);
        passed++;
        if (passed % 40 == 0)
            open_in_child(bit);
    } else {
        uint32_t lost = DAMAGE_NAMES - right;
        if (lost > 1)
            (void)fprintf(stderr, "bit %lu of page %lu: %u lost, %lu unknown\n", (unsigned long)(bit % (8 * image.page_size)),
                          (unsigned long)(bit / 8 / image.page_size), lost, (unsigned long)salvage.unknown);
        CHECK(lost <= 1); /* a bit belongs to one record at most */
        lost_all += lost;
        refused++;
    }
    cyx_salvage_free(&salvage);
    cyx_structure_free(&structure);
    damaged[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

/* All of the file's heads in turn: where a bit is worst. */
static void try_heads(uint64_t step)
{
    for (uint64_t page = 0; page < s.size / 4096; page++)
        for (uint64_t bit = page % step; bit < 8 * 24; bit += step)
            try_bit(page * 4096 * 8 + bit);
    for (uint64_t page = 0; page < 2; page++)
        for (uint64_t bit = 8 * 16; bit < 8 * 152; bit += 1 + step / 4)
            try_bit(page * 4096 * 8 + bit);
}

/* Each bit of each byte of one record, under a reader that has the store open: an error, never another answer. */
static void test_one_record(void)
{
    static const uint8_t key[] = "Nuser\x1fu0100";
    const size_t key_len = sizeof key - 1, i = 100;
    cyx_reader *reader;
    cyx_location at;
    off_t found = 0;
    char acl[128];
    size_t len;
    const cyx_image image = cyx_image_of(s.bytes, s.size);
    cyx_structure structure;
    CHECK(cyx_structure_check(&image, 0, NULL, NULL, &structure) == CYX_OK);
    for (size_t place = 8192; place + 300 < s.size; place++)
        if (cyx_bit(structure.reached, place / 4096) && memcmp(s.bytes + place, key, key_len) == 0 && cyx_get64(s.bytes + place + key_len + 4) == s.model[i].seq)
            found = (off_t)(place + key_len);
    cyx_structure_free(&structure);
    CHECK(found && s.model[i].state != CYX_DELETED && s.model[i].acl_len < sizeof acl);
    size_t size = CYX_RECORD_HEAD + s.model[i].acl_len + strlen("tester@be1");
    int fd = open(s.data, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0 && cyx_open(s.state, &reader) == CYX_OK);
    for (size_t bit = 0; bit < 8 * size; bit++) {
        off_t where = found + (off_t)(bit / 8);
        uint8_t wrong = s.bytes[where] ^ (uint8_t)(1u << bit % 8);
        CHECK(pwrite(fd, &wrong, 1, where) == 1);
        CHECK(cyx_inspect(reader, "user.u0100", 10, &at) == CYX_ECORRUPT && strstr(cyx_detail(), "user.u0100"));
        CHECK(cyx_lookup(reader, "user.u0100", 10, &at) == CYX_ECORRUPT && at.state == 0);
        CHECK(cyx_acl(reader, "user.u0100", 10, acl, sizeof acl, &len) == CYX_ECORRUPT);
        CHECK(cyx_inspect(reader, "user.u0101", 10, &at) >= 0); /* the one behind it is not touched */
        CHECK(pwrite(fd, &s.bytes[where], 1, where) == 1);
    }
    CHECK(cyx_inspect(reader, "user.u0100", 10, &at) == CYX_OK && at.seq == s.model[i].seq);
    cyx_close(&reader);
    (void)close(fd);
}

/* Nodes of leaves that are in use, of every database: no changed bit of them is let through. */
static void try_nodes(unsigned count)
{
    const cyx_image image = cyx_image_of(damaged, s.size);
    cyx_structure structure, other;
    unsigned tried = 0;
    CHECK(cyx_structure_check(&image, 0, NULL, NULL, &structure) == CYX_OK && structure.findings == 0);
    while (tried < count) {
        uint64_t at = 2 + damage_draw(image.pages - 2);
        uint8_t *page = damaged + at * image.page_size;
        cyx_node node;
        if (!cyx_bit(structure.reached, at) || cyx_page_flags(page) != CYX_PAGE_LEAF || cyx_get64(page) != at)
            continue;
        size_t slots = (cyx_page_lower(page) - CYX_PAGE_HEAD) / 2;
        size_t offset = cyx_get16(page + CYX_PAGE_HEAD + 2 * damage_draw(slots));
        CHECK(cyx_page_node(&image, page, offset, 0, false, &node));
        size_t used = CYX_NODE_HEAD + node.key_len + (node.flags & CYX_NODE_BIG ? 8 : node.size);
        uint8_t *byte = page + offset + damage_draw(used), mask = (uint8_t)(1u << damage_draw(8));
        *byte ^= mask;
        int rc = cyx_structure_check(&image, 0, NULL, NULL, &other);
        if (rc == CYX_OK && other.findings == 0)
            (void)fprintf(stderr, "byte %zu of page %lu\n", (size_t)(byte - page), (unsigned long)at);
        CHECK(rc == CYX_EVERSION || other.findings > 0);
        cyx_structure_free(&other);
        *byte ^= mask;
        tried++;
    }
    cyx_structure_free(&structure);
}

static void tell(void *context, const char *text)
{
    (void)context;
    (void)fprintf(stderr, "found beside a writer: %s\n", text);
}

/* Beside a writer that commits all the time the check sees one snapshot, and finds nothing. */
static void test_beside_a_writer(void)
{
    cyx_writer *writer;
    unsigned commits = 0;
    int status = 0;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        for (unsigned n = 0; n < 150; n++) {
            uint64_t findings = 1;
            if (cyx_check_live_store(s.state, tell, NULL, &findings) != CYX_OK || findings)
                _exit(1);
        }
        _exit(0);
    }
    CHECK(cyx_writer_open(s.state, s.run, "", (size_t)1 << 30, &writer) == CYX_OK);
    while (waitpid(child, &status, WNOHANG) == 0) {
        CHECK(cyx_writer_begin(writer) == CYX_OK);
        for (uint32_t n = 0; n < 40; n++)
            sample_put(&s, writer, (uint32_t)damage_draw(DAMAGE_NAMES), 1 + (uint32_t)damage_draw(3), (uint32_t)damage_draw(3),
                       damage_draw(30) ? 30 : DAMAGE_BIG_ACL);
        CHECK(cyx_writer_commit(writer) == CYX_OK);
        commits++;
    }
    CHECK(status == 0 && commits > 0);
    cyx_writer_close(&writer);
}

int main(void)
{
    const char *longer = getenv("CYREXT_LONG");
    bool all = longer && *longer && *longer != '0';
    sample_make(&s);
    test_one_record();
    CHECK((damaged = malloc(s.size)) != NULL);
    memcpy(damaged, s.bytes, s.size);
    try_heads(all ? 1 : 13);
    for (unsigned long i = 0; i < (all ? 32768 : 2000); i++)
        try_bit(damage_draw(8 * s.size));
    try_nodes(all ? 20000 : 1500);
    CHECK(passed > 0 && refused > 0 && opened > 0);
    free(damaged);
    CHECK(truncate(s.data, 0) == 0); /* other bytes than LMDB wrote may have been left there */
    int fd = open(s.data, O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0 && write(fd, s.bytes, s.size) == (ssize_t)s.size && close(fd) == 0);
    test_beside_a_writer();
    sample_remove(&s);
    (void)printf("%lu bits in use found, %lu in no use, %lu of these opened; %lu records lost in all, %lu checks\n", refused,
                 passed, opened, lost_all, checks);
    return 0;
}
