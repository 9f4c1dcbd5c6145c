/* test_hot - the hot table of a real store: it answers as the store does, through changes, rebuilds and damage. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "hot.h"
#include "writer_state.h"

#define NAMES 3000u
static char root[] = "/tmp/cyx-hot-XXXXXX";
static char state[64], run[64], file[80];
static char names[NAMES][48];
static const char *const servers[] = {"be1", "be2", "be3.example.org", "be4:1143"};
static struct {
    uint32_t state, flags, server;
} model[NAMES];

static uint64_t seed = 88172645463325252u;
static uint32_t draw(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed * 2685821657736338717u) >> 40) % below;
}

static void put(cyx_writer *writer, uint32_t i, uint32_t what, uint32_t flags, uint32_t server, bool late)
{
    uint64_t seq;
    int64_t at;
    const cyx_put_record record = {.name = names[i], .name_len = strlen(names[i]), .server = servers[server],
                                   .server_len = strlen(servers[server]), .partition = "default", .partition_len = 7,
                                   .by = "test", .by_len = 4, .state = what, .flags = flags, .seq = late};
    CHECK(cyx_writer_put(writer, &record, &seq, &at) == CYX_OK);
    model[i].state = what;
    model[i].flags = flags;
    model[i].server = server;
}

static void put_named(cyx_writer *writer, const char *name)
{
    uint64_t seq;
    int64_t at;
    const cyx_put_record record = {.name = name, .name_len = strlen(name), .server = "be1", .server_len = 3,
                                   .partition = "", .by = "", .acl = "", .state = CYX_ACTIVE};
    CHECK(cyx_writer_put(writer, &record, &seq, &at) == CYX_OK);
}

/* `late`: as copied from another node, not newer than what is there, and so in no change log. */
static void change(cyx_writer *writer, uint32_t count, bool late)
{
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    for (uint32_t n = 0; n < count; n++) {
        uint32_t i = draw(NAMES);
        if (model[i].state == CYX_ACTIVE && draw(3) == 0)
            put(writer, i, CYX_DELETED, 0, model[i].server, late);
        else
            put(writer, i, 1 + draw(2), draw(8), draw(4), late);
    }
    CHECK(cyx_writer_commit(writer) == CYX_OK);
    cyx_writer_beat(writer, true);
}

static void change_some(cyx_writer *writer, uint32_t count) { change(writer, count, false); }

static void check_answer(uint32_t i, int rc, const cyx_location *at)
{
    bool there = model[i].state == CYX_RESERVED || model[i].state == CYX_ACTIVE;
    CHECK(rc == (there ? CYX_OK : CYX_ABSENT));
    CHECK(at->state == (there ? model[i].state : 0) && at->seq == 0 && at->changed_at == 0);
    if (there)
        CHECK(at->flags == model[i].flags && strcmp(at->server, servers[model[i].server]) == 0 &&
              strcmp(at->partition, "default") == 0);
}

static void check_all(cyx_reader *reader)
{
    static cyx_name wanted[NAMES];
    static cyx_location found[NAMES];
    for (uint32_t i = 0; i < NAMES; i++) {
        cyx_location at;
        wanted[i] = (cyx_name){names[i], strlen(names[i])};
        int rc = cyx_lookup(reader, names[i], strlen(names[i]), &at);
        check_answer(i, rc, &at);
    }
    CHECK(cyx_lookup_many(reader, wanted, NAMES, found) == CYX_OK);
    for (uint32_t i = 0; i < NAMES; i++)
        check_answer(i, found[i].state ? CYX_OK : CYX_ABSENT, &found[i]);
}

static uint64_t generation(cyx_reader *reader)
{
    cyx_location at;
    int rc = cyx_lookup(reader, "user.nobody", 11, &at);
    CHECK(rc == CYX_ABSENT);
    return reader->table ? reader->table->hot.header->generation : 0;
}

static void wait_for_table(cyx_reader *reader, uint64_t at_least)
{
    for (unsigned n = 0; n < 5000 && generation(reader) < at_least; n++)
        (void)usleep(1000);
    CHECK(generation(reader) >= at_least);
}

