/* lines.c - look-up, insertion, change and removal in the lines of a hot table. */
#include "lines_find.h"

#define FINGERPRINT_MASK (~(uint64_t)CYX_ROUTE_ASK)
#define STUCK 255u /* a count that is not lowered any more */
#define PROBES CYX_PROBES /* the home and seven others */

typedef cyx_home place;

static inline void store_word(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

uint64_t cyx_lines_for(uint64_t keys, unsigned load)
{
    uint64_t per_page = CYX_PAGE_LINES * CYX_LINE_SLOTS * (uint64_t)load / 100;
    return (keys / per_page + 1) * CYX_PAGE_LINES;
}

void cyx_lines_prefetch(const cyx_lines *lines, uint64_t hash)
{
    __builtin_prefetch(lines->at + cyx_home_line(lines, hash));
}

uint32_t cyx_lines_find(const cyx_lines *lines, uint64_t hash) { return cyx_look(lines, hash); }

unsigned cyx_lines_probe(const cyx_lines *lines, uint64_t hash, uint64_t *home_r)
{
    place p = cyx_home_of(lines, hash);
    uint64_t head = cyx_load_word(&cyx_line_at(&p, 0)->head);
    unsigned probe = 0;
    *home_r = cyx_home_line(lines, hash);
    while (probe < PROBES && ((probe && !cyx_head_count(head, probe)) || !cyx_match_each(cyx_line_at(&p, probe), p.fingerprint)))
        probe++;
    return probe;
}

/* The writer. */

/* The first slot that differs from `fingerprint` in its route at most.  Without a branch on which one it is, as in
 * cyx_match_each, so that the writer's changes overlap, too. */
static inline uint64_t *match(cyx_line *line, uint64_t fingerprint)
{
    unsigned found = CYX_LINE_SLOTS;
    for (unsigned i = CYX_LINE_SLOTS; i-- > 0;)
        found = (line->slots[i] ^ fingerprint) >> CYX_ROUTE_BITS ? found : i;
    return found < CYX_LINE_SLOTS ? &line->slots[found] : NULL;
}

static uint64_t *free_slot(cyx_line *line)
{
    unsigned found = CYX_LINE_SLOTS;
    for (unsigned i = CYX_LINE_SLOTS; i-- > 0;)
        found = line->slots[i] ? found : i;
    return found < CYX_LINE_SLOTS ? &line->slots[found] : NULL;
}

/* The slot that a look-up of this place meets, and in which of its lines. */
static uint64_t *search(const place *p, unsigned *probe_r)
{
    uint64_t head = cyx_line_at(p, 0)->head;
    for (unsigned i = 0; i < PROBES; i++) {
        uint64_t *slot = i == 0 || cyx_head_count(head, i) ? match(cyx_line_at(p, i), p->fingerprint) : NULL;
        if (slot) {
            *probe_r = i;
            return slot;
        }
    }
    return NULL;
}

/* Does a key of this place's home with its fingerprint live behind its line `from`? */
static bool lives_behind(const place *p, unsigned from)
{
    uint64_t head = cyx_line_at(p, 0)->head;
    for (unsigned i = from + 1; i < PROBES; i++)
        if (cyx_head_count(head, i) && match(cyx_line_at(p, i), p->fingerprint))
            return true;
    return false;
}

/* Keys of this home stand behind a slot in its line `probe` from now on: that line is looked into for ever. */
static void keep_looking(const place *p, unsigned probe)
{
    cyx_line *home = cyx_line_at(p, 0);
    if (probe)
        store_word(&home->head, home->head | (uint64_t)STUCK << (8 * probe));
}

static void ask(cyx_lines_writer *writer, uint64_t *slot)
{
    if ((*slot & CYX_ROUTE_ASK) == CYX_ROUTE_ASK)
        return;
    store_word(slot, *slot | CYX_ROUTE_ASK);
    writer->alike++;
}

/* Would a slot with this place's fingerprint in its line `probe` stand before a live key of any home that looks there, or
 * did until a moment ago?  A reader that was overtaken may still go by what it read of that home's head. */
static bool stands_before_another(const place *p, unsigned probe)
{
    place other = *p;
    bool stands = false;
    for (unsigned i = 0; i < PROBES; i++) {
        other.line = p->line ^ cyx_probes[probe] ^ cyx_probes[i];
        if (lives_behind(&other, i)) {
            stands = true;
            if (cyx_head_count(cyx_line_at(&other, 0)->head, i))
                keep_looking(&other, i);
        }
    }
    return stands;
}

static bool is_homeless(const cyx_lines_writer *writer, uint64_t fingerprint)
{
    for (uint32_t i = 0; i < writer->homeless_count; i++)
        if (cyx_home_of(&writer->lines, writer->homeless[i]).fingerprint == fingerprint)
            return true;
    return false;
}

/* From now on the keys of this home look into its line `probe` before those behind it. */
static void announce(cyx_lines_writer *writer, const place *p, unsigned probe)
{
    cyx_line *home = cyx_line_at(p, 0), *line = cyx_line_at(p, probe);
    bool first = !cyx_head_count(home->head, probe);
    for (unsigned i = 0; first && i < CYX_LINE_SLOTS; i++) {
        place resident = *p;
        resident.fingerprint = line->slots[i] & FINGERPRINT_MASK;
        if (resident.fingerprint && (lives_behind(&resident, probe) || is_homeless(writer, resident.fingerprint))) {
            ask(writer, &line->slots[i]);
            keep_looking(p, probe);
        }
    }
    if (cyx_head_count(home->head, probe) < STUCK)
        store_word(&home->head, home->head + ((uint64_t)1 << (8 * probe)));
}

static void unannounce(const place *p, unsigned probe)
{
    cyx_line *home = cyx_line_at(p, 0);
    if (probe && cyx_head_count(home->head, probe) < STUCK)
        store_word(&home->head, home->head - ((uint64_t)1 << (8 * probe)));
}

static void set_homeless(cyx_lines_writer *writer, const place *p)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < writer->homeless_count; i++) {
        place other = cyx_home_of(&writer->lines, writer->homeless[i]);
        count += other.page == p->page && other.line == p->line;
    }
    cyx_line *home = cyx_line_at(p, 0);
    store_word(&home->head, (home->head & ~(uint64_t)255) | (count != 0));
}

