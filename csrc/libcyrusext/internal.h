/* internal.h - what the parts of libcyrusext share; nothing of it is exported.
 *
 * Format 2 of the store, one LMDB environment with these databases (integers little-endian unless said otherwise):
 *   mailboxes   key (key.c)                       -> record (record.c)
 *   by_server   server id, 2 bytes big-endian, key -> nothing; live records only
 *   tombstones  changed_at, 8 bytes big-endian, key -> nothing; DELETED records only
 *   changes     seq, 8 bytes big-endian           -> an entry (change.c); the last CYX_CHANGES_KEPT changes, with gaps
 *                                                  only where the store follows another one, or did
 *   meta        text or tag byte with id          -> CRC32C over key and value, value
 * Format 1 had no `store_id` from the start (the store's own name, 16 hexadecimal digits) and knew nothing of `refill`
 * (the sequence up to which records may be out of date, decimal, "" for none): who does not know it must not open it.
 */
#ifndef CYX_INTERNAL_H
#define CYX_INTERNAL_H

#include <lmdb.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include "cyrusext.h"
#include "lines.h"

#define CYX_KEY_MAX (1 + CYX_MAX_NAME)
#define CYX_TAGGED_KEY_MAX (8 + CYX_KEY_MAX) /* 499 of LMDB's 511 */
#define CYX_ACL_MAX ((size_t)1 << 20)
#define CYX_TEXT_MAX 1024 /* server, partition, changed_by */
#define CYX_SERVERS_MAX 65536u
#define CYX_PARTITIONS_MAX 1048576u
#define CYX_CHANGES_KEPT 100000u
#define CYX_READERS_MAX 4094u
#define CYX_MAP_MAX ((size_t)1 << 46) /* no process can map more */
#define CYX_STORE_MODE 02750
#define CYX_DATA_MODE 0640
#define CYX_LOCK_MODE 0660
/* What LMDB makes of so many readers: a slot of 64 bytes each, and its header. */
#define CYX_LOCK_SIZE 262144

static inline uint16_t cyx_get16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t cyx_get32(const uint8_t *p) { return (uint32_t)cyx_get16(p) | (uint32_t)cyx_get16(p + 2) << 16; }
static inline uint64_t cyx_get64(const uint8_t *p) { return (uint64_t)cyx_get32(p) | (uint64_t)cyx_get32(p + 4) << 32; }
static inline void cyx_put16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)v, p[1] = (uint8_t)(v >> 8); }
static inline void cyx_put32(uint8_t *p, uint32_t v) { cyx_put16(p, (uint16_t)v), cyx_put16(p + 2, (uint16_t)(v >> 16)); }
static inline void cyx_put64(uint8_t *p, uint64_t v) { cyx_put32(p, (uint32_t)v), cyx_put32(p + 4, (uint32_t)(v >> 32)); }

static inline void cyx_put64_be(uint8_t *p, uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8)
        p[i] = (uint8_t)v;
}

static inline uint64_t cyx_get64_be(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | p[i];
    return v;
}

/* error.c */
__attribute__((format(printf, 2, 3))) int cyx_fail(int code, const char *format, ...);
int cyx_fail_mdb(int mdb_code, const char *what); /* translates LMDB's and errno's codes */

/* crc.c: CRC-32C (Castagnoli); pass 0 to start, the result to go on. */
uint32_t cyx_crc32c(uint32_t crc, const void *data, size_t len);

/* key.c */
#define CYX_KEY_DOMAIN 0x1D /* in a key, what ends the domain */
CYX_MUST_CHECK int cyx_key_from_name(const void *name, size_t len, uint8_t key_r[CYX_KEY_MAX], size_t *key_len_r);
CYX_MUST_CHECK int cyx_name_check(const void *name, size_t len); /* CYX_EINVAL: no mailbox can have it */
bool cyx_key_is_name(const uint8_t *key, size_t key_len);
CYX_MUST_CHECK int cyx_name_from_key(const uint8_t *key, size_t key_len, uint8_t name_r[CYX_MAX_NAME], size_t *len_r);
/* The one or two key prefixes below which lie all names that start with `prefix`, in order; returns how many. */
int cyx_key_prefixes(const void *prefix, size_t len, uint8_t keys_r[2][CYX_KEY_MAX], size_t *key_len_r);

