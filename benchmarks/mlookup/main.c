/* main.c - build a database of one engine, or measure look-ups in it.
 *
 *   mlookup-ENGINE build DIR COUNT
 *   mlookup-ENGINE measure DIR COUNT LOOKUPS
 *
 * Every answer is checked; a wrong one ends the run without figures.  Where an engine has loops of its own, each answer
 * is compared once before, and only their sum when the time is taken.  Prints one JSON object: nanoseconds a look-up in
 * a loop of independent ones (the processor overlaps them), for names that are there and that are not; the median and
 * the 99th percentile of one look-up alone, with the cost of taking the time taken off; in batches; and how many more two
 * processes do than one.  A loop is run three times and the middle one counts.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mlookup.h"

#define TIMED_MAX 400000u

static void check_wrong(uint64_t wrong, size_t count)
{
    if (wrong > untold_max(count))
        die("%s: %" PRIu64 " wrong answers", engine_name, wrong);
}

static double middle(double a, double b, double c)
{
    double low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

/* The sum of all answers, but for those that may be called absent. */
static void check_sum(const questions *q, int64_t sum, int absent)
{
    int64_t right = 0;
    for (size_t n = 0; n < q->count; n++)
        right += absent ? -1 : (int64_t)q->server[n];
    uint64_t off = (uint64_t)(right > sum ? right - sum : sum - right);
    check_wrong(off / SERVERS + (off % SERVERS != 0), q->count);
}

static double checked_loop(const questions *q, int absent)
{
    uint64_t wrong = 0;
    double began = now_ns();
    for (size_t n = 0; n < q->count; n++) {
        int server = engine_get(question_name(q, n), question_len(q, n));
        wrong += server != (absent ? -1 : (int)q->server[n]);
    }
    double took = now_ns() - began;
    check_wrong(wrong, q->count);
    return took / (double)q->count;
}

static double summed(int64_t (*sum_of)(const questions *), const questions *q, int absent)
{
    double began = now_ns();
    int64_t sum = sum_of(q);
    double took = now_ns() - began;
    check_sum(q, sum, absent);
    return took / (double)q->count;
}

static double loop(const questions *q, int absent)
{
    return engine_loops.one ? summed(engine_loops.one, q, absent) : checked_loop(q, absent);
}

static double middle_batches(const questions *q)
{
    check_wrong(engine_loops.many_wrong(q), q->count);
    double first = summed(engine_loops.many, q, 0), second = summed(engine_loops.many, q, 0);
    return middle(first, second, summed(engine_loops.many, q, 0));
}

static alone one_by_one(const questions *q)
{
    size_t count = q->count < TIMED_MAX ? q->count : TIMED_MAX;
    uint64_t *took = calloc(count, sizeof *took), wrong = 0;
    if (!took)
        die("out of memory");
    for (size_t n = 0; n < count; n++) {
        uint64_t start = ticks();
        int server = engine_get(question_name(q, n), question_len(q, n));
        took[n] = ticks() - start;
        wrong += server != (int)q->server[n];
    }
    check_wrong(wrong, count);
    alone found = of_ticks(took, count);
    free(took);
    return found;
}

/* So many processes at once, each with a handle and a processor of its own: the slowest one's nanoseconds a look-up. */
static double together(const char *dir, const questions *q, int processes)
{
    int ready[2], go[2], done[2];
    double slowest = 0, took;
    char word = 0;
    if (pipe(ready) || pipe(go) || pipe(done))
        die("no pipe");
    for (int n = 0; n < processes; n++) {
        pid_t child = fork();
        if (child < 0)
            die("no process");
        if (child == 0) {
            stay_on(n);
            engine_open(dir);
            (void)checked_loop(q, 0);
            if (write(ready[1], &word, 1) != 1 || read(go[0], &word, 1) != 1)
                _exit(1);
            double first = loop(q, 0), second = loop(q, 0);
            took = middle(first, second, loop(q, 0));
            _exit(write(done[1], &took, sizeof took) != sizeof took);
        }
    }
    (void)close(ready[1]);
    for (int n = 0; n < processes; n++)
        if (read(ready[0], &word, 1) != 1)
            die("%s: a second process failed", engine_name);
    for (int n = 0; n < processes; n++)
        if (write(go[1], &word, 1) != 1)
            die("no pipe");
    for (int n = 0; n < processes; n++) {
        int status;
        if (wait(&status) < 0 || status || read(done[0], &took, sizeof took) != sizeof took)
            die("%s: a second process failed", engine_name);
        slowest = took > slowest ? took : slowest;
    }
    (void)close(ready[0]), (void)close(go[0]), (void)close(go[1]), (void)close(done[0]), (void)close(done[1]);
    return slowest;
}

static double middle_loop(const questions *q, int absent)
{
    double first = loop(q, absent), second = loop(q, absent);
    return middle(first, second, loop(q, absent));
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
    stay_on(1);
    questions there = ask(records, count, 0), absent = ask(records, count, 1);
    engine_open(argv[2]);
    (void)checked_loop(&there, 0), (void)checked_loop(&absent, 1); /* warm, too */
    double hit = middle_loop(&there, 0), miss = middle_loop(&absent, 1);
    alone single = one_by_one(&there);
    double many = engine_loops.many ? middle_batches(&there) : 0;
    double one = together(argv[2], &there, 1), two = together(argv[2], &there, 2);
    (void)printf("{\"loop_ns\": %.1f, \"absent_ns\": %.1f, \"p50_ns\": %.1f, \"p99_ns\": %.1f, \"batch_ns\": %.1f, "
                 "\"two_processes\": %.2f}\n",
                 hit, miss, single.p50, single.p99, many, 2 * one / two);
    return 0;
}
