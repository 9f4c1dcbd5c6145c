/* test_strangers - run_dir/hot and run_dir/heartbeat damaged, cut off, or something else: never a wrong answer, nobody
 * waits, the next writer takes the place; and what is mapped never gets shorter.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "hot.h"
#include "writer_state.h"

#define NAMES 3000u
#define MAP ((size_t)1 << 28)
static char root[] = "/tmp/cyx-strangers-XXXXXX";
static char state[64], run[64], hot[80], beat[80], victim[80];
static uint64_t seed = 0x2545F4914F6CDD1Du;

static uint64_t draw(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (seed * 2685821657736338717u >> 20) % below;
}

static void name_of(uint32_t i, char name_r[32]) { (void)snprintf(name_r, 32, "user.u%u.Sent", i); }

static void fill(cyx_writer *writer)
{
    uint64_t seq;
    int64_t at;
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    for (uint32_t i = 0; i < NAMES; i++) {
        char name[32], server[8];
        name_of(i, name);
        (void)snprintf(server, sizeof server, "be%u", i % 4);
        const cyx_put_record record = {.name = name, .name_len = strlen(name), .server = server, .server_len = 3,
                                       .partition = "default", .partition_len = 7, .acl = "", .by = "",
                                       .state = CYX_ACTIVE, .flags = i % 3};
        CHECK(cyx_writer_put(writer, &record, &seq, &at) == CYX_OK);
    }
    CHECK(cyx_writer_commit(writer) == CYX_OK);
}

/* Whoever opens the index now gets right answers. */
static void answers(cyx_reader *reader, uint32_t step)
{
    cyx_location at;
    for (uint32_t i = (uint32_t)draw(step); i < NAMES; i += step) {
        char name[32], server[8];
        name_of(i, name);
        (void)snprintf(server, sizeof server, "be%u", i % 4);
        CHECK(cyx_lookup(reader, name, strlen(name), &at) == CYX_OK);
        CHECK(strcmp(at.server, server) == 0 && at.flags == i % 3 && at.state == CYX_ACTIVE);
    }
    CHECK(cyx_lookup(reader, "user.nobody", 11, &at) == CYX_ABSENT);
}

static unsigned sentences;
static void tell(void *context, const char *text)
{
    (void)context;
    CHECK(strlen(text) > 10);
    sentences++;
}

/* A new reader is right, and verify says something if and only if it should. */
static void fresh_eyes(bool finding)
{
    cyx_reader *reader;
    uint64_t findings = 0;
    CHECK(cyx_open(state, &reader) == CYX_OK);
    answers(reader, 97);
    sentences = 0;
    CHECK(cyx_hot_verify(reader, tell, NULL, &findings) == CYX_OK);
    CHECK((findings > 0) == finding && (sentences > 0) == finding);
    cyx_close(&reader);
}

static void flip(int fd, off_t at, uint8_t mask)
{
    uint8_t byte;
    CHECK(pread(fd, &byte, 1, at) == 1);
    byte ^= mask;
    CHECK(pwrite(fd, &byte, 1, at) == 1);
}

/* Each byte of the header that means something, and of each route: the answers stay right, and verify names it. */
static void test_structure(const cyx_hot_writer *table, uint64_t routes)
{
    int fd = open(hot, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0 && table);
    off_t changing = (off_t)offsetof(cyx_hot_header, state), end = (off_t)(sizeof(cyx_hot_header) + routes * sizeof(cyx_hot_route));
    for (off_t at = 0; at < end; at++) {
        if (at >= changing + 40 && at < (off_t)(sizeof(cyx_hot_header) + sizeof(cyx_hot_route)))
            continue; /* the rest of the page, and route 0, which is none */
        uint8_t mask = (uint8_t)(1u << draw(8));
        flip(fd, at, mask);
        fresh_eyes(true);
        flip(fd, at, mask);
    }
    fresh_eyes(false);
    (void)close(fd);
}

