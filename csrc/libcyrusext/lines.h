/* lines.h - the hot table's lines: where a name's route stands in memory that one process writes and others read.
 *
 * A line has 64 bytes: a head of eight bytes and seven slots.  A slot is one aligned word, a 40-bit fingerprint over a
 * 24-bit route; it is stored at once, and a key that stays never moves, so a reader needs no lock and no second try: it
 * can not see half an entry, nor miss a mailbox that was there all the time.
 *
 * A key lives in its home line or, when that is full, in one of seven others of the same 4 KiB page.  Byte i of the
 * home line's head counts the home's keys in the i-th of them, so a lookup looks where something is and nowhere else;
 * byte 0 says that a key of this home found no place at all.
 *
 * What can not be told from 40 bits is not guessed: where the look-up of one live name would meet the slot of another,
 * or a name found no place, the table says CYX_ROUTE_ASK and the store answers.  Only a name that does not exist can be
 * taken for another, with a chance of about 2^-37.
 */
#ifndef CYX_LINES_H
#define CYX_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cyrusext.h"

#define CYX_LINE_SLOTS 7u
#define CYX_LINE_BYTES 64u
#define CYX_PAGE_LINES 64u
#define CYX_ROUTE_BITS 24u
#define CYX_ROUTE_NONE 0u
#define CYX_ROUTE_ASK ((1u << CYX_ROUTE_BITS) - 1)
#define CYX_ROUTE_MAX (CYX_ROUTE_ASK - 1)

/* The secret of one generation: six words of 64 bits for the sum and two for each 16 bytes of a name. */
#define CYX_SECRET_WORDS 128u
typedef struct cyx_secret {
    uint64_t words[CYX_SECRET_WORDS];
} cyx_secret;

/* Over the choice of the secret, the hashes of any two different names of at most 490 bytes are independent and uniform,
 * but for a chance of at most 2^-63 that they are the same (namehash.h).  Who does not know the secret can not choose
 * names that meet in a line more often than by chance. */
uint64_t cyx_name_hash(const cyx_secret *secret, const void *name, size_t len);

typedef struct cyx_line {
    uint64_t head;
    uint64_t slots[CYX_LINE_SLOTS];
} cyx_line;

typedef struct cyx_lines {
    cyx_line *at; /* aligned to a page */
    uint64_t count; /* a multiple of CYX_PAGE_LINES, at most 2^32 */
} cyx_lines;

/* Lines for so many keys at `load` per cent, rounded up to whole pages. */
uint64_t cyx_lines_for(uint64_t keys, unsigned load);

/* The route of the name with this hash, CYX_ROUTE_NONE if it has none, or CYX_ROUTE_ASK.  Any number of threads and
 * processes may look while one writes. */
uint32_t cyx_lines_find(const cyx_lines *lines, uint64_t hash);

/* In which line of its home `home_r` the look-up of this hash ends: 0 the home itself, CYX_PROBES none of them. */
#define CYX_PROBES 8u
unsigned cyx_lines_probe(const cyx_lines *lines, uint64_t hash, uint64_t *home_r);

/* Fetch the home line of `hash`, ahead of cyx_lines_find. */
void cyx_lines_prefetch(const cyx_lines *lines, uint64_t hash);

/* The writer's side: one thread of one process.  Whether a name was there before is the caller's knowledge; the table
 * knows no names. */
#define CYX_HOMELESS_MAX 1024u
typedef struct cyx_lines_writer {
    cyx_lines lines;
    uint64_t placed; /* slots in use */
    uint64_t alike;  /* slots that stand for more than one name; they stay so until the table is built again */
    uint32_t homeless_count;
    uint64_t homeless[CYX_HOMELESS_MAX]; /* hashes of names that found no place */
} cyx_lines_writer;

/* Add a name that was not there; `route` is 1 to CYX_ROUTE_MAX.  False when there is no place and no more room to
 * remember that: the table must not be used any further. */
CYX_MUST_CHECK bool cyx_lines_insert(cyx_lines_writer *writer, uint64_t hash, uint32_t route);
/* Change the route of a name that is there. */
void cyx_lines_update(cyx_lines_writer *writer, uint64_t hash, uint32_t route);
/* Remove a name that is there. */
void cyx_lines_delete(cyx_lines_writer *writer, uint64_t hash);

#endif
