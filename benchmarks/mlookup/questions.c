/* questions.c - names to ask for, and the clocks. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mlookup.h"

#define CLOCK_NS 50e6 /* over which the two clocks are compared */
#define CLOCK_TIMES 100001u

#define UNTOLD 10000u /* at most one of so many */
uint64_t untold_max(uint64_t count) { return getenv("MLOOKUP_TABLE") ? 2 + count / UNTOLD : 0; }

double now_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

uint64_t random_below(uint64_t below)
{
    static uint64_t state = 0x9E3779B97F4A7C15u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint64_t)((unsigned __int128)(state * 2685821657736338717u) * below >> 64);
}

questions ask(uint64_t records, size_t count, int absent)
{
    questions q = {calloc(count, NAME_MAX_LEN), calloc(count + 1, sizeof *q.from), calloc(count, sizeof *q.which),
                   calloc(count, sizeof *q.server), count};
    if (!q.texts || !q.from || !q.which || !q.server || count > UINT32_MAX / NAME_MAX_LEN || records > UINT32_MAX)
        die("out of memory");
    for (size_t n = 0; n < count; n++)
        question_set(&q, n, random_below(records), absent);
    return q;
}

void question_set(questions *q, size_t n, uint64_t i, int absent)
{
    q->which[n] = (uint32_t)i;
    q->server[n] = key_server(i);
    q->from[n + 1] = q->from[n] + (uint32_t)key_name(i, absent, q->texts + q->from[n]);
}

void stay_on(int cpu)
{
    cpu_set_t set;
    long last = sysconf(_SC_NPROCESSORS_ONLN) - 1;
    CPU_ZERO(&set);
    CPU_SET((size_t)(cpu < last ? cpu : last), &set);
    (void)sched_setaffinity(0, sizeof set, &set); /* a machine that does not let us measures a little worse */
}

static int by_size(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

alone of_ticks(uint64_t *took, size_t count)
{
    static uint64_t empty[CLOCK_TIMES];
    double began = now_ns(), now;
    uint64_t first = ticks();
    for (size_t n = 0; n < CLOCK_TIMES; n++) {
        uint64_t start = ticks();
        empty[n] = ticks() - start;
    }
    while ((now = now_ns()) - began < CLOCK_NS)
        ;
    double ns_per_tick = (now - began) / (double)(ticks() - first);
    qsort(took, count, sizeof *took, by_size);
    qsort(empty, CLOCK_TIMES, sizeof *empty, by_size);
    double clock = (double)empty[CLOCK_TIMES / 2];
    return (alone){((double)took[count / 2] - clock) * ns_per_tick,
                   ((double)took[count / 100 * 99] - clock) * ns_per_tick};
}