/* record.c: a record as packed in `mailboxes`.  The pointers of an unpacked one go into the value it came from. */
#define CYX_RECORD_HEAD 44
typedef struct cyx_packed {
    uint64_t seq;
    int64_t changed_at;
    uint32_t flags;
    uint32_t server;
    uint32_t partition;
    uint32_t state;
    const uint8_t *acl;
    size_t acl_len;
    const uint8_t *by;
    size_t by_len;
} cyx_packed;
size_t cyx_record_size(const cyx_packed *record);
void cyx_record_pack(const cyx_packed *record, const MDB_val *key, uint8_t *value);
void cyx_record_seal(const MDB_val *key, uint8_t *value, size_t size); /* its checksum */
CYX_MUST_CHECK int cyx_record_unpack(const MDB_val *key, const MDB_val *value, cyx_packed *record_r);

/* env.c: one LMDB environment per (device, inode) and process, counted.  LMDB's locks are fcntl locks: a second open
 * of the same file in one process, closed, would drop the first one's. */
typedef struct cyx_env {
    struct cyx_env *next;
    MDB_env *mdb;
    dev_t dev;
    ino_t ino;
    unsigned refs;
    bool writable;
    bool has_writer;
    MDB_dbi mailboxes, by_server, tombstones, changes, meta;
    size_t page_size;
    uid_t uid; /* of the owner of the file */
} cyx_env;

typedef struct cyx_env_create {
    size_t map_size;
    const char *reader_group;
} cyx_env_create;

/* Check a file's geometry before LMDB trusts it.  An empty file is a store yet to be made. */
CYX_MUST_CHECK int cyx_check_file(const char *path, bool *empty_r);
/* `create` NULL opens for reading what is there. */
CYX_MUST_CHECK int cyx_env_open(const char *state_dir, const cyx_env_create *create, cyx_env **env_r);
cyx_env *cyx_env_retain(cyx_env *env);
void cyx_env_release(cyx_env *env);
bool cyx_env_current(const cyx_env *env, const char *state_dir); /* is it still the file at this place? */
bool cyx_env_follow_size(cyx_env *env); /* the caller has no transaction */
unsigned cyx_fork_generation(void);
void cyx_env_lock_registry(void); /* nobody forks meanwhile */
void cyx_env_unlock_registry(void);
/* One writer per store; the lock is held until the file descriptor is given back. */
CYX_MUST_CHECK int cyx_env_claim_writer(cyx_env *env, const char *state_dir, int *fd_r);
void cyx_env_release_writer(cyx_env *env, int fd);

/* meta.c */
CYX_MUST_CHECK int cyx_meta_get(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_len, const uint8_t **value_r,
                                size_t *len_r); /* CYX_ABSENT; the value lives as long as the transaction */
CYX_MUST_CHECK int cyx_meta_put(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_len, const void *value,
                                size_t len);
CYX_MUST_CHECK int cyx_meta_get64(MDB_txn *txn, MDB_dbi dbi, const char *key, uint64_t *value_r);
CYX_MUST_CHECK int cyx_meta_put64(MDB_txn *txn, MDB_dbi dbi, const char *key, uint64_t value);
CYX_MUST_CHECK int cyx_check_format(MDB_txn *txn, MDB_dbi dbi); /* CYX_ABSENT: nothing was written yet */
CYX_MUST_CHECK int cyx_give_id(MDB_txn *txn, MDB_dbi dbi);      /* upgrade.c */

/* intern.c: servers and partitions are stored once and named by number.  Numbers are given once and never reused, so
 * what a reader has seen stays true. */
#define CYX_TAG_SERVER 's'
#define CYX_TAG_PARTITION 'p'
typedef struct cyx_intern {
    char **texts;
    uint32_t *slots; /* hash of the text -> number + 1; writers only */
    size_t count, capacity, slot_count, committed;
    uint32_t limit;
    char tag;
} cyx_intern;
void cyx_intern_init(cyx_intern *table, char tag);
void cyx_intern_free(cyx_intern *table);
CYX_MUST_CHECK int cyx_intern_text(cyx_intern *table, MDB_txn *txn, MDB_dbi meta, uint32_t id, const char **text_r);
CYX_MUST_CHECK int cyx_intern_id(cyx_intern *table, MDB_txn *txn, MDB_dbi meta, const char *text, size_t len,
                                 uint32_t *id_r); /* gives a number where there is none */
CYX_MUST_CHECK int cyx_intern_find(MDB_txn *txn, MDB_dbi meta, char tag, const char *text, uint32_t *id_r);
CYX_MUST_CHECK int cyx_intern_load(cyx_intern *table, MDB_txn *txn, MDB_dbi meta);
void cyx_intern_rollback(cyx_intern *table);

