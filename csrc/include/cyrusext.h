/* cyrusext.h - where is this mailbox?  The reading side of the cyrusext store.
 *
 * Rules of this interface:
 *  - Handles are opaque.  One handle may be used by several threads.  Look-ups that the hot table answers run side by
 *    side without a lock and allocate nothing; other calls on one handle wait for each other.
 *  - A function returns a code.  0 and positive codes are results (CYX_ABSENT is an answer, not an error); negative
 *    codes are errors, and then nothing but what is said below has been written to the out-parameters.
 *  - Nothing here logs, exits, starts threads or touches signals.  After fork() a handle opens the store again by
 *    itself in the child.
 *  - No read transaction of the store outlives a call or spans a callback.
 *  - Unless said otherwise, pointers given to a function belong to the caller and are not kept.
 */
#ifndef CYRUSEXT_H
#define CYRUSEXT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CYX_VERSION_MAJOR 0
#define CYX_VERSION_MINOR 1
#define CYX_VERSION_PATCH 0
#define CYX_VERSION "0.1.0"

/* The store formats this library opens: its own and the one before it. */
#define CYX_FORMAT 2
#define CYX_FORMAT_OLDEST 1

/* Longest mailbox name in bytes (Cyrus' MAX_MAILBOX_NAME). */
#define CYX_MAX_NAME 490

#if defined(__GNUC__)
#define CYX_MUST_CHECK __attribute__((warn_unused_result))
#define CYX_EXPORT __attribute__((visibility("default")))
#else
#define CYX_MUST_CHECK
#define CYX_EXPORT
#endif

/* Results */
#define CYX_OK 0
#define CYX_ABSENT 1  /* there is no such mailbox; whether that may be said aloud is cyx_fresh's to tell */
#define CYX_STALE 2   /* cyx_fresh: a miss must not be called "no" */
#define CYX_STOPPED 3 /* cyx_walk: the callback asked to stop */

/* Errors */
#define CYX_EINVAL (-1)    /* an argument is wrong */
#define CYX_ENOMEM (-2)    /* out of memory */
#define CYX_EUNAVAIL (-3)  /* there is no store at this place, or it can not be opened */
#define CYX_ECORRUPT (-4)  /* a checksum, an offset or a length in the store is wrong */
#define CYX_EVERSION (-5)  /* the store has a format that this library does not open */
#define CYX_EIO (-6)       /* a system call failed */
#define CYX_EFULL (-7)     /* no space on the disk, in the quota or in the reserved map */
#define CYX_EBUSY (-8)     /* another writer has the store, or a transaction is already open */
#define CYX_ETOOSMALL (-9) /* the caller's buffer is too small; the needed length has been written */
#define CYX_ELIMIT (-10)   /* too many different servers or partitions, or all reader slots are taken */
#define CYX_EMISUSE (-11)  /* a call at the wrong time, in the wrong thread or process */

/* States of a record */
#define CYX_RESERVED 1
#define CYX_ACTIVE 2
#define CYX_DELETED 3 /* a tombstone; never a hit */

/* Flags of a record */
#define CYX_HELD 1
#define CYX_MOVING 2
#define CYX_SUSPECT 4

typedef struct cyx_reader cyx_reader;

/* Where a mailbox is.  `server` and `partition` are NUL-terminated, interned, and belong to the handle: they stay
 * valid and unchanged until cyx_close. */
typedef struct cyx_location {
    const char *server;
    const char *partition;
    uint64_t seq;       /* change sequence of the last write; 0 from cyx_lookup and cyx_lookup_many */
    int64_t changed_at; /* Unix time in microseconds; likewise */
    uint32_t flags;
    uint32_t state; /* 0 when there is no record at all */
    uint32_t place; /* from cyx_lookup, cyx_lookup_many and cyx_inspect: a small number from 1 on, the same for this handle
                       if and only if server, partition, state and flags are; 0 when none could be had */
    uint32_t unused;
} cyx_location;

typedef struct cyx_name {
    const char *data;
    size_t len;
} cyx_name;

