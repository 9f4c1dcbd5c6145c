/* structure.h - is the file of a store what LMDB may be let loose on, and does it say one thing only? (structure.c) */
#ifndef CYX_STRUCTURE_H
#define CYX_STRUCTURE_H

#include "pages.h"
#include "writer.h"

#define CYX_FINDINGS_MAX 20u /* the check ends with so many */

typedef struct cyx_structure {
    uint64_t findings;
    uint64_t txn, pages; /* of the meta page that was followed; pages: up to its last one */
    uint64_t records;    /* in mailboxes */
    uint64_t *reached;   /* a bit for each page of the file: it is in use */
    uint64_t *spare;     /* likewise: it is free to be used */
    bool spare_sound;    /* nothing is wrong with the list of free pages */
} cyx_structure;

/* Check all pages that the file's newest meta page leads to, from its first byte to what the records say.  `report` (may
 * be NULL) gets one line for each finding, *structure_r how many there are; it is to be freed whatever is returned.
 *
 * `txn` 0 is for a file that nobody writes: everything that the last commit left is looked at.  Else it is the snapshot
 * that a read transaction holds, beside a writer that goes on; CYX_STALE when no meta page tells of it any more.
 * CYX_EVERSION when the store has a format that this library does not open, CYX_ENOMEM.
 *
 * No finding means: LMDB reads no byte outside the file and follows no page twice; every record, every value of ours and
 * every logged change has its checksum; keys are in order, below and above; and the databases agree on which mailboxes
 * there are, on which server, and which were deleted when.  So no single changed bit of a page in use is left. */
CYX_MUST_CHECK int cyx_structure_check(const cyx_image *image, uint64_t txn, cyx_finding_cb report, void *context,
                                       cyx_structure *structure_r);
void cyx_structure_free(cyx_structure *structure);

static inline bool cyx_bit(const uint64_t *bits, uint64_t at) { return bits[at / 64] >> at % 64 & 1; }

/* The store below `state_dir`, which nobody writes, not even LMDB: CYX_OK with the number of findings, CYX_ABSENT when
 * there is no store or it was never completed; or as above. */
CYX_MUST_CHECK int cyx_check_store(const char *state_dir, cyx_finding_cb report, void *context, uint64_t *findings_r);
/* The same beside a writer (pinned.c), as far as LMDB can be asked for a snapshot without following a page.  In a process
 * that does not have the store open. */
CYX_MUST_CHECK int cyx_check_live_store(const char *state_dir, cyx_finding_cb report, void *context,
                                        uint64_t *findings_r);

#endif