/* heartbeat.c */
void cyx_boot_id(uint8_t id_r[16]); /* zeros where it is not known */
bool cyx_same_boot(const uint8_t id[16]);
uint64_t cyx_boot_ns(void); /* CLOCK_BOOTTIME; 0 where there is none */
typedef struct cyx_beat cyx_beat; /* the mapped file */
typedef struct cyx_heartbeat {
    cyx_beat *map;
    uint64_t tried_ns;
    bool writable;
} cyx_heartbeat;
CYX_MUST_CHECK int cyx_heartbeat_create(cyx_heartbeat *beat, const char *run_dir);
void cyx_heartbeat_write(cyx_heartbeat *beat, const cyx_env *env, uint64_t seq, bool fresh);
bool cyx_heartbeat_fresh(cyx_heartbeat *beat, const char *run_dir, const cyx_env *env, uint64_t max_age_ns);
void cyx_heartbeat_close(cyx_heartbeat *beat);

/* hot.c: a reader's mapping of one generation of the hot table (hot.h) */
typedef struct cyx_hot {
    const struct cyx_hot_header *header;
    const struct cyx_hot_route *routes;
    cyx_lines lines;
} cyx_hot;

/* lookup.c: one generation of the hot table as a handle uses it, and the routes that it has met.  Who has it by a guard
 * (guard.h) or has the handle's lock may read it. */
typedef struct cyx_known_route {
    cyx_location at; /* as it is told; its server is NULL where the route was not met yet, and written last */
} cyx_known_route;

/* place.c: a number for each (server, partition, state, flags) that a handle has told of; texts are told apart by their
 * addresses.  Numbers are never given again. */
typedef struct cyx_places {
    struct cyx_place *slots;
    size_t slot_count, used;
    uint32_t last;
} cyx_places;
/* 0 when there is no memory for another. */
uint32_t cyx_place_number(cyx_places *places, const char *server, const char *partition, uint32_t state, uint32_t flags);

typedef struct cyx_table {
    cyx_hot hot;
    struct cyx_table *next;  /* of those that were given up */
    uint64_t alive_until_ns; /* so long a miss is believed without a look at the heartbeat; of the coarse clock */
    cyx_known_route known[]; /* by number */
} cyx_table;

/* reader.c, lookup.c, chunk.c.  All but `table` is the lock's. */
struct cyx_reader {
    _Alignas(64) cyx_table *table; /* the one in use, or NULL; only swapped, and alone in its cache line */
    _Alignas(64) pthread_mutex_t lock;
    bool busy; /* somebody has the lock: what a child forked now finds may be half done */
    char *state_dir;
    char *run_dir;
    cyx_env *env;
    MDB_txn *txn; /* reset between calls: renewing costs no system call */
    cyx_intern servers, partitions;
    cyx_places places;
    cyx_intern *retired; /* strings of stores that were replaced: handed out, so kept */
    size_t retired_count;
    cyx_heartbeat beat;
    uint64_t no_max_age_ns;
    unsigned fork_generation;
    dev_t dev; /* whose numbers `servers` and `partitions` hold */
    ino_t ino;
    cyx_table *given_up; /* and not unmapped yet, for a thread may be in it */
    uint64_t hot_tried_ns;
};
CYX_MUST_CHECK int cyx_reader_lock(cyx_reader *reader); /* and open the store if need be; on an error nothing is locked */
void cyx_reader_unlock(cyx_reader *reader);
CYX_MUST_CHECK int cyx_reader_renew(cyx_reader *reader); /* begin a transaction; the caller resets it */
CYX_MUST_CHECK int cyx_reader_begin(cyx_reader *reader); /* locks; on an error nothing is locked */
void cyx_reader_end(cyx_reader *reader);
/* One mailbox, between begin and end; all that the entry points to but `name` lives until end.  CYX_ABSENT; a tombstone
 * is found. */
CYX_MUST_CHECK int cyx_reader_entry(cyx_reader *reader, const char *name, size_t len, cyx_entry *entry_r);
/* Inside a transaction.  A name that no record can have is absent. */
CYX_MUST_CHECK int cyx_reader_find(cyx_reader *reader, const char *name, size_t len, MDB_val *key_r,
                                   uint8_t raw_key[CYX_KEY_MAX], cyx_packed *record_r);
