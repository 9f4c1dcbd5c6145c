/* lines_find.h - the look-up in the lines of a hot table, to be compiled into what looks up. */
#ifndef CYX_LINES_FIND_H
#define CYX_LINES_FIND_H

#include "lines.h"

/* SSE2 is part of x86-64.  A build that watches each load has them one by one. */
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__) && !defined(CYX_LINES_PLAIN)
#include <emmintrin.h>
#define CYX_LINES_WIDE 1
#endif

/* Where a home's lines are, by the bits of the home's number that differ: itself, its neighbour in 128 bytes, which many a
 * processor fetches together, and others of the page. */
static const uint8_t cyx_probes[CYX_PROBES] = {0, 1, 2, 4, 8, 16, 32, 63};

typedef struct cyx_home {
    cyx_line *page;
    uint32_t line;        /* in the page */
    uint64_t fingerprint; /* in the upper 40 bits, never 0: that is a free slot */
} cyx_home;

static inline uint64_t cyx_load_word(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

static inline uint64_t cyx_home_line(const cyx_lines *lines, uint64_t hash)
{
    return (uint64_t)((unsigned __int128)hash * lines->count >> 64);
}

static inline cyx_home cyx_home_of(const cyx_lines *lines, uint64_t hash)
{
    uint64_t line = cyx_home_line(lines, hash);
    uint64_t fingerprint = hash << CYX_ROUTE_BITS;
    return (cyx_home){
        .page = lines->at + (line & ~(uint64_t)(CYX_PAGE_LINES - 1)),
        .line = (uint32_t)line & (CYX_PAGE_LINES - 1),
        .fingerprint = fingerprint ? fingerprint : (uint64_t)1 << CYX_ROUTE_BITS,
    };
}

static inline cyx_line *cyx_line_at(const cyx_home *home, unsigned i) { return home->page + (home->line ^ cyx_probes[i]); }

static inline unsigned cyx_head_count(uint64_t head, unsigned i) { return (unsigned)(head >> (8 * i)) & 255u; }

/* All seven are looked at without a branch: a wrong guess would keep the look-ups behind it from fetching ahead.  Two
 * can match only while a key goes and comes back; either is then right. */
static inline uint32_t cyx_match_each(const cyx_line *line, uint64_t fingerprint)
{
    uint32_t route = CYX_ROUTE_NONE;
    for (unsigned i = 0; i < CYX_LINE_SLOTS; i++) {
        uint64_t difference = cyx_load_word(&line->slots[i]) ^ fingerprint;
        route = difference >> CYX_ROUTE_BITS ? route : (uint32_t)difference;
    }
    return route;
}

#ifdef CYX_LINES_WIDE
/* Which of the eight words of a line may have this fingerprint: those whose upper halves are as its own.  No x86 processor
 * takes a word that lies in one of these loads in two pieces; what the words are is asked of them one by one, all the
 * same. */
static inline unsigned cyx_alike(const cyx_line *line, uint64_t fingerprint)
{
    const __m128 *pairs = (const __m128 *)(const void *)line;
    __m128i wanted = _mm_set1_epi32((int)(fingerprint >> 32));
    __m128i first = _mm_castps_si128(_mm_shuffle_ps(pairs[0], pairs[1], _MM_SHUFFLE(3, 1, 3, 1)));
    __m128i last = _mm_castps_si128(_mm_shuffle_ps(pairs[2], pairs[3], _MM_SHUFFLE(3, 1, 3, 1)));
    __m128i alike = _mm_packs_epi32(_mm_cmpeq_epi32(first, wanted), _mm_cmpeq_epi32(last, wanted));
    __atomic_signal_fence(__ATOMIC_ACQUIRE);
    return (unsigned)_mm_movemask_epi8(alike) & 0xFFFCu; /* two bits for each; the head's do not count */
}

static inline __attribute__((always_inline)) uint32_t cyx_match(const cyx_line *line, uint64_t fingerprint)
{
    unsigned alike = cyx_alike(line, fingerprint);
    if (!alike)
        return CYX_ROUTE_NONE;
    uint64_t difference = cyx_load_word(&line->slots[(unsigned)__builtin_ctz(alike) / 2 - 1]) ^ fingerprint;
    if (__builtin_expect(difference >> CYX_ROUTE_BITS == 0, true))
        return (uint32_t)difference;
    return cyx_match_each(line, fingerprint);
}
#else
static inline uint32_t cyx_match(const cyx_line *line, uint64_t fingerprint) { return cyx_match_each(line, fingerprint); }
#endif

/* What stands in the other lines of a home with this head, which is not 0.  Not inlined: seldom, and long. */
static __attribute__((noinline, unused)) uint32_t cyx_look_behind(const cyx_lines *lines, uint64_t hash, uint64_t head)
{
    cyx_home home = cyx_home_of(lines, hash);
    uint32_t route;
    for (unsigned i = 1; i < CYX_PROBES; i++)
        if (cyx_head_count(head, i) &&
            (route = cyx_match(cyx_line_at(&home, i), home.fingerprint)) != CYX_ROUTE_NONE)
            return route;
    return cyx_head_count(head, 0) ? CYX_ROUTE_ASK : CYX_ROUTE_NONE;
}

/* cyx_lines_find */
static inline __attribute__((always_inline)) uint32_t cyx_look(const cyx_lines *lines, uint64_t hash)
{
    cyx_home home = cyx_home_of(lines, hash);
    uint32_t route = cyx_match(cyx_line_at(&home, 0), home.fingerprint);
    if (__builtin_expect(route != CYX_ROUTE_NONE, true))
        return route;
    uint64_t head = cyx_load_word(&cyx_line_at(&home, 0)->head);
    return head ? cyx_look_behind(lines, hash, head) : CYX_ROUTE_NONE;
}

/* The same where the home line tells it, CYX_ROUTE_NONE included; false where others have to be looked into: those are
 * fetched, so let some other names come before cyx_look. */
static inline bool cyx_look_home(const cyx_lines *lines, uint64_t hash, uint32_t *route_r)
{
    cyx_home home = cyx_home_of(lines, hash);
    *route_r = cyx_match(cyx_line_at(&home, 0), home.fingerprint);
    if (__builtin_expect(*route_r != CYX_ROUTE_NONE, true))
        return true;
    uint64_t head = cyx_load_word(&cyx_line_at(&home, 0)->head);
    for (unsigned i = 1; i < CYX_PROBES; i++)
        if (cyx_head_count(head, i))
            __builtin_prefetch(cyx_line_at(&home, i));
    return head == 0;
}

#endif
