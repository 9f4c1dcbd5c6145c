/* record.c - a record as it is packed in the store.
 *
 *   0  CRC-32C over the key and value[4..]      28  flags
 *   4  seq, 8 bytes                             32  state
 *  12  server id                                36  length of the ACL
 *  16  partition id                             40  length of the writer
 *  20  changed_at, 8 bytes, signed              44  ACL, writer
 */
#include "internal.h"

size_t cyx_record_size(const cyx_packed *record) { return CYX_RECORD_HEAD + record->acl_len + record->by_len; }

static uint32_t checksum(const MDB_val *key, const uint8_t *value, size_t size)
{
    return cyx_crc32c(cyx_crc32c(0, key->mv_data, key->mv_size), value + 4, size - 4);
}

void cyx_record_seal(const MDB_val *key, uint8_t *value, size_t size) { cyx_put32(value, checksum(key, value, size)); }

void cyx_record_pack(const cyx_packed *record, const MDB_val *key, uint8_t *value)
{
    cyx_put64(value + 4, record->seq);
    cyx_put32(value + 12, record->server);
    cyx_put32(value + 16, record->partition);
    cyx_put64(value + 20, (uint64_t)record->changed_at);
    cyx_put32(value + 28, record->flags);
    cyx_put32(value + 32, record->state);
    cyx_put32(value + 36, (uint32_t)record->acl_len);
    cyx_put32(value + 40, (uint32_t)record->by_len);
    if (record->acl_len)
        memcpy(value + CYX_RECORD_HEAD, record->acl, record->acl_len);
    if (record->by_len)
        memcpy(value + CYX_RECORD_HEAD + record->acl_len, record->by, record->by_len);
    cyx_record_seal(key, value, cyx_record_size(record));
}

static int damaged(const MDB_val *key, const char *how)
{
    uint8_t name[CYX_MAX_NAME];
    size_t len = 0;
    if (cyx_name_from_key(key->mv_data, key->mv_size, name, &len) != CYX_OK)
        return CYX_ECORRUPT;
    return cyx_fail(CYX_ECORRUPT, "the record of %.*s %s", (int)len, (const char *)name, how);
}

int cyx_record_unpack(const MDB_val *key, const MDB_val *value, cyx_packed *record_r)
{
    const uint8_t *p = value->mv_data;
    size_t size = value->mv_size;

    if (!cyx_key_is_name(key->mv_data, key->mv_size) || size < CYX_RECORD_HEAD ||
        cyx_get32(p) != checksum(key, p, size))
        return damaged(key, "fails its checksum");
    record_r->seq = cyx_get64(p + 4);
    record_r->server = cyx_get32(p + 12);
    record_r->partition = cyx_get32(p + 16);
    record_r->changed_at = (int64_t)cyx_get64(p + 20);
    record_r->flags = cyx_get32(p + 28);
    record_r->state = cyx_get32(p + 32);
    record_r->acl_len = cyx_get32(p + 36);
    record_r->by_len = cyx_get32(p + 40);
    if (record_r->acl_len > size - CYX_RECORD_HEAD || record_r->by_len != size - CYX_RECORD_HEAD - record_r->acl_len ||
        record_r->state < CYX_RESERVED || record_r->state > CYX_DELETED)
        return damaged(key, "makes no sense");
    record_r->acl = p + CYX_RECORD_HEAD;
    record_r->by = record_r->acl + record_r->acl_len;
    return CYX_OK;
}
