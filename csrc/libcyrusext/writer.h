/* writer.h - the writing side of the store; private to the node (one writer per store, see cyx_writer_open).
 *
 * A transaction belongs to the thread that began it.  Everything that was put into it is there after a successful
 * commit, durably; nothing of it after any failure.
 */
#ifndef CYX_WRITER_H
#define CYX_WRITER_H

#include "internal.h"

typedef struct cyx_writer cyx_writer;

typedef struct cyx_put_record {
    const char *name;
    size_t name_len;
    const char *server;
    size_t server_len;
    const char *partition;
    size_t partition_len;
    const char *acl;
    size_t acl_len;
    const char *by;
    size_t by_len;
    int64_t changed_at; /* 0: now */
    uint64_t seq;       /* 0: the next one; else the one given where the change was made */
    uint32_t flags;
    uint32_t state;
} cyx_put_record;

typedef struct cyx_counts {
    uint64_t active, reserved, tombstones;
} cyx_counts;

typedef struct cyx_stat {
    cyx_counts counts;
    uint64_t seq, bytes_used, map_size, oldest_change, format;
} cyx_stat;

/* Open the store below `state_dir` for writing, creating it where there is none.  `reader_group` ("" for none) is the
 * group that may read it.  CYX_EBUSY when another writer has it. */
CYX_MUST_CHECK int cyx_writer_open(const char *state_dir, const char *run_dir, const char *reader_group,
                                   size_t map_size, cyx_writer **writer_r);
void cyx_writer_close(cyx_writer **writer);

CYX_MUST_CHECK int cyx_writer_begin(cyx_writer *writer);
CYX_MUST_CHECK int cyx_writer_commit(cyx_writer *writer); /* ends the transaction on any outcome */
void cyx_writer_abort(cyx_writer *writer);

/* Inside a transaction.  The strings of chunk and location belong to the writer until it is closed. */
CYX_MUST_CHECK int cyx_writer_get(cyx_writer *writer, const char *name, size_t len, cyx_chunk *chunk);
CYX_MUST_CHECK int cyx_writer_put(cyx_writer *writer, const cyx_put_record *record, uint64_t *seq_r, int64_t *at_r);
/* Puts in key order, which is what makes a large import fast; of equal names the last one stays. */
CYX_MUST_CHECK int cyx_writer_put_many(cyx_writer *writer, const cyx_put_record *records, size_t count);
CYX_MUST_CHECK int cyx_writer_purge(cyx_writer *writer, int64_t before, uint64_t limit, uint64_t *purged_r);
CYX_MUST_CHECK int cyx_writer_set_text(cyx_writer *writer, const char *key, const char *text, size_t len);
CYX_MUST_CHECK int cyx_writer_set_number(cyx_writer *writer, const char *key, uint64_t number);

/* Build the hot table anew and put it in place, beside a writer that goes on.  From any thread that has no transaction
 * open, one at a time.  CYX_EBUSY when changes come too fast for it. */
CYX_MUST_CHECK int cyx_writer_build_hot(cyx_writer *writer);
/* Let a build that is under way, and any later one, end soon with CYX_EBUSY. */
void cyx_writer_cancel_hot(cyx_writer *writer);
bool cyx_writer_hot_wanted(const cyx_writer *writer); /* there is none, or it is crowded */

uint64_t cyx_writer_seq(const cyx_writer *writer); /* of the last commit */
CYX_MUST_CHECK int cyx_writer_check_readers(cyx_writer *writer, int *dead_r);
void cyx_writer_beat(cyx_writer *writer, bool fresh);

/* upgrade.c: bring a store of the format before to CYX_FORMAT; outside a transaction. */
CYX_MUST_CHECK int cyx_upgrade(cyx_writer *writer);
CYX_MUST_CHECK int cyx_rekey(cyx_writer *writer); /* rekey.c; inside a transaction */

/* copy.c: write the whole store, as it is now, to the empty file `fd` (a data.mdb without free pages).  It takes as long
 * as the disk does, and the reader can be used for nothing else meanwhile.  CYX_EFULL, CYX_EIO. */
CYX_MUST_CHECK int cyx_reader_copy(cyx_reader *reader, int fd);

/* stat.c: through a reader */
CYX_MUST_CHECK int cyx_reader_stat(cyx_reader *reader, cyx_stat *stat_r);
CYX_MUST_CHECK int cyx_read_stat(cyx_reader *reader, cyx_stat *stat_r); /* inside a transaction */

/* lookup.c: the hot table that answers now.  CYX_ABSENT where it is the store. */
typedef struct cyx_hot_stat {
    uint64_t generation, bytes, slots, placed; /* of the file; slots it has, and those in use */
    uint64_t alike, homeless;                  /* slots and names for which the store is asked */
    uint64_t routes, applied_seq, age_ns;      /* since it was built */
} cyx_hot_stat;
CYX_MUST_CHECK int cyx_reader_hot_stat(cyx_reader *reader, cyx_hot_stat *stat_r);

typedef int (*cyx_server_cb)(void *context, const char *server, uint64_t count);
CYX_MUST_CHECK int cyx_reader_servers(cyx_reader *reader, cyx_server_cb callback, void *context);
/* A text of meta, NUL-terminated, to be freed by the caller.  CYX_ABSENT. */
CYX_MUST_CHECK int cyx_reader_text(cyx_reader *reader, const char *key, char **text_r);

/* verify.c: the whole store in one snapshot, each database against the others.  `report` gets one line per finding. */
typedef void (*cyx_finding_cb)(void *context, const char *text);
CYX_MUST_CHECK int cyx_verify(cyx_reader *reader, cyx_finding_cb report, void *context, uint64_t *findings_r);
/* hot_verify.c: the hot table against the store; no findings where there is none in use.  CYX_EBUSY when the store
 * changes too fast for it. */
CYX_MUST_CHECK int cyx_hot_verify(cyx_reader *reader, cyx_finding_cb report, void *context, uint64_t *findings_r);

#endif
