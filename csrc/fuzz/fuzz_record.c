/* fuzz_record - keys and packed records from hostile bytes (libFuzzer).
 *
 * The input is a key's length, a key and a value.  Half of the inputs get a right checksum, so that what lies behind it
 * is reached too.  What is accepted has to pack into the same bytes again.
 */
#include <stdlib.h>

#include "internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_name(const uint8_t *data, size_t size)
{
    uint8_t key[CYX_KEY_MAX], name[CYX_MAX_NAME], prefixes[2][CYX_KEY_MAX];
    size_t key_len, name_len, prefix_len = 0;
    if (cyx_key_from_name(data, size, key, &key_len) != CYX_OK)
        return;
    if (cyx_name_from_key(key, key_len, name, &name_len) != CYX_OK || name_len != size || memcmp(name, data, size) != 0)
        abort();
    /* a name starts with each of its own prefixes */
    for (size_t len = 0; len <= size; len++) {
        int count = cyx_key_prefixes(data, len, prefixes, &prefix_len), hits = 0;
        for (int i = 0; i < count; i++)
            hits += prefix_len <= key_len && memcmp(prefixes[i], key, prefix_len) == 0;
        if (hits != 1)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t key_len = data[0];
    bool mend = data[1] & 1;
    data += 2, size -= 2;
    if (key_len > size)
        key_len = size;
    check_name(data, key_len);
    size_t value_len = size - key_len;
    uint8_t *key_copy = malloc(key_len ? key_len : 1), *value_copy = malloc(value_len ? value_len : 1);
    memcpy(key_copy, data, key_len);
    memcpy(value_copy, data + key_len, value_len);
    MDB_val key = {key_len, key_copy}, value = {value_len, value_copy};
    if (mend && value_len >= CYX_RECORD_HEAD)
        cyx_put32(value_copy, cyx_crc32c(cyx_crc32c(0, key_copy, key_len), value_copy + 4, value_len - 4));
    cyx_packed record;
    if (cyx_record_unpack(&key, &value, &record) == CYX_OK) {
        uint8_t *again = malloc(value_len);
        if (cyx_record_size(&record) != value_len)
            abort();
        cyx_record_pack(&record, &key, again);
        if (memcmp(again, value_copy, value_len) != 0)
            abort();
        free(again);
    }
    free(key_copy);
    free(value_copy);
    return 0;
}