void cyx_reader_drop_hot(cyx_reader *reader);           /* lookup.c; the next look-up looks for a table */
void cyx_reader_free_hot(cyx_reader *reader);           /* all of them, once nobody is inside */
uint64_t cyx_reader_hot_generation(cyx_reader *reader); /* 0: the store answers */
CYX_MUST_CHECK int cyx_reader_location(cyx_reader *reader, const cyx_packed *record, cyx_location *location_r);
/* The same for a record that was read in `txn`, which may know servers and partitions that the reader's does not yet. */
CYX_MUST_CHECK int cyx_location_in(cyx_reader *reader, MDB_txn *txn, const cyx_packed *record,
                                   cyx_location *location_r);

typedef struct cyx_chunk_item {
    cyx_location location;
    size_t name_at, name_len, acl_at, acl_len, by_at, by_len; /* offsets into the chunk's bytes */
} cyx_chunk_item;

typedef struct cyx_chunk {
    cyx_chunk_item *items;
    size_t count, capacity;
    uint8_t *bytes;
    size_t used, size;
    bool done; /* nothing follows */
} cyx_chunk;

typedef struct cyx_range {
    const char *prefix;
    size_t prefix_len;
    const char *server; /* NULL: all */
    const char *after;  /* a name; the chunk starts behind it */
    size_t after_len;
    size_t limit;
    bool tombstones;
} cyx_range;

/* Copy the next records of a range, in one short transaction.  The chunk is emptied first and can be used again. */
CYX_MUST_CHECK int cyx_reader_chunk(cyx_reader *reader, const cyx_range *range, cyx_chunk *chunk);
/* One record with ACL and writer; a tombstone too.  CYX_ABSENT. */
CYX_MUST_CHECK int cyx_reader_get(cyx_reader *reader, const char *name, size_t len, cyx_chunk *chunk);
CYX_MUST_CHECK int cyx_chunk_add(cyx_chunk *chunk, const MDB_val *key, const cyx_packed *record,
                                 const cyx_location *location);
void cyx_chunk_free(cyx_chunk *chunk);

/* scan.c: one range of keys, from `start` (behind it, if `behind`) as long as keys begin with `prefix` */
typedef struct cyx_span {
    uint8_t prefix[2 + CYX_KEY_MAX];
    size_t prefix_len;
    uint8_t start[2 + CYX_KEY_MAX];
    size_t start_len;
    bool behind;
} cyx_span;

typedef struct cyx_scan {
    cyx_env *env;
    MDB_txn *txn;
    MDB_cursor *cursor; /* NULL: there is nothing */
    size_t tag_len;     /* of the server's number before each key of by_server */
    uint32_t server;
    int span_count, span_at;
    bool placed, tombstones;
    cyx_span spans[2];
} cyx_scan;

/* `limit` of the range is not looked at.  To be closed whatever open returns, before the transaction ends. */
CYX_MUST_CHECK int cyx_scan_open(cyx_scan *scan, cyx_env *env, MDB_txn *txn, const cyx_range *range);
CYX_MUST_CHECK int cyx_scan_next(cyx_scan *scan, MDB_val *key_r, cyx_packed *record_r); /* CYX_ABSENT at the end */
void cyx_scan_close(cyx_scan *scan);

/* A walk over all live records (of a server), for the process that writes the store: between two calls it holds a
 * snapshot, whose pages can not be used again meanwhile.  So its user lets go of it soon, after which the walk goes on
 * behind the last name in a new one; COMMITS_HELD bounds it as well.  Entries live until pause. */
typedef struct cyx_listing cyx_listing;
CYX_MUST_CHECK int cyx_listing_open(cyx_reader *reader, const char *server, cyx_listing **listing_r);
CYX_MUST_CHECK int cyx_listing_resume(cyx_listing *listing, cyx_reader *reader); /* locks; not on an error */
CYX_MUST_CHECK int cyx_listing_next(cyx_listing *listing, cyx_entry *entry_r);   /* CYX_ABSENT at the end */
void cyx_listing_pause(cyx_listing *listing);
void cyx_listing_let_go(cyx_listing *listing);
void cyx_listing_close(cyx_listing **listing);

/* failpoint.c: only in builds with CYX_FAILPOINTS */
#ifdef CYX_FAILPOINTS
void cyx_failpoint(const char *name);
#define CYX_FAILPOINT(name) cyx_failpoint(name)
#else
#define CYX_FAILPOINT(name) ((void)0)
#endif

#endif