/* One mailbox of a walk.  Everything it points to is valid during the callback only, but for the location's strings. */
typedef struct cyx_entry {
    cyx_location location;
    const char *name; /* Cyrus' internal form, not NUL-terminated */
    size_t name_len;
    const char *acl; /* opaque bytes, not NUL-terminated */
    size_t acl_len;
} cyx_entry;

typedef int (*cyx_walk_cb)(void *context, const cyx_entry *entry); /* non-zero stops the walk */

/* Open the store below `state_dir`.  On CYX_OK *reader_r is a new handle, to be given to cyx_close; on an error it is
 * NULL.  CYX_EUNAVAIL, CYX_ECORRUPT, CYX_EVERSION, CYX_EIO, CYX_ENOMEM. */
CYX_EXPORT CYX_MUST_CHECK int cyx_open(const char *state_dir, cyx_reader **reader_r);

/* Look whether the store was replaced since it was opened, and take the new one if so.  On an error the handle goes on
 * with what it has. */
CYX_EXPORT CYX_MUST_CHECK int cyx_refresh(cyx_reader *reader);

/* Free the handle and set *reader to NULL.  NULL handles are fine. */
CYX_EXPORT void cyx_close(cyx_reader **reader);

/* Find one mailbox by its internal name, from memory that the node keeps up to date.  CYX_OK: *location_r is filled, but
 * for seq and changed_at.  CYX_ABSENT: location_r->state is 0. */
CYX_EXPORT CYX_MUST_CHECK int cyx_lookup(cyx_reader *reader, const char *name, size_t len, cyx_location *location_r);

/* cyx_lookup with everything that the store knows, at the price of asking it.  CYX_ABSENT: location_r->state is 0, or
 * CYX_DELETED with seq and changed_at of the deletion while its tombstone is kept. */
CYX_EXPORT CYX_MUST_CHECK int cyx_inspect(cyx_reader *reader, const char *name, size_t len, cyx_location *location_r);

/* cyx_lookup for `count` names; locations_r[i].state tells which were found (CYX_RESERVED, CYX_ACTIVE).  CYX_OK, or the
 * error of the first name that failed. */
CYX_EXPORT CYX_MUST_CHECK int cyx_lookup_many(cyx_reader *reader, const cyx_name *names, size_t count,
                                              cyx_location *locations_r);

/* Copy the ACL of a mailbox into buffer[size].  *len_r is its length on CYX_OK and CYX_ETOOSMALL.  CYX_ABSENT as for
 * cyx_lookup. */
CYX_EXPORT CYX_MUST_CHECK int cyx_acl(cyx_reader *reader, const char *name, size_t len, char *buffer, size_t size,
                                      size_t *len_r);

/* Call `callback` for each live mailbox whose name starts with prefix[prefix_len] (0 for all) and, if `server` is not
 * NULL, that is on that server; in Cyrus' own order.  Not one snapshot: what changes during the walk may be seen or not.
 * CYX_OK at the end, CYX_STOPPED when the callback returned non-zero. */
CYX_EXPORT CYX_MUST_CHECK int cyx_walk(cyx_reader *reader, const char *prefix, size_t prefix_len, const char *server,
                                       cyx_walk_cb callback, void *context);

/* May a miss be called "no"?  CYX_OK when the node's heartbeat is of this boot, of this store, young enough (the limit
 * that the node wrote into the store, or `max_age_ms` if that is not 0) and says that the feed is caught up; CYX_STALE
 * otherwise. */
CYX_EXPORT CYX_MUST_CHECK int cyx_fresh(cyx_reader *reader, uint64_t max_age_ms);

/* A sentence for a code.  Static, never NULL. */
CYX_EXPORT const char *cyx_strerror(int code);

/* What exactly went wrong in this thread's last failed call ("" when nothing more is known).  Valid until the thread's
 * next call. */
CYX_EXPORT const char *cyx_detail(void);

/* CYX_VERSION of the library in use.  Static. */
CYX_EXPORT const char *cyx_version(void);

#ifdef __cplusplus
}
#endif

#endif
