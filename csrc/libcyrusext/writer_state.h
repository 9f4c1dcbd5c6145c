/* writer_state.h - the writing handle, for writer.c (transactions) and put.c (what goes into them). */
#ifndef CYX_WRITER_STATE_H
#define CYX_WRITER_STATE_H

#include "hot.h"
#include "writer.h"

#define PAGES_PER_PUT 48u /* more than one put can newly write in all databases together, splits included */

struct cyx_writer {
    pthread_mutex_t lock; /* error-checking: a second begin in one thread is refused */
    pthread_t owner;
    cyx_env *env;
    int lock_fd;
    MDB_txn *txn;
    MDB_cursor *mailboxes, *by_server, *tombstones, *changes;
    cyx_intern servers, partitions;
    cyx_counts counts, committed_counts;
    uint64_t *per_server; /* live records by server id */
    bool *touched;
    size_t per_server_size;
    uint64_t seq, committed_seq;
    uint64_t pages; /* upper bound of what this transaction adds to the file */
    bool loaded, failed;
    cyx_heartbeat beat;
    unsigned fork_generation;
    uint8_t *scratch; /* a packed record while its place in the map is not known yet */
    size_t scratch_size;
    uint8_t *change; /* an entry of the change log */
    size_t change_size;
    char *run_dir;
    cyx_hot_writer *hot;         /* the hot table in use; NULL while there is none */
    cyx_hot_changes hot_changes; /* of this transaction */
    uint64_t unlogged;           /* committed puts so far that the change log does not have */
    uint64_t unlogged_now;       /* of this transaction */
    bool hot_cancelled;          /* no more of them */
    bool hot_wanted;             /* the next hot table should be built */
};

bool cyx_writer_in_transaction(const cyx_writer *writer); /* of this thread */
CYX_MUST_CHECK int cyx_writer_no_transaction(void);
CYX_MUST_CHECK int cyx_writer_fail_write(cyx_writer *writer, int mdb_code, const char *what);
CYX_MUST_CHECK int cyx_writer_fit_servers(cyx_writer *writer, size_t count);
void cyx_writer_apply_hot(cyx_writer *writer); /* hot_build.c; at the end of a commit, before the lock is given back */

#endif
