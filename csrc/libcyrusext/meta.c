/* meta.c - the store's small values, each under a checksum of its own. */
#include <inttypes.h>

#include "internal.h"

int cyx_meta_get(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_len, const uint8_t **value_r, size_t *len_r)
{
    MDB_val k = {key_len, (void *)(uintptr_t)key}, v;
    int rc = mdb_get(txn, dbi, &k, &v);
    if (rc == MDB_NOTFOUND)
        return CYX_ABSENT;
    if (rc)
        return cyx_fail_mdb(rc, "reading the store's own values");
    const uint8_t *p = v.mv_data;
    if (v.mv_size < 4 || cyx_get32(p) != cyx_crc32c(cyx_crc32c(0, key, key_len), p + 4, v.mv_size - 4))
        return cyx_fail(CYX_ECORRUPT, "one of the store's own values fails its checksum");
    *value_r = p + 4;
    *len_r = v.mv_size - 4;
    return CYX_OK;
}

int cyx_meta_put(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_len, const void *value, size_t len)
{
    MDB_val k = {key_len, (void *)(uintptr_t)key}, v = {len + 4, NULL};
    int rc = mdb_put(txn, dbi, &k, &v, MDB_RESERVE);
    if (rc)
        return cyx_fail_mdb(rc, "writing the store's own values");
    uint8_t *p = v.mv_data;
    if (len)
        memcpy(p + 4, value, len);
    cyx_put32(p, cyx_crc32c(cyx_crc32c(0, key, key_len), p + 4, len));
    return CYX_OK;
}

int cyx_meta_get64(MDB_txn *txn, MDB_dbi dbi, const char *key, uint64_t *value_r)
{
    const uint8_t *value;
    size_t len;
    int rc = cyx_meta_get(txn, dbi, key, strlen(key), &value, &len);
    if (rc)
        return rc;
    if (len != 8)
        return cyx_fail(CYX_ECORRUPT, "the store's value %s has %zu bytes instead of 8", key, len);
    *value_r = cyx_get64(value);
    return CYX_OK;
}

int cyx_meta_put64(MDB_txn *txn, MDB_dbi dbi, const char *key, uint64_t value)
{
    uint8_t raw[8];
    cyx_put64(raw, value);
    return cyx_meta_put(txn, dbi, key, strlen(key), raw, sizeof raw);
}

int cyx_check_format(MDB_txn *txn, MDB_dbi dbi)
{
    uint64_t format;
    int rc = cyx_meta_get64(txn, dbi, "format", &format);
    if (rc)
        return rc;
    if (format < CYX_FORMAT_OLDEST || format > CYX_FORMAT)
        return cyx_fail(CYX_EVERSION, "the store has format %" PRIu64 ", this version opens %d to %d", format,
                        CYX_FORMAT_OLDEST, CYX_FORMAT);
    return CYX_OK;
}
