/* hot.c - the hot table as its readers open it: nothing in the file is believed before it was checked. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hot.h"

uint32_t cyx_hot_header_checksum(const cyx_hot_header *header)
{
    static const uint8_t nothing[sizeof header->checksum];
    const uint8_t *bytes = (const uint8_t *)header;
    size_t at = offsetof(cyx_hot_header, checksum), behind = at + sizeof header->checksum;
    uint32_t crc = cyx_crc32c(cyx_crc32c(0, bytes, at), nothing, sizeof nothing);
    return cyx_crc32c(crc, bytes + behind, offsetof(cyx_hot_header, state) - behind);
}

uint32_t cyx_hot_route_checksum(uint32_t id, const cyx_hot_route *route)
{
    return cyx_crc32c(cyx_crc32c(0, &id, sizeof id), route, offsetof(cyx_hot_route, checksum));
}

/* Every offset and count, before one of them is used. */
static int check(const cyx_hot_header *header, uint64_t size, const char *path)
{
    if (memcmp(header->magic, CYX_HOT_MAGIC, sizeof header->magic) != 0)
        return cyx_fail(CYX_ECORRUPT, "%s is no hot table", path);
    if (header->version != CYX_HOT_VERSION)
        return cyx_fail(CYX_EVERSION, "%s has format %u, this version opens %u", path, header->version,
                        CYX_HOT_VERSION);
    if (header->checksum != cyx_hot_header_checksum(header))
        return cyx_fail(CYX_ECORRUPT, "the header of %s fails its checksum", path);
    if (header->size != size || header->routes_at != sizeof *header ||
        header->route_capacity > CYX_ROUTE_MAX ||
        header->lines_at < header->routes_at + header->route_capacity * sizeof(cyx_hot_route) ||
        header->lines_at % 4096 || header->lines_at > size || header->line_count == 0 ||
        header->line_count % CYX_PAGE_LINES || header->line_count != (size - header->lines_at) / CYX_LINE_BYTES)
        return cyx_fail(CYX_ECORRUPT, "the header of %s makes no sense", path);
    uint64_t state = __atomic_load_n(&header->state, __ATOMIC_ACQUIRE);
    if (state != CYX_HOT_SERVING && state != CYX_HOT_SUPERSEDED)
        return cyx_fail(CYX_ECORRUPT, "%s has a state that it can not have", path);
    return CYX_OK;
}

/* A mapping that does not begin at a multiple of a large page has small ones, whatever the file's memory is made of. */
void *cyx_hot_map(int fd, size_t size, int protection)
{
    if (size < CYX_LARGE_PAGE || size > SIZE_MAX - CYX_LARGE_PAGE)
        return mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    size_t page = (size_t)sysconf(_SC_PAGESIZE), mapped = (size + page - 1) / page * page;
    size_t room = mapped + CYX_LARGE_PAGE;
    uint8_t *around = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (around == MAP_FAILED)
        return mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    size_t before = (CYX_LARGE_PAGE - (uintptr_t)around % CYX_LARGE_PAGE) % CYX_LARGE_PAGE;
    void *map = mmap(around + before, size, protection, MAP_SHARED | MAP_FIXED, fd, 0);
    if (map == MAP_FAILED) {
        int code = errno;
        (void)munmap(around, room);
        errno = code;
        return MAP_FAILED;
    }
    if (before)
        (void)munmap(around, before);
    (void)munmap(around + before + mapped, room - before - mapped);
    return map;
}

int cyx_hot_open(cyx_hot *hot, const char *run_dir, const cyx_env *env)
{
    char path[PATH_MAX];
    struct stat st;
    memset(hot, 0, sizeof *hot);
    int n = snprintf(path, sizeof path, "%s/hot", run_dir);
    if (n < 0 || (size_t)n >= sizeof path)
        return cyx_fail(CYX_EINVAL, "the path of the run directory is too long");
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? CYX_ABSENT : cyx_fail_mdb(errno, path);
    int rc = CYX_OK;
    void *map = MAP_FAILED;
    size_t size = 0;
    if (fstat(fd, &st) < 0)
        rc = cyx_fail_mdb(errno, path);
    else if (!S_ISREG(st.st_mode) || (st.st_uid != 0 && st.st_uid != env->uid))
        rc = cyx_fail(CYX_ECORRUPT, "%s is not a file of the node's", path);
    else if ((size = (size_t)st.st_size) < sizeof(cyx_hot_header))
        rc = cyx_fail(CYX_ECORRUPT, "%s is cut off", path);
    else if ((map = cyx_hot_map(fd, size, PROT_READ)) == MAP_FAILED)
        rc = cyx_fail_mdb(errno, path);
    (void)close(fd);
    if (rc)
        return rc;
    const cyx_hot_header *header = map;
    rc = check(header, size, path);
    if (rc == CYX_OK && (header->dev != (uint64_t)env->dev || header->ino != (uint64_t)env->ino ||
                         !cyx_same_boot(header->boot_id)))
        rc = CYX_ABSENT;
    if (rc == CYX_OK) {
        hot->header = header;
        hot->routes = (const cyx_hot_route *)((const uint8_t *)map + header->routes_at);
        hot->lines.at = (cyx_line *)((uint8_t *)map + header->lines_at);
        hot->lines.count = header->line_count;
        if (cyx_hot_serves(hot))
            return CYX_OK;
        rc = CYX_ABSENT;
    }
    (void)munmap(map, size);
    memset(hot, 0, sizeof *hot);
    return rc;
}

void cyx_hot_close(cyx_hot *hot)
{
    if (hot->header)
        (void)munmap((void *)(uintptr_t)hot->header, hot->header->size);
    memset(hot, 0, sizeof *hot);
}

int cyx_hot_route_at(const cyx_hot *hot, uint32_t id, cyx_hot_route *route_r)
{
    if (id == CYX_ROUTE_NONE || id >= hot->header->route_capacity)
        return cyx_fail(CYX_ECORRUPT, "the hot table names the route %u, which it can not have", id);
    *route_r = hot->routes[id];
    if (route_r->checksum != cyx_hot_route_checksum(id, route_r) ||
        (route_r->state != CYX_RESERVED && route_r->state != CYX_ACTIVE))
        return cyx_fail(CYX_ECORRUPT, "route %u of the hot table fails its checksum", id);
    return CYX_OK;
}
