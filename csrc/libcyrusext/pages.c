/* pages.c - the pages of an LMDB file, bounds first. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pages.h"

#define MAGIC 0xBEEFC0DEu
#define USUAL_SIZE 4096u

static bool usable(size_t size) { return size >= 512 && size <= 32768 && (size & (size - 1)) == 0; }

static size_t told_by(const uint8_t *at, size_t size, size_t offset)
{
    cyx_meta_page meta;
    if (size < CYX_PAGE_HEAD + sizeof meta || offset > size - CYX_PAGE_HEAD - sizeof meta)
        return 0;
    memcpy(&meta, at + offset + CYX_PAGE_HEAD, sizeof meta);
    return meta.magic == MAGIC && usable(meta.spare.pad) ? meta.spare.pad : 0;
}

size_t cyx_image_page_size(const uint8_t *at, size_t size)
{
    size_t told = told_by(at, size, 0);
    if (told && told_by(at, size, told) == told)
        return told;
    for (size_t second = 512; second <= 32768; second *= 2)
        if (told_by(at, size, second) == second)
            return second;
    return told ? told : USUAL_SIZE;
}

cyx_image cyx_image_of(const uint8_t *at, size_t size)
{
    cyx_image image = {.at = at, .size = size, .page_size = cyx_image_page_size(at, size)};
    image.pages = size / image.page_size;
    return image;
}

/* Have the pages in use read ahead; behind them there is little but holes, which would fill the page cache. */
static void read_ahead(const cyx_image *image)
{
    uint64_t last = 0;
    for (uint64_t at = 0; at < 2 && at < image->pages; at++) {
        cyx_meta_page meta;
        memcpy(&meta, cyx_page(image, at) + CYX_PAGE_HEAD, sizeof meta);
        if (meta.last_page < image->pages && meta.last_page > last)
            last = meta.last_page;
    }
    if (image->at)
        (void)madvise((void *)(uintptr_t)image->at, (last + 1) * image->page_size, MADV_WILLNEED);
}

int cyx_image_open(cyx_image *image, const char *path)
{
    struct stat st;
    void *map = NULL;
    memset(image, 0, sizeof *image);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return cyx_fail_mdb(errno, path);
    int rc = fstat(fd, &st) < 0 ? cyx_fail_mdb(errno, path) : CYX_OK;
    if (rc == CYX_OK && !S_ISREG(st.st_mode)) {
        errno = 0;
        rc = cyx_fail(CYX_EUNAVAIL, "%s is not a file", path);
    }
    if (rc == CYX_OK && st.st_size > 0) {
        map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED)
            rc = cyx_fail_mdb(errno, path);
    }
    (void)close(fd);
    if (rc == CYX_OK)
        *image = cyx_image_of(map, (size_t)st.st_size);
    read_ahead(image);
    return rc;
}

void cyx_image_close(cyx_image *image)
{
    if (image->at)
        (void)munmap((void *)(uintptr_t)image->at, image->size);
    memset(image, 0, sizeof *image);
}

const char *cyx_page_problem(const cyx_image *image, const uint8_t *page, bool branch, uint32_t *marks, uint32_t turn)
{
    cyx_node node;
    size_t lower = cyx_get16(page + 12), upper = cyx_get16(page + 14), size = image->page_size;
    if (lower < CYX_PAGE_HEAD || (lower & 1) || lower > upper || upper > size || (upper & 1))
        return "has bounds that make no sense";
    size_t count = (lower - CYX_PAGE_HEAD) / 2;
    if (count == 0)
        return "is empty";
    for (size_t i = 0; i < count; i++) {
        size_t offset = cyx_get16(page + CYX_PAGE_HEAD + 2 * i);
        if (!cyx_page_node(image, page, offset, upper, branch, &node))
            return "has a node that reaches out of it";
        if (marks[offset / 2] == turn)
            return "has the same node twice";
        marks[offset / 2] = turn;
    }
    for (size_t at = upper; at < size; at += cyx_node_room(&node, branch))
        if (marks[at / 2] != turn || !cyx_page_node(image, page, at, upper, branch, &node) || count-- == 0)
            return "has nodes that do not lie one behind the other";
    return count ? "has nodes that do not lie one behind the other" : NULL;
}