bool cyx_lines_insert(cyx_lines_writer *writer, uint64_t hash, uint32_t route)
{
    place p = cyx_home_of(&writer->lines, hash);
    unsigned probe;
    uint64_t *slot = search(&p, &probe);
    if (slot) {
        /* the name stands behind this slot, which stays; so it must go on being looked for there */
        ask(writer, slot);
        if (probe)
            announce(writer, &p, probe);
        return true;
    }
    for (probe = 0; probe < PROBES && !(slot = free_slot(cyx_line_at(&p, probe)));)
        probe++;
    if (!slot) {
        if (writer->homeless_count == CYX_HOMELESS_MAX)
            return false;
        writer->homeless[writer->homeless_count++] = hash;
        set_homeless(writer, &p);
        return true;
    }
    /* a line that was not looked into yet may hold the same fingerprint of another home */
    uint64_t *other = match(cyx_line_at(&p, probe), p.fingerprint);
    bool alike = other || stands_before_another(&p, probe) || is_homeless(writer, p.fingerprint);
    if (probe)
        announce(writer, &p, probe);
    if (other) {
        ask(writer, other);
        return true;
    }
    writer->alike += alike;
    writer->placed++;
    store_word(slot, p.fingerprint | (alike ? CYX_ROUTE_ASK : route));
    return true;
}

void cyx_lines_update(cyx_lines_writer *writer, uint64_t hash, uint32_t route)
{
    place p = cyx_home_of(&writer->lines, hash);
    unsigned probe;
    uint64_t *slot = search(&p, &probe);
    if (slot && (*slot & CYX_ROUTE_ASK) != CYX_ROUTE_ASK)
        store_word(slot, p.fingerprint | route);
}

static bool was_homeless(cyx_lines_writer *writer, const place *p, uint64_t hash)
{
    for (uint32_t i = 0; i < writer->homeless_count; i++) {
        if (writer->homeless[i] == hash) {
            writer->homeless[i] = writer->homeless[--writer->homeless_count];
            set_homeless(writer, p);
            return true;
        }
    }
    return false;
}

void cyx_lines_delete(cyx_lines_writer *writer, uint64_t hash)
{
    place p = cyx_home_of(&writer->lines, hash);
    unsigned probe;
    if (was_homeless(writer, &p, hash))
        return;
    uint64_t *slot = search(&p, &probe);
    if (!slot || (*slot & CYX_ROUTE_ASK) == CYX_ROUTE_ASK)
        return; /* others may stand behind it */
    store_word(slot, 0);
    writer->placed--;
    unannounce(&p, probe);
}
