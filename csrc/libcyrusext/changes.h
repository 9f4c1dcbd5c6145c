/* changes.h - the change log (changes.c): what the writer puts into it, and what is read of it. */
#ifndef CYX_CHANGES_H
#define CYX_CHANGES_H

#include "internal.h"

/* An entry.  Without details (`detailed`) only seq, mark and key are known.  Pointers go into the store's page. */
typedef struct cyx_change {
    uint64_t seq;
    uint32_t mark;
    MDB_val key;
    bool detailed, acl_changed;
    cyx_packed record; /* but for the ACL */
    uint32_t was, was_server, was_partition; /* state, server and partition before; 0: there was no mailbox */
} cyx_change;

size_t cyx_change_size(const MDB_val *key, const cyx_packed *record);
void cyx_change_pack(const MDB_val *key, const cyx_packed *record, const cyx_packed *before, uint8_t *value);
void cyx_change_seal(uint64_t seq, uint8_t *value, size_t size); /* its checksum, and so its mark */
CYX_MUST_CHECK int cyx_change_unpack(const MDB_val *seq_key, const MDB_val *value, cyx_change *change_r);

/* The mark of the change under `seq`.  CYX_ABSENT when the log does not have it (any more). */
CYX_MUST_CHECK int cyx_reader_mark(cyx_reader *reader, uint64_t seq, uint32_t *mark_r);

typedef struct cyx_changed {
    uint64_t first, upto; /* the first and last change that were looked at; first is 0 when there was none */
    uint32_t mark;        /* of the last one */
} cyx_changed;

/* What became of the mailboxes in at most `limit` changes behind `after`, tombstones included; chunk->done tells whether
 * these were the last.  A mailbox that changed again later comes with its last change only. */
CYX_MUST_CHECK int cyx_reader_changed(cyx_reader *reader, uint64_t after, size_t limit, cyx_chunk *chunk,
                                      cyx_changed *changed_r);

typedef struct cyx_history_item {
    uint64_t seq;
    bool detailed, acl_changed;
    cyx_location location, was; /* of `was` only server, partition and state, which is 0 when there was no mailbox */
    const char *by;             /* not NUL-terminated; valid during the callback only */
    size_t by_len;
} cyx_history_item;

typedef int (*cyx_history_cb)(void *context, const cyx_history_item *item); /* non-zero stops */

/* Call `callback` for each change of one mailbox that the log still has, oldest first, in one read transaction: it must
 * do no I/O and is at most as long as the log. */
CYX_MUST_CHECK int cyx_reader_history(cyx_reader *reader, const char *name, size_t len, cyx_history_cb callback,
                                      void *context);

#endif
