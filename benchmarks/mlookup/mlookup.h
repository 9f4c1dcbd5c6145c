/* mlookup.h - one key-value engine under measurement: what each engine's file gives to main.c.
 *
 * A program is main.c, questions.c, keys.c and one engine.  Each holds the same names, each with a place of eight bytes
 * or, where the engine is a mailbox database, with a whole record of the usual size.
 */
#ifndef MLOOKUP_H
#define MLOOKUP_H

#include <stddef.h>
#include <stdint.h>

#define NAME_MAX_LEN 96
#define SERVERS 200u

/* keys.c: name `i` of a site with seven mailboxes a user and eight domains; `absent` gives one of a user that is not
 * there. */
size_t key_name(uint64_t i, int absent, char name_r[NAME_MAX_LEN]);
static inline uint32_t key_server(uint64_t i) { return (uint32_t)((i / 7) % SERVERS); } /* a user's stay together */
size_t key_acl(uint64_t i, char acl_r[NAME_MAX_LEN]);
/* Call `put` for 0 to count - 1, in the order of the names' bytes: databases are built as a dump of Cyrus' would be
 * loaded, the fastest way for each of them that keeps an order. */
typedef void key_put(void *context, uint64_t i);
void key_each(uint64_t count, key_put *put, void *context);

extern const char engine_name[];
/* Write names 0 to count - 1 below `dir`.  Ends the process with a message when that fails. */
void engine_build(const char *dir, uint64_t count);
void engine_open(const char *dir);
/* The server of a name, -1 where there is none; ends the process when it can not tell. */
int engine_get(const char *name, size_t len);
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* questions.c: names drawn at random.  They lie one behind the other with nothing between: who asks has the name at
 * hand, so fetching it must not be what is measured. */
typedef struct questions {
    char *texts;
    uint32_t *from; /* text n begins at from[n] and ends at from[n + 1] */
    uint32_t *which;
    uint32_t *server; /* the right answer, where it is there; worked out beforehand, for that is not measured either */
    size_t count;
} questions;

static inline const char *question_name(const questions *q, size_t n) { return q->texts + q->from[n]; }
static inline size_t question_len(const questions *q, size_t n) { return q->from[n + 1] - q->from[n]; }
/* Give number n, behind which there is nothing yet, the name `i`. */
void question_set(questions *q, size_t n, uint64_t i, int absent);

/* Loops of an engine whose look-up costs not much more than comparing its answer: `one` and `many` (in batches) look all
 * up and return the servers' sum, an absent name being -1; `many_wrong` is how many answers `many` gets that are not
 * right, looked at one by one.  NULL where `engine_get` is all that there is. */
typedef struct own_loops {
    int64_t (*one)(const questions *);
    int64_t (*many)(const questions *);
    uint64_t (*many_wrong)(const questions *);
} own_loops;
extern const own_loops engine_loops;

questions ask(uint64_t records, size_t count, int absent);
uint64_t random_below(uint64_t below);
/* Of so many names, how many may be called absent though they are there: some in a million where a table stands alone
 * (MLOOKUP_TABLE) and there is no store to ask; else none. */
uint64_t untold_max(uint64_t count);
double now_ns(void);
/* Stay on the processor `cpu`, or on the last one where there are not so many. */
void stay_on(int cpu);

/* Clock readings that nothing is moved across, and what such a pair of them costs by itself. */
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

/* The median and the 99th percentile of `count` of them, in nanoseconds, without the cost of taking the time; `took` is
 * sorted. */
typedef struct alone {
    double p50, p99;
} alone;
alone of_ticks(uint64_t *took, size_t count);

#endif
