/* count.c - which lines of the table a look-up touches: counted in the file, without the library's own look-up.
 *
 * The home line; then, where nothing in it has the fingerprint, each line that a byte of the home's head stands for, up
 * to the one that has it.  A hit of a name that is not there, or none of one that is, ends the program.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hot.h"
#include "node.h"

static const unsigned steps[8] = {0, 1, 2, 4, 8, 16, 32, 63};

static int has(const cyx_line *line, uint64_t fingerprint)
{
    for (unsigned i = 0; i < CYX_LINE_SLOTS; i++)
        if (line->slots[i] && line->slots[i] >> CYX_ROUTE_BITS == fingerprint)
            return 1;
    return 0;
}

/* How many; *found_r tells whether the last of them has it. */
static unsigned touched(const cyx_hot_header *header, const cyx_line *all, const char *name, size_t len, int *found_r)
{
    uint64_t hash = cyx_name_hash(&header->secret, name, len);
    uint64_t home = (uint64_t)((unsigned __int128)hash * header->line_count >> 64);
    uint64_t fingerprint = hash & (((uint64_t)1 << 40) - 1), page = home / CYX_PAGE_LINES * CYX_PAGE_LINES;
    uint64_t head = all[home].head;
    unsigned count = 1;
    if (!fingerprint)
        fingerprint = 1;
    *found_r = has(&all[home], fingerprint);
    for (unsigned i = 1; i < 8 && !*found_r; i++)
        if (head >> (8 * i) & 255) {
            *found_r = has(&all[page + (home % CYX_PAGE_LINES ^ steps[i])], fingerprint);
            count++;
        }
    return count;
}

#define ASKED_MAX 10000u /* at most one of so many */

static double average(const cyx_hot_header *header, const cyx_line *all, uint64_t records, size_t lookups, int absent,
                      double *asked_r)
{
    questions q = ask(records, lookups, absent);
    uint64_t sum = 0, wrong = 0;
    for (size_t n = 0; n < q.count; n++) {
        int found;
        sum += touched(header, all, question_name(&q, n), question_len(&q, n), &found);
        wrong += found == absent;
    }
    *asked_r = (double)wrong / (double)lookups * 1e6;
    if (wrong > (absent ? 0 : 2 + q.count / ASKED_MAX)) /* for these the store is asked */
        die("counting lines: %llu of %zu names %s", (unsigned long long)wrong, q.count,
            absent ? "are there" : "are not");
    free(q.texts);
    free(q.which);
    free(q.from);
    return (double)sum / (double)lookups;
}

lines count_lines(const char *dir, uint64_t records, size_t lookups)
{
    char path[512];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/run/hot", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        die("%s can not be opened", path);
    const cyx_hot_header *header = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    (void)close(fd);
    if (header == MAP_FAILED || header->version != CYX_HOT_VERSION)
        die("%s can not be read", path);
    const cyx_line *all = (const cyx_line *)((const uint8_t *)header + header->lines_at);
    lines counted = {.bytes_per_key = (double)st.st_size / (double)records};
    counted.absent = average(header, all, records, lookups, 1, &counted.asked);
    counted.hit = average(header, all, records, lookups, 0, &counted.asked);
    (void)munmap((void *)(uintptr_t)header, (size_t)st.st_size);
    return counted;
}
