/* hot.h - run_dir/hot: the hot table as a file, mapped by everyone who looks mailboxes up.
 *
 *   0     struct cyx_hot_header, one page: what never changes under a checksum, then what the writer keeps changing
 *   4096  routes, 16 bytes each, appended and never changed, each under a checksum of its own
 *   ...   lines (lines.h), aligned so that large pages can be used where the file system gives them
 *
 * One file is one generation: built beside the one in use, caught up, and put in its place by rename.  The old one then
 * says that it is superseded, and readers take the new one; their mapping of the old stays good until they do.
 */
#ifndef CYX_HOT_H
#define CYX_HOT_H

#include "internal.h"

#define CYX_HOT_MAGIC "CYXHOT1\n"
#define CYX_HOT_VERSION 2u
#define CYX_HOT_SERVING 1u
#define CYX_HOT_SUPERSEDED 2u

typedef struct cyx_hot_header {
    char magic[8];
    uint32_t version, checksum; /* CRC-32C of everything before `state`, this field as 0 */
    uint8_t boot_id[16];
    uint64_t dev, ino; /* of the store it was built from */
    uint64_t generation, size, routes_at, route_capacity, lines_at, line_count;
    uint64_t built_at_ns; /* CLOCK_BOOTTIME */
    uint8_t unused[1024 - 104];
    cyx_secret secret;
    uint64_t state; /* from here on it changes */
    uint64_t applied_seq;
    uint64_t route_count;
    uint64_t placed, alike, homeless; /* as of applied_seq: see cyx_lines_writer */
    uint8_t rest[4096 - 2048 - 48];
} cyx_hot_header;

typedef struct cyx_hot_route {
    uint32_t server, partition; /* their numbers in the store */
    uint16_t state, flags;
    uint32_t checksum; /* CRC-32C of its number and what stands before */
} cyx_hot_route;

_Static_assert(sizeof(cyx_hot_header) == 4096 && offsetof(cyx_hot_header, state) == 2048, "the header is one page");
_Static_assert(sizeof(cyx_hot_route) == 16 && sizeof(cyx_line) == CYX_LINE_BYTES, "as the file has them");

uint32_t cyx_hot_header_checksum(const cyx_hot_header *header);
uint32_t cyx_hot_route_checksum(uint32_t id, const cyx_hot_route *route);

/* Map the table of this store.  CYX_ABSENT when there is none, or it is superseded, of another store or boot;
 * CYX_ECORRUPT or CYX_EVERSION when it can not be used; CYX_EIO. */
CYX_MUST_CHECK int cyx_hot_open(cyx_hot *hot, const char *run_dir, const cyx_env *env);
void cyx_hot_close(cyx_hot *hot);
/* Map `size` bytes of a table's file so that its lines can be mapped by large pages; MAP_FAILED with errno. */
#define CYX_LARGE_PAGE ((size_t)2 << 20)
void *cyx_hot_map(int fd, size_t size, int protection);
static inline bool cyx_hot_serves(const cyx_hot *hot)
{
    return hot->header && __atomic_load_n(&hot->header->state, __ATOMIC_ACQUIRE) == CYX_HOT_SERVING;
}
/* The route with this number; CYX_ECORRUPT when it is none. */
CYX_MUST_CHECK int cyx_hot_route_at(const cyx_hot *hot, uint32_t id, cyx_hot_route *route_r);

/* The writer's side.  One transaction's changes are noted as they are put, and applied when they are committed. */
/* hot_changes.c */
typedef struct cyx_hot_writer cyx_hot_writer;

typedef struct cyx_hot_change {
    size_t name_at;
    uint64_t met; /* by the table that it is applied to */
    uint16_t name_len;
    bool was_there, is_there;
    cyx_hot_route route;
} cyx_hot_change;

typedef struct cyx_hot_changes {
    cyx_hot_change *items;
    size_t count, capacity;
    uint8_t *names;
    size_t used, size;
    struct cyx_hot_noted *noted; /* by hash of the name: which item it is */
    size_t noted_size;
    uint32_t turn; /* entries of other turns are free */
} cyx_hot_changes;

/* What became of one mailbox.  Of several changes to one name the outcome alone is kept: a reader must not see what was
 * in between, for the store never shows it. */
CYX_MUST_CHECK int cyx_hot_note(cyx_hot_changes *changes, const MDB_val *key, bool was_there,
                                const cyx_packed *record);
void cyx_hot_changes_forget(cyx_hot_changes *changes); /* the transaction is over */
void cyx_hot_changes_free(cyx_hot_changes *changes);

/* A new generation for `expected` mailboxes and more, with at most `routes` different routes, not yet in place. */
CYX_MUST_CHECK int cyx_hot_create(const char *run_dir, const cyx_env *env, uint64_t expected, uint64_t routes,
                                  cyx_hot_writer **hot_r);
/* What stands for a name in this table; its line is fetched, so let some others come before it is applied. */
uint64_t cyx_hot_meet(const cyx_hot_writer *hot, const uint8_t *name, size_t len);
/* Apply one change of what was met.  False when the table can not hold it: it must not be used any further. */
CYX_MUST_CHECK bool cyx_hot_apply(cyx_hot_writer *hot, uint64_t met, bool was_there, bool is_there,
                                  const cyx_hot_route *route);
#define CYX_HOT_AHEAD 16u /* so many names are met before the first is applied */
void cyx_hot_applied(cyx_hot_writer *hot, uint64_t seq);
/* Put it in the place of the last one. */
CYX_MUST_CHECK int cyx_hot_publish(cyx_hot_writer *hot);
void cyx_hot_supersede(cyx_hot_writer *hot);
/* Say of the file that a dead writer left that it is superseded: what the last commit changed may be missing in it. */
CYX_MUST_CHECK int cyx_hot_retire(const char *run_dir);
/* Is it so full that the next one should be built? */
bool cyx_hot_crowded(const cyx_hot_writer *hot);
void cyx_hot_free(cyx_hot_writer **hot);

#endif
