/* beside.h - processes that look while another one writes: how they are started, told that it is over, and counted. */
#ifndef CYX_TESTS_BESIDE_H
#define CYX_TESTS_BESIDE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

#define LOOKERS_MAX 4u
#define BOUNDS 16u

typedef struct beside_shared {
    bool over;
    uint64_t looked[LOOKERS_MAX]; /* by process */
    uint64_t generations[LOOKERS_MAX];
    uint64_t bounds[BOUNDS]; /* for the test's own use */
} beside_shared;

static beside_shared *beside;
static pid_t lookers[LOOKERS_MAX];
static unsigned looker_count;

static inline bool beside_over(void) { return __atomic_load_n(&beside->over, __ATOMIC_ACQUIRE); }
static inline void beside_count(unsigned me, uint64_t looked)
{
    (void)__atomic_add_fetch(&beside->looked[me], looked, __ATOMIC_RELAXED);
}

static inline void beside_prepare(void)
{
    beside = mmap(NULL, sizeof *beside, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(beside != MAP_FAILED);
}

/* `look` runs in a process of its own until beside_over, and counts what it looked. */
static inline void beside_start(void (*look)(unsigned me))
{
    unsigned me = looker_count++;
    CHECK(me < LOOKERS_MAX);
    beside->looked[me] = beside->generations[me] = 0;
    pid_t writer = getpid();
    lookers[me] = fork();
    CHECK(lookers[me] >= 0);
    if (lookers[me] == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* what ends the writer ends them all */
        if (getppid() != writer)
            _exit(1);
        look(me);
        _exit(0);
    }
}

static inline uint64_t beside_looked_least(void)
{
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i < looker_count; i++) {
        uint64_t looked = __atomic_load_n(&beside->looked[i], __ATOMIC_RELAXED);
        least = looked < least ? looked : least;
    }
    return least;
}

/* Has one of them ended by itself?  It found something, and has said it. */
static inline void beside_alive(void)
{
    int status;
    CHECK(waitpid(-1, &status, WNOHANG) == 0);
}

static inline void beside_stop(void)
{
    __atomic_store_n(&beside->over, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < looker_count; i++) {
        int status;
        CHECK(waitpid(lookers[i], &status, 0) == lookers[i] && status == 0);
    }
    beside->over = false;
    looker_count = 0;
}

static inline double beside_now(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* A minute in the long run, else `usual` seconds. */
static inline double beside_seconds(double usual)
{
    const char *wanted = getenv("CYREXT_LONG");
    return wanted && *wanted && strcmp(wanted, "0") != 0 ? 60 : usual;
}

#endif