/* Slots that leave the answer to the store: with the names of this test a few in a million runs. */
static unsigned asks(const cyx_reader *reader)
{
    unsigned count = 0;
    const cyx_lines *lines = &reader->table->hot.lines;
    for (uint64_t i = 0; i < lines->count; i++)
        for (unsigned slot = 0; slot < CYX_LINE_SLOTS; slot++)
            count += (lines->at[i].slots[slot] & CYX_ROUTE_ASK) == CYX_ROUTE_ASK;
    return count;
}

static int stop(void *context, const cyx_entry *entry)
{
    (void)context;
    CHECK(entry->name_len > 0);
    return 1;
}

static void test_life(cyx_writer *writer, cyx_reader *reader)
{
    check_all(reader);
    CHECK(generation(reader) == 0 && cyx_writer_hot_wanted(writer));
    change_some(writer, 2000);
    CHECK(cyx_writer_build_hot(writer) == CYX_OK && !cyx_writer_hot_wanted(writer));
    wait_for_table(reader, 1);
    check_all(reader);
    for (unsigned n = 0; n < 200; n++) {
        change_some(writer, 1 + draw(40));
        if (n % 20 == 0)
            check_all(reader);
    }
    CHECK(generation(reader) == 1 && asks(reader) == 0); /* still the one that was built, and it answers by itself */
    /* a transaction that came to nothing leaves nothing in the table */
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    put_named(writer, "user.undone");
    cyx_writer_abort(writer);
    change_some(writer, 1);
    cyx_location undone;
    CHECK(cyx_lookup(reader, "user.undone", 11, &undone) == CYX_ABSENT);
    CHECK(cyx_writer_build_hot(writer) == CYX_OK);
    wait_for_table(reader, 2);
    check_all(reader);
}

/* What no mailbox can be called is the caller's mistake, whoever would have answered. */
static void test_bad_names(cyx_reader *reader)
{
    static const char long_name[CYX_MAX_NAME + 1] = "user.";
    const cyx_name bad[] = {{"", 0}, {"user.a\0b", 8}, {"user.a\r", 7}, {"\n", 1}, {"user.\x1D", 6},
                            {"user.\x1F", 6}, {long_name, sizeof long_name}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const cyx_name pair[] = {{names[0], strlen(names[0])}, bad[i]};
        cyx_location at[2];
        char acl[8];
        size_t size;
        CHECK(cyx_lookup(reader, bad[i].data, bad[i].len, at) == CYX_EINVAL && strstr(cyx_detail(), "mailbox name"));
        CHECK(cyx_inspect(reader, bad[i].data, bad[i].len, at) == CYX_EINVAL);
        CHECK(cyx_acl(reader, bad[i].data, bad[i].len, acl, sizeof acl, &size) == CYX_EINVAL);
        CHECK(cyx_lookup_many(reader, pair, 2, at) == CYX_EINVAL);
        check_answer(0, at[0].state ? CYX_OK : CYX_ABSENT, &at[0]);
        CHECK(cyx_walk(reader, bad[i].data, bad[i].len, NULL, stop, NULL) == (bad[i].len ? CYX_OK : CYX_STOPPED));
    }
    /* other control characters can be in one */
    cyx_location at;
    CHECK(cyx_lookup(reader, "user.\t\x01", 7, &at) == CYX_ABSENT);
}

/* More mailboxes than the table was built for: it says so, and the next one has room. */
static void test_growth(cyx_writer *writer, cyx_reader *reader)
{
    char name[32];
    for (unsigned i = 0; !cyx_writer_hot_wanted(writer) && i < 100000; i += 500) {
        CHECK(cyx_writer_begin(writer) == CYX_OK);
        for (unsigned j = i; j < i + 500; j++) {
            (void)snprintf(name, sizeof name, "user.more%u", j);
            put_named(writer, name);
        }
        CHECK(cyx_writer_commit(writer) == CYX_OK);
    }
    CHECK(cyx_writer_hot_wanted(writer));
    uint64_t before = generation(reader);
    CHECK(cyx_writer_build_hot(writer) == CYX_OK && !cyx_writer_hot_wanted(writer));
    wait_for_table(reader, before + 1);
    check_all(reader);
}

