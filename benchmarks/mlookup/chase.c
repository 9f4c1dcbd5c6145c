/* chase.c - the physical limit: one line of 64 bytes at random, out of a file as large as the hot table.
 *
 *   mlookup-chase FILE BYTES ACCESSES
 *
 * FILE is made and removed; the file system that it is on decides on the size of the pages.  Prints one JSON object:
 * nanoseconds an access where each waits for the one before it, and where they do not; the median of one alone, taken
 * as main.c takes it; and how much of the file is mapped by large pages.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mlookup.h"

#define LARGE_PAGE ((uint64_t)2 << 20)
#define TIMED_MAX 400000u

typedef struct line {
    uint64_t words[8];
} line;

static inline uint64_t at(uint64_t n, uint64_t count)
{
    uint64_t mixed = (n ^ n >> 31) * 0x9E3779B97F4A7C15u;
    return (uint64_t)((unsigned __int128)(mixed ^ mixed >> 29) * count >> 64);
}

static line *map_lines(const char *path, uint64_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0 || posix_fallocate(fd, 0, (off_t)size))
        die("%s can not be made", path);
    line *lines = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    (void)unlink(path);
    (void)close(fd);
    if (lines == MAP_FAILED)
        die("%s can not be mapped", path);
    memset(lines, 0, size);
    return lines;
}

/* The part of our memory that the processor has in large pages, by what the kernel says of the mapping. */
static double large_part(const void *start, uint64_t size)
{
    char text[512], wanted[32];
    uint64_t kib = 0;
    int inside = 0;
    FILE *maps = fopen("/proc/self/smaps", "r");
    (void)snprintf(wanted, sizeof wanted, "%" PRIxPTR "-", (uintptr_t)start);
    while (maps && fgets(text, sizeof text, maps)) {
        if (strncmp(text, wanted, strlen(wanted)) == 0)
            inside = 1;
        else if (inside && sscanf(text, "ShmemPmdMapped: %" SCNu64, &kib) == 1)
            break;
    }
    if (maps)
        (void)fclose(maps);
    return (double)kib * 1024 / (double)size;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        die("usage: mlookup-chase FILE BYTES ACCESSES");
    uint64_t size = (strtoull(argv[2], NULL, 10) + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    uint64_t accesses = strtoull(argv[3], NULL, 10), count = size / sizeof(line), sum = 0;
    static uint64_t took[TIMED_MAX];
    stay_on(1);
    line *lines = map_lines(argv[1], size);
    double began = now_ns();
    for (uint64_t n = 0; n < accesses; n++)
        sum += lines[at(n, count)].words[0];
    double independent = (now_ns() - began) / (double)accesses;
    began = now_ns();
    for (uint64_t n = accesses; n < 2 * accesses; n++)
        sum += lines[at(n + sum, count)].words[0]; /* always 0, which only memory knows */
    double dependent = (now_ns() - began) / (double)accesses;
    size_t timed = accesses < TIMED_MAX ? (size_t)accesses : TIMED_MAX;
    for (size_t n = 0; n < timed; n++) {
        uint64_t start = ticks();
        sum += *(volatile uint64_t *)&lines[at(2 * accesses + n, count)].words[0];
        took[n] = ticks() - start;
    }
    alone one = of_ticks(took, timed);
    (void)printf("{\"independent_ns\": %.1f, \"dependent_ns\": %.1f, \"p50_ns\": %.1f, \"p99_ns\": %.1f, "
                 "\"bytes\": %" PRIu64 ", \"large\": %.3f}\n",
                 independent, dependent, one.p50, one.p99, size, large_part(lines, size));
    return sum != 0;
}
