/* guard.h - a thread's word of which table it is reading, so that nobody unmaps it meanwhile; without a lock.
 *
 * Each thread that looks up owns one guard, for all handles: a look-up is in one table at a time.  To enter, it writes
 * the table into its guard and looks whether that is still the handle's table (cyx_guard_hold); to leave, it clears the
 * guard.  Both are plain stores.  A locked instruction here would do worse than its own few nanoseconds: the processor
 * would finish one look-up before it begins to fetch for the next, and the time of a loop would triple.
 *
 * Who gives up a table takes it out of the handle (1), has every thread of the process pass a memory barrier (2,
 * cyx_guard_barrier: membarrier(2)), and then reads all guards (3).  A thread's entering is the store of its guard (a)
 * and the second load of the handle's table (b), in this order in its instructions.  Its barrier falls behind (a) or
 * before it.  Behind: the store is seen by (3), and the table stays.  Before: (b) comes after the barrier, and so sees
 * (1): the thread does not use the table.  Either way no table is unmapped that a thread goes on to read.  (3) acquires
 * what the clearing of a guard released: the thread's last load from the table is over.  That the memory of a table can
 * become another table between the two loads does no harm: what the guard names is then the one in use.
 *
 * Where the kernel has no membarrier, entering has a full fence between (a) and (b), and (2) is one.
 */
#ifndef CYX_GUARD_H
#define CYX_GUARD_H

#include <stdbool.h>
#include <stddef.h>

struct cyx_table;

typedef struct cyx_guard {
    _Alignas(64) struct cyx_table *held; /* written by its thread alone */
    bool taken;
} cyx_guard;

/* This thread's, NULL where it has none yet.  Reached without a call, in a library that is loaded later, too. */
extern _Thread_local cyx_guard *cyx_thread_guard __attribute__((tls_model("initial-exec"), visibility("hidden")));
extern bool cyx_guard_fences __attribute__((visibility("hidden")));

void cyx_guard_prepare(void); /* once before all else, and again for nothing */
/* Give this thread a guard, kept until it ends.  NULL when all are taken: then look up under the handle's lock. */
cyx_guard *cyx_guard_claim(void);
/* (2); false when it can not be had: nothing may be unmapped. */
bool cyx_guard_barrier(void);
/* (3) */
bool cyx_guard_holds(const struct cyx_table *table);

/* Enter the table that stands at `place`, NULL if there is none. */
static inline struct cyx_table *cyx_guard_hold(cyx_guard *guard, struct cyx_table *const *place)
{
    struct cyx_table *table = __atomic_load_n(place, __ATOMIC_ACQUIRE);
    for (;;) {
        __atomic_store_n(&guard->held, table, __ATOMIC_RELAXED);
        if (__builtin_expect(cyx_guard_fences, false))
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
        else
            __atomic_signal_fence(__ATOMIC_SEQ_CST);
        struct cyx_table *now = __atomic_load_n(place, __ATOMIC_ACQUIRE);
        if (now == table)
            return table;
        table = now;
    }
}

static inline void cyx_guard_leave(cyx_guard *guard) { __atomic_store_n(&guard->held, NULL, __ATOMIC_RELEASE); }

#endif