typedef struct rebuilding {
    cyx_writer *writer;
    bool may_fail; /* changes come too fast for it */
    unsigned count;
    bool over;
} rebuilding;

static void *rebuild(void *context)
{
    rebuilding *r = context;
    while (!__atomic_load_n(&r->over, __ATOMIC_ACQUIRE)) {
        int rc = cyx_writer_build_hot(r->writer);
        CHECK(rc == CYX_OK || (r->may_fail && rc == CYX_EBUSY));
        (void)__atomic_add_fetch(&r->count, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* One thread builds table after table while this one changes the store and looks. */
static void test_rebuilds(cyx_writer *writer, cyx_reader *reader, bool late)
{
    rebuilding context = {.writer = writer, .may_fail = late};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, rebuild, &context) == 0);
    for (unsigned n = 0; n < 300 || __atomic_load_n(&context.count, __ATOMIC_RELAXED) < 20; n++) {
        change(writer, 1 + draw(30), late && draw(2));
        if (n % 30 == 0)
            check_all(reader);
    }
    __atomic_store_n(&context.over, true, __ATOMIC_RELEASE);
    CHECK(pthread_join(thread, NULL) == 0);
    check_all(reader);
}

/* A node that died between a commit and its entry in the table, and beats no more: a miss is the store's to tell. */
static void test_dead_writer(cyx_reader *reader, cyx_writer *writer)
{
    cyx_location at;
    CHECK(cyx_refresh(reader) == CYX_OK && generation(reader) > 0);
    cyx_hot_writer *table = writer->hot;
    writer->hot = NULL;
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    put_named(writer, "user.late");
    CHECK(cyx_writer_commit(writer) == CYX_OK);
    cyx_writer_beat(writer, false);
    (void)usleep(150000); /* for how long a living node is believed to live */
    CHECK(generation(reader) > 0 && cyx_lookup(reader, "user.late", 9, &at) == CYX_OK && strcmp(at.server, "be1") == 0);
    check_all(reader);
    writer->hot = table;
    cyx_writer_beat(writer, true);
    CHECK(cyx_writer_build_hot(writer) == CYX_OK);
}

/* Neither writer nor reader may be used by a forked process as it is; the reader goes on by itself. */
static void test_fork(cyx_reader *reader, cyx_writer *writer)
{
    pid_t child = fork();
    if (child == 0)
        _exit(cyx_writer_begin(writer) == CYX_EMISUSE ? 0 : 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    child = fork();
    if (child == 0) { /* the handle of a forked process goes on by itself */
        check_all(reader);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void ignore(void *context, const char *text)
{
    (void)context;
    CHECK(*text);
}

static int open_table(cyx_hot *hot, const cyx_env *env)
{
    int rc = cyx_hot_open(hot, run, env);
    if (rc == CYX_OK)
        cyx_hot_close(hot);
    return rc;
}

/* Another store's numbers mean other servers: its readers must not take this table. */
static void test_other_store(cyx_writer *writer)
{
    char other[80], other_run[80];
    cyx_writer *second;
    cyx_hot hot;
    (void)snprintf(other, sizeof other, "%s/other", root);
    (void)snprintf(other_run, sizeof other_run, "%s/other-run", root);
    CHECK(cyx_writer_open(other, other_run, "", (size_t)1 << 24, &second) == CYX_OK);
    CHECK(open_table(&hot, writer->env) == CYX_OK && open_table(&hot, second->env) == CYX_ABSENT);
    cyx_writer_close(&second);
}

static uint64_t findings_of(cyx_reader *reader)
{
    uint64_t findings = 0;
    CHECK(cyx_hot_verify(reader, ignore, NULL, &findings) == CYX_OK);
    return findings;
}

/* A slot is under no checksum; comparing the table with the store shows what became of it. */
static void test_slots(cyx_writer *writer, cyx_reader *reader)
{
    cyx_hot hot;
    unsigned tried = 0;
    CHECK(findings_of(reader) == 0);
    CHECK(cyx_hot_open(&hot, run, writer->env) == CYX_OK);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    for (uint64_t i = 0; i < hot.lines.count && tried < 200; i += 7) {
        off_t at = (off_t)(hot.header->lines_at + i * CYX_LINE_BYTES + 8 * (1 + draw(CYX_LINE_SLOTS)));
        uint64_t word, wrong;
        CHECK(pread(fd, &word, sizeof word, at) == sizeof word);
        wrong = word ^ (uint64_t)1 << draw(64);
        CHECK(pwrite(fd, &wrong, sizeof wrong, at) == sizeof wrong);
        /* a fingerprint without a route is a free slot that can not be used: harmless */
        if ((word | wrong) & CYX_ROUTE_ASK)
            CHECK(findings_of(reader) > 0);
        CHECK(pwrite(fd, &word, sizeof word, at) == sizeof word);
        tried++;
    }
    CHECK(tried > 50 && findings_of(reader) == 0);
    (void)close(fd);
    cyx_hot_close(&hot);
}

/* Each byte of what is under a checksum, changed in turn: refused, or a route that is refused. */
static void test_damage(cyx_writer *writer)
{
    cyx_hot hot;
    uint8_t byte;
    CHECK(cyx_hot_open(&hot, run, writer->env) == CYX_OK);
    uint64_t routes = hot.header->route_count;
    CHECK(routes > 1);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    off_t end = (off_t)(sizeof(cyx_hot_header) + routes * sizeof(cyx_hot_route));
    for (off_t at = 0; at < end; at++) {
        bool route = at >= (off_t)(sizeof(cyx_hot_header) + sizeof(cyx_hot_route));
        if (at >= (off_t)offsetof(cyx_hot_header, state) && !route)
            continue;
        CHECK(pread(fd, &byte, 1, at) == 1);
        byte ^= 0x10;
        CHECK(pwrite(fd, &byte, 1, at) == 1);
        if (route) {
            cyx_hot_route copy;
            uint32_t id = (uint32_t)((at - (off_t)sizeof(cyx_hot_header)) / (off_t)sizeof copy);
            CHECK(cyx_hot_route_at(&hot, id, &copy) == CYX_ECORRUPT);
        } else {
            cyx_hot other;
            int rc = open_table(&other, writer->env);
            CHECK(rc == CYX_ECORRUPT || rc == CYX_EVERSION);
        }
        byte ^= 0x10;
        CHECK(pwrite(fd, &byte, 1, at) == 1);
    }
    cyx_hot_route route;
    CHECK(cyx_hot_route_at(&hot, 0, &route) == CYX_ECORRUPT);
    CHECK(cyx_hot_route_at(&hot, CYX_ROUTE_ASK, &route) == CYX_ECORRUPT);
    cyx_hot_close(&hot);
    (void)close(fd);
}

/* What an older node left: who opens it now asks the store, and the node puts a new one in its place. */
static void test_other_version(cyx_writer *writer, cyx_reader *reader)
{
    cyx_hot_header header;
    cyx_reader *later;
    uint64_t before = generation(reader);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0 && pread(fd, &header, sizeof header, 0) == (ssize_t)sizeof header);
    header.version = CYX_HOT_VERSION - 1;
    header.checksum = cyx_hot_header_checksum(&header);
    CHECK(pwrite(fd, &header, offsetof(cyx_hot_header, boot_id), 0) == (ssize_t)offsetof(cyx_hot_header, boot_id));
    (void)close(fd);
    cyx_hot hot;
    CHECK(open_table(&hot, writer->env) == CYX_EVERSION && strstr(cyx_detail(), "format 1"));
    CHECK(cyx_open(state, &later) == CYX_OK);
    check_all(later);
    CHECK(generation(later) == 0);
    CHECK(cyx_writer_build_hot(writer) == CYX_OK);
    wait_for_table(later, before + 1);
    check_all(later);
    wait_for_table(reader, before + 1);
    check_all(reader);
    cyx_close(&later);
}

static void copy_table(const char *to, off_t size)
{
    uint8_t buffer[65536];
    int in = open(file, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    CHECK(in >= 0 && out >= 0);
    while (size > 0) {
        ssize_t got = read(in, buffer, size < (off_t)sizeof buffer ? (size_t)size : sizeof buffer);
        CHECK(got > 0 && write(out, buffer, (size_t)got) == got);
        size -= got;
    }
    (void)close(in);
    (void)close(out);
}

/* Something else in its place: the store answers, and the next table takes the place. */
static void test_strangers(cyx_writer *writer, cyx_reader *reader)
{
    char aside[96];
    struct stat st;
    cyx_hot hot;
    (void)snprintf(aside, sizeof aside, "%s.aside", file);
    CHECK(stat(file, &st) == 0 && rename(file, aside) == 0);
    CHECK(open_table(&hot, writer->env) == CYX_ABSENT);
    CHECK(mkdir(file, 0755) == 0 && open_table(&hot, writer->env) < 0 && rmdir(file) == 0);
    CHECK(mkfifo(file, 0644) == 0 && open_table(&hot, writer->env) == CYX_ECORRUPT && unlink(file) == 0);
    CHECK(symlink(aside, file) == 0 && open_table(&hot, writer->env) < 0 && unlink(file) == 0);
    CHECK(rename(aside, file) == 0);
    const off_t sizes[] = {0, 1, 4095, 4096, 5000, st.st_size - 4096, st.st_size - 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        copy_table(aside, sizes[i]);
        char kept[112];
        (void)snprintf(kept, sizeof kept, "%s.kept", file);
        CHECK(rename(file, kept) == 0 && rename(aside, file) == 0);
        CHECK(open_table(&hot, writer->env) == CYX_ECORRUPT);
        CHECK(rename(kept, file) == 0);
    }
    if (geteuid() == 0) {
        CHECK(chown(file, 12345, 12345) == 0);
        CHECK(open_table(&hot, writer->env) == CYX_ECORRUPT);
        CHECK(chown(file, 0, 0) == 0);
    }
    CHECK(open_table(&hot, writer->env) == CYX_OK);
    check_all(reader);
}

int main(void)
{
    cyx_writer *writer;
    cyx_reader *reader;
    CHECK(mkdtemp(root));
    (void)snprintf(state, sizeof state, "%s/state", root);
    (void)snprintf(run, sizeof run, "%s/run", root);
    (void)snprintf(file, sizeof file, "%s/hot", run);
    for (uint32_t i = 0; i < NAMES; i++)
        (void)snprintf(names[i], sizeof names[i], i % 3 ? "user.u%u" : "example.org!user.u%u.Sent.%u", i, i);
    CHECK(cyx_writer_open(state, run, "", (size_t)1 << 30, &writer) == CYX_OK);
    CHECK(cyx_open(state, &reader) == CYX_OK);
    cyx_writer_beat(writer, true);
    test_life(writer, reader);
    test_bad_names(reader);
    test_growth(writer, reader);
    test_rebuilds(writer, reader, false);
    test_rebuilds(writer, reader, true);
    CHECK(cyx_writer_build_hot(writer) == CYX_OK);
    test_dead_writer(reader, writer);
    test_fork(reader, writer);
    test_other_store(writer);
    test_slots(writer, reader);
    test_damage(writer);
    test_other_version(writer, reader);
    test_strangers(writer, reader);
    cyx_writer_close(&writer);
    check_all(reader);
    /* the next writer does not trust what it finds */
    CHECK(cyx_writer_open(state, run, "", (size_t)1 << 30, &writer) == CYX_OK);
    cyx_writer_beat(writer, true);
    CHECK(!cyx_hot_serves(&reader->table->hot));
    check_all(reader);
    CHECK(cyx_writer_build_hot(writer) == CYX_OK);
    wait_for_table(reader, 1);
    check_all(reader);
    cyx_writer_close(&writer);
    cyx_close(&reader);
    char command[64];
    (void)snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0);
    (void)printf("%lu checks\n", checks);
    return 0;
}
