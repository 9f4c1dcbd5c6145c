/* hot_writer.c - the hot table as the node writes it: one generation, from its making to its end. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hot.h"

#define LOAD 71u           /* per cent, when it is built: room to grow before the next one */
#define CROWDED 80u        /* per cent, when the next one should be built */
#define LEAST 4096u        /* mailboxes for which there is room however few there are */
#ifndef MADV_COLLAPSE /* since Linux 6.1; an older one refuses it */
#define MADV_COLLAPSE 25
#endif

struct cyx_hot_writer {
    cyx_hot_header *header; /* mapped */
    cyx_hot_route *routes;
    cyx_lines_writer lines;
    uint32_t *by_route; /* hash of a route -> its number; 0 is free */
    uint32_t route_slots;
    char path[PATH_MAX], new_path[PATH_MAX];
    bool published;
};

static void route_count(cyx_hot_writer *hot, uint64_t count)
{
    __atomic_store_n(&hot->header->route_count, count, __ATOMIC_RELEASE);
}

/* Large pages wherever the kernel has them to give, whatever a tmpfs gives by itself: a look-up then does not wait for the
 * processor to find the page, too.  A large page is made of a piece of the file that has one block. */
static void want_large_pages(int fd, uint8_t *map, uint64_t size)
{
    for (uint64_t at = 0; at + CYX_LARGE_PAGE <= size; at += CYX_LARGE_PAGE)
        if (posix_fallocate(fd, (off_t)at, 1) || madvise(map + at, CYX_LARGE_PAGE, MADV_COLLAPSE))
            return; /* small ones do, too */
}

