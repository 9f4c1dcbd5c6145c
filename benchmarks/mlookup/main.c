/* main.c - build a database of one engine, or measure look-ups in it.
 *
 *   mlookup-ENGINE build DIR COUNT
 *   mlookup-ENGINE measure DIR COUNT LOOKUPS
 *
 * Every answer is checked; a wrong one ends the run without figures.  Prints one JSON object: nanoseconds a look-up in a
 * loop of independent ones (the processor overlaps them), for names that are there and that are not; the median and the
 * 99th percentile of one look-up alone, with the cost of taking the time taken off; in batches; and how many more two
 * processes do than one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mlookup.h"

#define BATCH 256u
#define TIMED_MAX 400000u

typedef struct question {
    uint8_t len;
    char name[NAME_MAX_LEN - 1];
} question;

typedef struct questions {
    question *at;
    uint64_t *which;
    size_t count;
} questions;

static double now_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static uint64_t random_below(uint64_t below)
{
    static uint64_t state = 0x9E3779B97F4A7C15u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint64_t)((unsigned __int128)(state * 2685821657736338717u) * below >> 64);
}

/* The names lie one behind the other, so that fetching them costs next to nothing. */
static questions ask(uint64_t records, size_t count, int absent)
{
    questions q = {calloc(count, sizeof *q.at), calloc(count, sizeof *q.which), count};
    char name[NAME_MAX_LEN];
    if (!q.at || !q.which)
        die("out of memory");
    for (size_t n = 0; n < count; n++) {
        q.which[n] = random_below(records);
        q.at[n].len = (uint8_t)key_name(q.which[n], absent, name);
        memcpy(q.at[n].name, name, q.at[n].len);
    }
    return q;
}

static double loop(const questions *q, int absent)
{
    uint64_t wrong = 0;
    double began = now_ns();
    for (size_t n = 0; n < q->count; n++) {
        int server = engine_get(q->at[n].name, q->at[n].len);
        wrong += server != (absent ? -1 : (int)key_server(q->which[n]));
    }
    double took = now_ns() - began;
    if (wrong)
        die("%s: %" PRIu64 " wrong answers", engine_name, wrong);
    return took / (double)q->count;
}

static double batches(const questions *q)
{
    const char *names[BATCH];
    size_t lens[BATCH];
    int servers[BATCH];
    uint64_t wrong = 0;
    double began = now_ns();
    for (size_t n = 0; n < q->count;) {
        size_t size = q->count - n < BATCH ? q->count - n : BATCH;
        for (size_t i = 0; i < size; i++)
            names[i] = q->at[n + i].name, lens[i] = q->at[n + i].len;
        engine_many(names, lens, size, servers);
        for (size_t i = 0; i < size; i++)
            wrong += servers[i] != (int)key_server(q->which[n + i]);
        n += size;
    }
    double took = now_ns() - began;
    if (wrong)
        die("%s: %" PRIu64 " wrong answers in batches", engine_name, wrong);
    return took / (double)q->count;
}

#if defined(__x86_64__)
static inline uint64_t ticks(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence\n\trdtsc\n\tlfence" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}
#else
static inline uint64_t ticks(void) { return (uint64_t)now_ns(); }
#endif

static int by_size(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

typedef struct alone {
    double p50, p99;
} alone;

static alone one_by_one(const questions *q)
{
    size_t count = q->count < TIMED_MAX ? q->count : TIMED_MAX;
    uint64_t *took = calloc(count, sizeof *took), *empty = calloc(count, sizeof *empty);
    if (!took || !empty)
        die("out of memory");
    double began = now_ns();
    uint64_t first = ticks();
    for (size_t n = 0; n < count; n++) {
        uint64_t start = ticks();
        empty[n] = ticks() - start;
    }
    for (size_t n = 0; n < count; n++) {
        uint64_t start = ticks();
        int server = engine_get(q->at[n].name, q->at[n].len);
        took[n] = ticks() - start;
        if (server < 0)
            die("%s: a name is absent", engine_name);
    }
    double ns_per_tick = (now_ns() - began) / (double)(ticks() - first);
    qsort(took, count, sizeof *took, by_size);
    qsort(empty, count, sizeof *empty, by_size);
    double clock = (double)empty[count / 2];
    alone found = {((double)took[count / 2] - clock) * ns_per_tick, ((double)took[count / 100 * 99] - clock) * ns_per_tick};
    free(took);
    free(empty);
    return found;
}

/* Two processes at once, each with a handle of its own: how much more they do than one did. */
static double two_processes(const char *dir, const questions *q, double alone_ns)
{
    int pipes[2];
    double slowest = 0, took;
    if (pipe(pipes))
        die("no pipe");
    for (int n = 0; n < 2; n++) {
        pid_t child = fork();
        if (child < 0)
            die("no process");
        if (child == 0) {
            engine_open(dir);
            (void)loop(q, 0);
            took = loop(q, 0);
            _exit(write(pipes[1], &took, sizeof took) != sizeof took);
        }
    }
    for (int n = 0; n < 2; n++) {
        int status;
        if (read(pipes[0], &took, sizeof took) != sizeof took || wait(&status) < 0 || status)
            die("%s: a second process failed", engine_name);
        slowest = took > slowest ? took : slowest;
    }
    return 2 * alone_ns / slowest;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "build") == 0) {
        double began = now_ns();
        engine_build(argv[2], strtoull(argv[3], NULL, 10));
        (void)printf("{\"build_s\": %.3f}\n", (now_ns() - began) / 1e9);
        return 0;
    }
    if (argc != 5 || strcmp(argv[1], "measure") != 0)
        die("usage: mlookup-%s build DIR COUNT | measure DIR COUNT LOOKUPS", engine_name);
    uint64_t records = strtoull(argv[3], NULL, 10);
    size_t count = strtoull(argv[4], NULL, 10);
    questions there = ask(records, count, 0), absent = ask(records, count, 1);
    engine_open(argv[2]);
    (void)loop(&there, 0); /* warm */
    double hit = loop(&there, 0), miss = loop(&absent, 1);
    alone single = one_by_one(&there);
    double many = engine_many ? batches(&there) : 0;
    double two = two_processes(argv[2], &there, hit);
    (void)printf("{\"loop_ns\": %.1f, \"absent_ns\": %.1f, \"p50_ns\": %.1f, \"p99_ns\": %.1f, \"batch_ns\": %.1f, "
                 "\"two_processes\": %.2f}\n",
                 hit, miss, single.p50, single.p99, many, two);
    return 0;
}
