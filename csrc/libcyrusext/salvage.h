/* salvage.h - what can still be read of a store's file that is damaged (salvage.c). */
#ifndef CYX_SALVAGE_H
#define CYX_SALVAGE_H

#include "structure.h"

typedef struct cyx_salvage_text {
    const uint8_t *text;
    size_t len;
    bool mended; /* `text` is ours to free */
} cyx_salvage_text;

typedef struct cyx_salvage_texts {
    cyx_salvage_text *items; /* by number; text NULL where it is not known */
    size_t count;
} cyx_salvage_texts;

typedef struct cyx_salvage_item {
    MDB_val key, value;
    uint64_t seq;
    bool reached;
} cyx_salvage_item;

typedef struct cyx_salvage {
    const cyx_image *image;
    cyx_salvage_item *items; /* in the order of keys */
    size_t count, capacity;
    cyx_salvage_texts servers, partitions;
    cyx_salvage_text mode, followed;
    uint64_t damaged; /* records that were there and fail their checksum */
    uint64_t unknown; /* records whose server or partition nobody knows any more; they are not among the items */
} cyx_salvage;

/* Find every mailbox that a page of the file still tells of, with a checksum that is right.  Of one that is told of twice
 * the highest seq counts; pages that a sound list calls free tell of none.  `structure` is what the check of this file
 * left.  All that *salvage_r points to lives as long as the image; it is to be freed whatever is returned.
 * CYX_ENOMEM. */
CYX_MUST_CHECK int cyx_salvage_run(const cyx_image *image, const cyx_structure *structure, cyx_salvage *salvage_r);
/* The record of an item; its server and partition are known. */
void cyx_salvage_record(const cyx_salvage *salvage, size_t at, cyx_packed *record_r);
void cyx_salvage_free(cyx_salvage *salvage);

#endif
