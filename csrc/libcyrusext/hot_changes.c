/* hot_changes.c - what one transaction did to the mailboxes that the hot table knows: one outcome for each name. */
#include <stdlib.h>

#include "hot.h"

struct cyx_hot_noted {
    uint32_t turn, item;
};

static struct cyx_hot_noted *slot_of(const cyx_hot_changes *changes, const uint8_t *name, size_t len)
{
    size_t at = cyx_crc32c(0, name, len) & (changes->noted_size - 1);
    for (; changes->noted[at].turn == changes->turn; at = (at + 1) & (changes->noted_size - 1)) {
        const cyx_hot_change *item = &changes->items[changes->noted[at].item];
        if (item->name_len == len && memcmp(changes->names + item->name_at, name, len) == 0)
            break;
    }
    return &changes->noted[at];
}

/* Room for one more in `items` and, at most half full, in `noted`. */
static int make_room(cyx_hot_changes *changes)
{
    if (changes->count < changes->capacity)
        return CYX_OK;
    size_t capacity = changes->capacity ? 2 * changes->capacity : 64;
    cyx_hot_change *items = realloc(changes->items, capacity * sizeof *items);
    if (!items)
        return cyx_fail(CYX_ENOMEM, "out of memory");
    changes->items = items;
    struct cyx_hot_noted *noted = calloc(2 * capacity, sizeof *noted);
    if (!noted)
        return cyx_fail(CYX_ENOMEM, "out of memory");
    free(changes->noted);
    changes->noted = noted;
    changes->noted_size = 2 * capacity;
    changes->capacity = capacity;
    changes->turn = 1;
    for (size_t i = 0; i < changes->count; i++)
        *slot_of(changes, changes->names + items[i].name_at, items[i].name_len) =
            (struct cyx_hot_noted){changes->turn, (uint32_t)i};
    return CYX_OK;
}

/* The name goes behind those that are there; it counts when `used` is raised. */
static int add_name(cyx_hot_changes *changes, const MDB_val *key, size_t *len_r)
{
    if (changes->size - changes->used < CYX_MAX_NAME) {
        size_t size = 2 * changes->size + 8192;
        uint8_t *names = realloc(changes->names, size);
        if (!names)
            return cyx_fail(CYX_ENOMEM, "out of memory");
        changes->names = names;
        changes->size = size;
    }
    return cyx_name_from_key(key->mv_data, key->mv_size, changes->names + changes->used, len_r);
}

int cyx_hot_note(cyx_hot_changes *changes, const MDB_val *key, bool was_there, const cyx_packed *record)
{
    bool is_there = record->state != CYX_DELETED;
    size_t len;
    if (!was_there && !is_there)
        return CYX_OK;
    int rc = make_room(changes);
    if (rc || (rc = add_name(changes, key, &len)))
        return rc;
    const uint8_t *name = changes->names + changes->used;
    struct cyx_hot_noted *noted = slot_of(changes, name, len);
    if (noted->turn != changes->turn) {
        *noted = (struct cyx_hot_noted){changes->turn, (uint32_t)changes->count};
        changes->items[changes->count++] =
            (cyx_hot_change){.name_at = changes->used, .name_len = (uint16_t)len, .was_there = was_there};
        changes->used += len;
    }
    cyx_hot_change *change = &changes->items[noted->item];
    change->is_there = is_there;
    change->route = (cyx_hot_route){.server = record->server,
                                    .partition = record->partition,
                                    .state = (uint16_t)record->state,
                                    .flags = (uint16_t)record->flags};
    return CYX_OK;
}

void cyx_hot_changes_forget(cyx_hot_changes *changes)
{
    changes->count = changes->used = 0;
    if (++changes->turn == 0 && changes->noted) {
        memset(changes->noted, 0, changes->noted_size * sizeof *changes->noted);
        changes->turn = 1;
    }
}

void cyx_hot_changes_free(cyx_hot_changes *changes)
{
    free(changes->items);
    free(changes->names);
    free(changes->noted);
    memset(changes, 0, sizeof *changes);
}