/* Heads and slots are under no checksum: verify compares. */
static void test_lines_found(const cyx_env *env)
{
    cyx_hot table;
    cyx_reader *reader;
    CHECK(cyx_open(state, &reader) == CYX_OK);
    CHECK(cyx_hot_open(&table, run, env) == CYX_OK);
    int fd = open(hot, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    for (unsigned n = 0; n < 300; n++) {
        uint64_t line = draw(table.lines.count), word = draw(1 + CYX_LINE_SLOTS), findings = 0;
        off_t at = (off_t)(table.header->lines_at + line * CYX_LINE_BYTES + 8 * word + draw(8));
        uint64_t before = word ? table.lines.at[line].slots[word - 1] : 1;
        if (!before)
            continue; /* a free slot may become one that can not be used: harmless */
        uint8_t mask = (uint8_t)(1u << draw(8));
        flip(fd, at, mask);
        CHECK(cyx_hot_verify(reader, tell, NULL, &findings) == CYX_OK && findings > 0);
        flip(fd, at, mask);
    }
    (void)close(fd);
    cyx_hot_close(&table);
    cyx_close(&reader);
}

static void copy(const char *from, const char *to, off_t size)
{
    static uint8_t buffer[1 << 20];
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    CHECK(in >= 0 && out >= 0 && size <= (off_t)sizeof buffer);
    CHECK(pread(in, buffer, (size_t)size, 0) == size && write(out, buffer, (size_t)size) == size);
    (void)close(in);
    (void)close(out);
}

static void test_cut_off(void)
{
    char kept[96], cut[96];
    struct stat st;
    (void)snprintf(kept, sizeof kept, "%s.kept", hot);
    (void)snprintf(cut, sizeof cut, "%s.cut", hot);
    CHECK(stat(hot, &st) == 0);
    for (unsigned n = 0; n < 60; n++) {
        off_t size = n < 6 ? (const off_t[]){0, 1, 2047, 4095, 4096, st.st_size - 1}[n] : (off_t)draw((uint64_t)st.st_size);
        copy(hot, cut, size);
        CHECK(rename(hot, kept) == 0 && rename(cut, hot) == 0);
        fresh_eyes(true);
        CHECK(rename(kept, hot) == 0);
    }
    fresh_eyes(false);
}

typedef enum kind { DIRECTORY, FIFO, SYMLINK, SOCKET, DEVICE, UNREADABLE, EMPTY, RUBBISH, FOREIGN, KINDS } kind;

static bool place(kind what, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;
    (void)unlink(path);
    switch (what) {
    case DIRECTORY:
        return mkdir(path, 0755) == 0;
    case FIFO:
        return mkfifo(path, 0666) == 0;
    case SYMLINK:
        return symlink(victim, path) == 0;
    case SOCKET:
        (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
        return close(fd) == 0;
    case DEVICE:
        return mknod(path, S_IFCHR | 0666, makedev(1, 3)) == 0; /* only root may */
    default:
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        CHECK(fd >= 0);
        for (unsigned n = 0; n < 1250 && what != EMPTY; n++)
            CHECK(write(fd, "rubbish!", 8) == 8);
        (void)close(fd);
        if (what == FOREIGN)
            return geteuid() == 0 && chown(path, 12345, 12345) == 0;
        return what != UNREADABLE || chmod(path, 0) == 0;
    }
}

static void check_victim(void)
{
    char text[16] = "";
    int fd = open(victim, O_RDONLY | O_CLOEXEC);
    CHECK(read(fd, text, sizeof text) == 8 && memcmp(text, "precious", 8) == 0);
    (void)close(fd);
}

/* In the place of the table, and of the one that is being built. */
static void test_in_place_of_the_table(void)
{
    char next[96];
    cyx_writer *writer;
    cyx_reader *reader;
    (void)snprintf(next, sizeof next, "%s.new", hot);
    for (kind what = 0; what < KINDS; what++) {
        if (!place(what, hot)) {
            (void)unlink(hot);
            continue;
        }
        CHECK(cyx_open(state, &reader) == CYX_OK);
        answers(reader, 97);
        CHECK(cyx_writer_open(state, run, "", MAP, &writer) == CYX_OK);
        cyx_writer_beat(writer, true);
        answers(reader, 97);
        CHECK(cyx_reader_hot_generation(reader) == 0);
        int rc = cyx_writer_build_hot(writer);
        if (what == DIRECTORY) {
            CHECK(rc != CYX_OK && strstr(cyx_detail(), hot)); /* it says what is in the way */
            CHECK(rmdir(hot) == 0 && cyx_writer_build_hot(writer) == CYX_OK);
        } else {
            CHECK(rc == CYX_OK);
        }
        CHECK(cyx_refresh(reader) == CYX_OK && cyx_reader_hot_generation(reader) > 0);
        answers(reader, 97);
        /* beside it: the next one */
        CHECK(place(what, next));
        rc = cyx_writer_build_hot(writer);
        CHECK(what == DIRECTORY ? rc != CYX_OK && strstr(cyx_detail(), next) : rc == CYX_OK);
        (void)rmdir(next);
        answers(reader, 97);
        check_victim();
        cyx_close(&reader);
        cyx_writer_close(&writer);
    }
}

static void test_in_place_of_the_heartbeat(void)
{
    cyx_writer *writer = NULL;
    cyx_reader *reader;
    for (kind what = 0; what < KINDS; what++) {
        if (!place(what, beat)) {
            (void)unlink(beat);
            continue;
        }
        CHECK(cyx_open(state, &reader) == CYX_OK);
        CHECK(cyx_fresh(reader, 60000) == CYX_STALE); /* and at once: nobody waits for a FIFO's writer */
        int rc = cyx_writer_open(state, run, "", MAP, &writer);
        if (what == DIRECTORY) {
            CHECK(rc != CYX_OK && strstr(cyx_detail(), "remove it"));
            CHECK(rmdir(beat) == 0 && cyx_writer_open(state, run, "", MAP, &writer) == CYX_OK);
        } else {
            CHECK(rc == CYX_OK);
        }
        cyx_writer_beat(writer, true);
        (void)usleep(60000); /* how often a reader looks for another file */
        CHECK(cyx_fresh(reader, 60000) == CYX_OK);
        check_victim();
        cyx_close(&reader);
        cyx_writer_close(&writer);
    }
}

/* Another user's word that all is up to date is not taken, be it the node's own to the last byte. */
static void test_foreign_heartbeat(void)
{
    cyx_writer *writer;
    cyx_reader *reader;
    if (geteuid() != 0)
        return;
    CHECK(cyx_writer_open(state, run, "", MAP, &writer) == CYX_OK);
    cyx_writer_beat(writer, true);
    CHECK(chown(beat, 12345, 12345) == 0 && cyx_open(state, &reader) == CYX_OK);
    CHECK(cyx_fresh(reader, 60000) == CYX_STALE);
    cyx_close(&reader);
    CHECK(chown(beat, 0, 0) == 0 && cyx_open(state, &reader) == CYX_OK);
    CHECK(cyx_fresh(reader, 60000) == CYX_OK);
    cyx_close(&reader);
    cyx_writer_close(&writer);
}

/* Files that readers may have mapped: kept open here, each as long as it ever was. */
typedef struct kept {
    int fd;
    struct stat before;
} kept;

static kept keep(const char *path)
{
    kept k = {.fd = open(path, O_RDONLY | O_CLOEXEC)};
    CHECK(k.fd >= 0 && fstat(k.fd, &k.before) == 0);
    return k;
}

static void still(const kept *k)
{
    struct stat now;
    CHECK(fstat(k->fd, &now) == 0 && now.st_ino == k->before.st_ino && now.st_size >= k->before.st_size);
}

/* Nothing gets shorter while somebody may have it mapped: a shorter file is a bus error for whoever reads behind its
   end.  Tables are replaced as a whole; the heartbeat and the store keep their file over restarts. */
static void test_never_shorter(void)
{
    enum { TURNS = 12 };
    char data[96];
    kept tables[TURNS], beats[TURNS], stores[TURNS];
    const uint8_t *first = NULL;
    uint64_t sum = 0;
    (void)snprintf(data, sizeof data, "%s/store/data.mdb", state);
    for (unsigned turn = 0; turn < TURNS; turn++) {
        cyx_writer *writer;
        CHECK(cyx_writer_open(state, run, "", MAP, &writer) == CYX_OK);
        CHECK(cyx_writer_build_hot(writer) == CYX_OK);
        cyx_writer_beat(writer, true);
        tables[turn] = keep(hot);
        beats[turn] = keep(beat);
        stores[turn] = keep(data);
        if (!first)
            CHECK((first = mmap(NULL, (size_t)tables[0].before.st_size, PROT_READ, MAP_SHARED, tables[0].fd, 0)) != MAP_FAILED);
        fill(writer);
        CHECK(cyx_writer_build_hot(writer) == CYX_OK);
        cyx_writer_close(&writer);
        for (unsigned i = 0; i <= turn; i++) {
            still(&tables[i]);
            still(&beats[i]);
            still(&stores[i]);
            CHECK(beats[i].before.st_ino == beats[0].before.st_ino && beats[i].before.st_size == 128);
            CHECK(stores[i].before.st_ino == stores[0].before.st_ino);
        }
        for (off_t at = 0; at < tables[0].before.st_size; at += 4096)
            sum += first[at]; /* long superseded, still all there */
    }
    CHECK(sum > 0 && munmap((void *)(uintptr_t)first, (size_t)tables[0].before.st_size) == 0);
    for (unsigned i = 0; i < TURNS; i++) {
        (void)close(tables[i].fd);
        (void)close(beats[i].fd);
        (void)close(stores[i].fd);
    }
}

int main(void)
{
    cyx_writer *writer;
    CHECK(mkdtemp(root));
    (void)snprintf(state, sizeof state, "%s/state", root);
    (void)snprintf(run, sizeof run, "%s/run", root);
    (void)snprintf(hot, sizeof hot, "%s/hot", run);
    (void)snprintf(beat, sizeof beat, "%s/heartbeat", run);
    (void)snprintf(victim, sizeof victim, "%s/victim", root);
    int fd = open(victim, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    CHECK(write(fd, "precious", 8) == 8);
    (void)close(fd);
    CHECK(cyx_writer_open(state, run, "", MAP, &writer) == CYX_OK);
    fill(writer);
    CHECK(cyx_writer_build_hot(writer) == CYX_OK);
    cyx_writer_beat(writer, true);
    cyx_hot table;
    CHECK(cyx_hot_open(&table, run, writer->env) == CYX_OK);
    uint64_t routes = table.header->route_count;
    cyx_hot_close(&table);
    test_structure(writer->hot, routes);
    test_lines_found(writer->env);
    test_cut_off();
    cyx_writer_close(&writer);
    test_in_place_of_the_table();
    test_in_place_of_the_heartbeat();
    test_foreign_heartbeat();
    test_never_shorter();
    char command[64];
    (void)snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0);
    (void)printf("%lu checks\n", checks);
    return 0;
}
