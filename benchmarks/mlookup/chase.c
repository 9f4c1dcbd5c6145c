/* chase.c - the physical limit: one line of 64 bytes at random, out of as many as the hot table has for COUNT mailboxes.
 *
 *   mlookup-chase COUNT ACCESSES
 *
 * Prints one JSON object: nanoseconds an access where each waits for the one before it, and where they do not.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef struct line {
    uint64_t words[8];
} line;

static double now_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static inline uint64_t at(uint64_t n, uint64_t count)
{
    uint64_t mixed = (n ^ n >> 31) * 0x9E3779B97F4A7C15u;
    return (uint64_t)((unsigned __int128)(mixed ^ mixed >> 29) * count >> 64);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    uint64_t count = strtoull(argv[1], NULL, 10) / 7 * 100 / 67 + 1, accesses = strtoull(argv[2], NULL, 10);
    line *lines = mmap(NULL, count * sizeof *lines, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (lines == MAP_FAILED)
        return 1;
    memset(lines, 0, count * sizeof *lines);
    uint64_t sum = 0;
    double began = now_ns();
    for (uint64_t n = 0; n < accesses; n++)
        sum += lines[at(n, count)].words[0];
    double independent = (now_ns() - began) / (double)accesses;
    began = now_ns();
    for (uint64_t n = 0; n < accesses; n++)
        sum += lines[at(n + sum, count)].words[0]; /* always 0, which only memory knows */
    double dependent = (now_ns() - began) / (double)accesses;
    (void)printf("{\"independent_ns\": %.1f, \"dependent_ns\": %.1f, \"bytes\": %llu}\n", independent, dependent,
                 (unsigned long long)(count * sizeof *lines));
    return sum != 0;
}
