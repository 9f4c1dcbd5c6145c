/* guard.c - the guards of all threads, and the barrier that orders them (guard.h has the argument). */
#define _GNU_SOURCE 1
#include <linux/membarrier.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guard.h"

#define GUARDS 256u /* threads of a process that look up without a lock */

_Thread_local cyx_guard *cyx_thread_guard;
bool cyx_guard_fences = true;

static cyx_guard guards[GUARDS];
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool have_key;

static void give_back(void *context)
{
    cyx_guard *guard = context;
    cyx_thread_guard = NULL;
    __atomic_store_n(&guard->taken, false, __ATOMIC_RELEASE);
}

/* The other threads are gone, wherever they were. */
static void after_fork_child(void)
{
    for (unsigned i = 0; i < GUARDS; i++) {
        if (&guards[i] == cyx_thread_guard)
            continue;
        __atomic_store_n(&guards[i].held, NULL, __ATOMIC_RELAXED);
        __atomic_store_n(&guards[i].taken, false, __ATOMIC_RELEASE);
    }
}

static bool membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0) == 0; }

static void prepare(void)
{
    have_key = pthread_key_create(&key, give_back) == 0;
    cyx_guard_fences = !membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
    (void)pthread_atfork(NULL, NULL, after_fork_child);
}

void cyx_guard_prepare(void) { (void)pthread_once(&once, prepare); }

cyx_guard *cyx_guard_claim(void)
{
    cyx_guard_prepare();
    for (unsigned i = 0; !cyx_thread_guard && have_key && i < GUARDS; i++) {
        bool taken = false;
        if (!__atomic_compare_exchange_n(&guards[i].taken, &taken, true, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            continue;
        if (pthread_setspecific(key, &guards[i])) {
            give_back(&guards[i]);
            break;
        }
        cyx_thread_guard = &guards[i];
    }
    return cyx_thread_guard;
}

bool cyx_guard_barrier(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return cyx_guard_fences || membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) ||
           (membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) && membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED));
}

bool cyx_guard_holds(const struct cyx_table *table)
{
    for (unsigned i = 0; i < GUARDS; i++)
        if (__atomic_load_n(&guards[i].held, __ATOMIC_ACQUIRE) == table)
            return true;
    return false;
}
