/* fuzz_structure - the check of a store's pages and the salvage, on hostile files (libFuzzer).
 *
 * The first byte of the input says whether the rest is the file itself, or changes to a good one (patch.h).  What the
 * check finds nothing wrong with has to be read by the salvage without a loss.
 */
#include <stdlib.h>
#include <string.h>

#include "../tests/damage.h"
#include "patch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static sample s;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    sample_make(&s);
    uint8_t *bytes = malloc(s.size);
    CHECK(bytes != NULL);
    memcpy(bytes, s.bytes, s.size);
    size_t length = s.size;
    sample_remove(&s);
    s.bytes = bytes;
    s.size = length;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cyx_structure structure;
    cyx_salvage salvage;
    if (size < 1)
        return 0;
    bool whole = data[0] & 1;
    data++, size--;
    size_t length = whole ? size : s.size;
    uint8_t *bytes = malloc(length ? length : 1); /* of just this size: a step behind it is seen */
    CHECK(bytes != NULL);
    memcpy(bytes, whole ? data : s.bytes, length);
    for (size_t at = 0; !whole && at + PATCH_BYTES <= size; at += PATCH_BYTES)
        bytes[patch_place(data + at, length)] = data[at + 3];
    const cyx_image image = cyx_image_of(bytes, length);
    int rc = cyx_structure_check(&image, 0, NULL, NULL, &structure);
    if (cyx_salvage_run(&image, &structure, &salvage) != CYX_OK ||
        (rc == CYX_OK && !structure.findings && (salvage.count != structure.records || salvage.damaged || salvage.unknown)))
        abort();
    for (size_t i = 0; i < salvage.count; i++) {
        cyx_packed record;
        cyx_salvage_record(&salvage, i, &record);
        if (!salvage.servers.items[record.server].text || !salvage.partitions.items[record.partition].text ||
            (i && memcmp(salvage.items[i - 1].key.mv_data, salvage.items[i].key.mv_data,
                         salvage.items[i - 1].key.mv_size < salvage.items[i].key.mv_size ? salvage.items[i - 1].key.mv_size
                                                                                         : salvage.items[i].key.mv_size) > 0))
            abort();
    }
    cyx_salvage_free(&salvage);
    cyx_structure_free(&structure);
    free(bytes);
    return 0;
}