/* Blocks are given now: a hole filled later by a store to memory ends in a bus error when the file system is full. */
static int map_new(cyx_hot_writer *hot, uint64_t size)
{
    (void)unlink(hot->new_path);
    int fd = open(hot->new_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return cyx_fail_mdb(errno, hot->new_path);
    (void)fchmod(fd, 0644);
    int rc = ftruncate(fd, (off_t)size) ? errno : 0;
    void *map = rc ? MAP_FAILED : cyx_hot_map(fd, size, PROT_READ | PROT_WRITE);
    if (!rc && map == MAP_FAILED)
        rc = errno;
    if (!rc) {
        want_large_pages(fd, map, size);
        if ((rc = posix_fallocate(fd, 0, (off_t)size)) != 0)
            (void)munmap(map, size);
    }
    (void)close(fd);
    if (rc)
        return cyx_fail_mdb(rc, hot->new_path);
    hot->header = map;
    return CYX_OK;
}

static int draw_secret(cyx_secret *secret)
{
    uint8_t *at = (uint8_t *)secret->words;
    for (size_t left = sizeof secret->words; left;) {
        ssize_t got = getrandom(at, left, 0);
        if (got < 0 && errno != EINTR)
            return cyx_fail_mdb(errno, "drawing a secret");
        if (got > 0)
            at += got, left -= (size_t)got;
    }
    return CYX_OK;
}

static uint64_t generation_of(const char *path)
{
    cyx_hot_header header;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool good = fd >= 0 && pread(fd, &header, sizeof header, 0) == (ssize_t)sizeof header &&
                memcmp(header.magic, CYX_HOT_MAGIC, sizeof header.magic) == 0;
    if (fd >= 0)
        (void)close(fd);
    return good ? header.generation : 0;
}

int cyx_hot_create(const char *run_dir, const cyx_env *env, uint64_t expected, uint64_t routes, cyx_hot_writer **hot_r)
{
    *hot_r = NULL;
    cyx_hot_writer *hot = calloc(1, sizeof *hot);
    if (!hot)
        return cyx_fail(CYX_ENOMEM, "out of memory");
    int rc = CYX_OK;
    if (routes > CYX_ROUTE_MAX)
        routes = CYX_ROUTE_MAX;
    int n = snprintf(hot->new_path, sizeof hot->new_path, "%s/hot.new", run_dir);
    if (n < 0 || (size_t)n >= sizeof hot->new_path)
        rc = cyx_fail(CYX_EINVAL, "the path of the run directory is too long");
    (void)snprintf(hot->path, sizeof hot->path, "%.*s/hot", (int)(sizeof hot->path - 5), run_dir);
    uint64_t line_count = cyx_lines_for(expected > LEAST ? expected : LEAST, LOAD);
    uint64_t lines_at = sizeof(cyx_hot_header) + routes * sizeof(cyx_hot_route);
    if (line_count * CYX_LINE_BYTES >= CYX_LARGE_PAGE)
        lines_at = (lines_at + CYX_LARGE_PAGE - 1) / CYX_LARGE_PAGE * CYX_LARGE_PAGE;
    uint64_t size = lines_at + line_count * CYX_LINE_BYTES;
    hot->route_slots = (uint32_t)(2 * routes);
    hot->by_route = rc ? NULL : calloc(hot->route_slots, sizeof *hot->by_route);
    if (rc == CYX_OK && !hot->by_route)
        rc = cyx_fail(CYX_ENOMEM, "out of memory");
    if (rc == CYX_OK)
        rc = map_new(hot, size);
    if (rc == CYX_OK)
        rc = draw_secret(&hot->header->secret);
    if (rc) {
        cyx_hot_free(&hot);
        return rc;
    }
    cyx_hot_header *header = hot->header;
    memcpy(header->magic, CYX_HOT_MAGIC, sizeof header->magic);
    header->version = CYX_HOT_VERSION;
    cyx_boot_id(header->boot_id);
    header->dev = (uint64_t)env->dev;
    header->ino = (uint64_t)env->ino;
    header->generation = generation_of(hot->path) + 1;
    header->size = size;
    header->routes_at = sizeof *header;
    header->route_capacity = routes;
    header->lines_at = lines_at;
    header->line_count = line_count;
    header->built_at_ns = cyx_boot_ns();
    header->checksum = cyx_hot_header_checksum(header);
    hot->routes = (cyx_hot_route *)((uint8_t *)header + header->routes_at);
    hot->lines.lines = (cyx_lines){(cyx_line *)((uint8_t *)header + lines_at), line_count};
    route_count(hot, 1); /* number 0 means none */
    *hot_r = hot;
    return CYX_OK;
}

static bool same_route(const cyx_hot_route *a, const cyx_hot_route *b)
{
    return memcmp(a, b, offsetof(cyx_hot_route, checksum)) == 0;
}

/* The number of a route, given anew where it has none; CYX_ROUTE_NONE when there is no room for another. */
static uint32_t number_of(cyx_hot_writer *hot, const cyx_hot_route *route)
{
    uint32_t at = cyx_crc32c(0, route, offsetof(cyx_hot_route, checksum)) % hot->route_slots;
    for (; hot->by_route[at]; at = (at + 1) % hot->route_slots)
        if (same_route(&hot->routes[hot->by_route[at]], route))
            return hot->by_route[at];
    uint64_t id = hot->header->route_count;
    if (id >= hot->header->route_capacity)
        return CYX_ROUTE_NONE;
    hot->routes[id] = *route;
    hot->routes[id].checksum = cyx_hot_route_checksum((uint32_t)id, route);
    route_count(hot, id + 1);
    hot->by_route[at] = (uint32_t)id;
    return (uint32_t)id;
}

uint64_t cyx_hot_meet(const cyx_hot_writer *hot, const uint8_t *name, size_t len)
{
    uint64_t hash = cyx_name_hash(&hot->header->secret, name, len);
    cyx_lines_prefetch(&hot->lines.lines, hash);
    return hash;
}

bool cyx_hot_apply(cyx_hot_writer *hot, uint64_t met, bool was_there, bool is_there, const cyx_hot_route *route)
{
    if (!was_there && !is_there)
        return true;
    if (!is_there) {
        cyx_lines_delete(&hot->lines, met);
        return true;
    }
    uint32_t id = number_of(hot, route);
    if (id == CYX_ROUTE_NONE)
        return false;
    if (was_there) {
        cyx_lines_update(&hot->lines, met, id);
        return true;
    }
    return cyx_lines_insert(&hot->lines, met, id);
}

void cyx_hot_applied(cyx_hot_writer *hot, uint64_t seq)
{
    cyx_hot_header *header = hot->header;
    __atomic_store_n(&header->placed, hot->lines.placed, __ATOMIC_RELAXED);
    __atomic_store_n(&header->alike, hot->lines.alike, __ATOMIC_RELAXED);
    __atomic_store_n(&header->homeless, hot->lines.homeless_count, __ATOMIC_RELAXED);
    __atomic_store_n(&header->applied_seq, seq, __ATOMIC_RELEASE);
}

int cyx_hot_publish(cyx_hot_writer *hot)
{
    __atomic_store_n(&hot->header->state, CYX_HOT_SERVING, __ATOMIC_RELEASE);
    if (rename(hot->new_path, hot->path) < 0)
        return cyx_fail_mdb(errno, hot->path);
    hot->published = true;
    return CYX_OK;
}

void cyx_hot_supersede(cyx_hot_writer *hot)
{
    __atomic_store_n(&hot->header->state, CYX_HOT_SUPERSEDED, __ATOMIC_RELEASE);
}

int cyx_hot_retire(const char *run_dir)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/hot", run_dir);
    if (n < 0 || (size_t)n >= sizeof path)
        return cyx_fail(CYX_EINVAL, "the path of the run directory is too long");
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? CYX_OK : cyx_fail_mdb(errno, path);
    if (S_ISDIR(st.st_mode))
        return CYX_OK; /* not ours to remove; the next table can not take its place, and says so */
    uint64_t state = CYX_HOT_SUPERSEDED;
    int fd = S_ISREG(st.st_mode) ? open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
    bool told = fd >= 0 && fstat(fd, &st) == 0 && st.st_size >= (off_t)sizeof(cyx_hot_header) &&
                pwrite(fd, &state, sizeof state, offsetof(cyx_hot_header, state)) == (ssize_t)sizeof state;
    if (fd >= 0)
        (void)close(fd);
    /* what is no table, or can not be told, must not stay where readers look for one */
    return told || unlink(path) == 0 ? CYX_OK : cyx_fail_mdb(errno, path);
}

bool cyx_hot_crowded(const cyx_hot_writer *hot)
{
    uint64_t slots = hot->lines.lines.count * CYX_LINE_SLOTS;
    return hot->lines.placed > slots / 100 * CROWDED || hot->lines.homeless_count > CYX_HOMELESS_MAX / 2 ||
           hot->lines.alike > CYX_HOMELESS_MAX ||
           hot->header->route_count > hot->header->route_capacity / 8 * 7;
}

void cyx_hot_free(cyx_hot_writer **hot_ref)
{
    cyx_hot_writer *hot = *hot_ref;
    if (!hot)
        return;
    if (hot->header) {
        if (!hot->published)
            (void)unlink(hot->new_path);
        (void)munmap(hot->header, hot->header->size ? hot->header->size : sizeof *hot->header);
    }
    free(hot->by_route);
    free(hot);
    *hot_ref = NULL;
}
