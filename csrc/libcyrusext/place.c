/* place.c - the number of a place, by which a caller finds what it made of it without comparing texts. */
#include <stdlib.h>

#include "internal.h"

struct cyx_place {
    const char *server, *partition;
    uint32_t state, flags, number; /* number 0: free */
};

static size_t slot_of(const cyx_places *places, const struct cyx_place *wanted)
{
    uint64_t mixed = (uint64_t)(uintptr_t)wanted->server + 3 * (uint64_t)(uintptr_t)wanted->partition;
    mixed = (mixed + wanted->state * 8 + wanted->flags) * 0x9E3779B97F4A7C15u;
    size_t at = (size_t)(mixed >> 32) & (places->slot_count - 1);
    for (;; at = (at + 1) & (places->slot_count - 1)) {
        const struct cyx_place *known = &places->slots[at];
        if (!known->number || (known->server == wanted->server && known->partition == wanted->partition &&
                               known->state == wanted->state && known->flags == wanted->flags))
            return at;
    }
}

static bool widen(cyx_places *places)
{
    const cyx_places old = *places;
    places->slot_count = old.slot_count ? 2 * old.slot_count : 64;
    places->slots = calloc(places->slot_count, sizeof *places->slots);
    if (!places->slots) {
        *places = old;
        return false;
    }
    for (size_t i = 0; i < old.slot_count; i++)
        if (old.slots[i].number)
            places->slots[slot_of(places, &old.slots[i])] = old.slots[i];
    free(old.slots);
    return true;
}

uint32_t cyx_place_number(cyx_places *places, const char *server, const char *partition, uint32_t state, uint32_t flags)
{
    struct cyx_place wanted = {.server = server, .partition = partition, .state = state, .flags = flags};
    if (2 * (places->used + 1) > places->slot_count && !widen(places))
        return 0;
    struct cyx_place *slot = &places->slots[slot_of(places, &wanted)];
    if (!slot->number) {
        wanted.number = ++places->last;
        *slot = wanted;
        places->used++;
    }
    return slot->number;
}
