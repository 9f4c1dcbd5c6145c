/* change.c - one entry of the bounded change log as it is packed.
 *
 *   0  CRC-32C over the seq and value[4..]       4  key of the mailbox
 * Behind the key, which holds no NUL: nothing (entries of the first versions), or a NUL, the version of what follows
 * (1), and
 *   0  changed_at, 8 bytes    10  1: the ACL changed    20  server before        30  name of the writer
 *   8  state                  11  flags                 24  partition before
 *   9  state before, 0: none  12  server, 16 partition  28  length of the writer, 2 bytes
 * The CRC tells a change from every other one that was ever made under its sequence: it is the change's mark, by which
 * a store knows a history as its own.
 */
#include "changes.h"

#define DETAILS 32u /* NUL and version included */
#define VERSION 1u

static uint32_t checksum(uint64_t seq, const uint8_t *value, size_t size)
{
    uint8_t raw_seq[8];
    cyx_put64_be(raw_seq, seq);
    return cyx_crc32c(cyx_crc32c(0, raw_seq, sizeof raw_seq), value + 4, size - 4);
}

size_t cyx_change_size(const MDB_val *key, const cyx_packed *record) { return 4 + key->mv_size + DETAILS + record->by_len; }

void cyx_change_seal(uint64_t seq, uint8_t *value, size_t size) { cyx_put32(value, checksum(seq, value, size)); }

void cyx_change_pack(const MDB_val *key, const cyx_packed *record, const cyx_packed *before, uint8_t *value)
{
    bool was = before && before->state != CYX_DELETED;
    uint8_t *p = value + 4 + key->mv_size;
    memcpy(value + 4, key->mv_data, key->mv_size);
    *p++ = 0;
    *p++ = VERSION;
    cyx_put64(p, (uint64_t)record->changed_at);
    p[8] = (uint8_t)record->state;
    p[9] = was ? (uint8_t)before->state : 0;
    p[10] = record->acl_len != (was ? before->acl_len : 0) ||
            (record->acl_len && memcmp(record->acl, before->acl, record->acl_len) != 0);
    p[11] = (uint8_t)record->flags;
    cyx_put32(p + 12, record->server);
    cyx_put32(p + 16, record->partition);
    cyx_put32(p + 20, was ? before->server : record->server);
    cyx_put32(p + 24, was ? before->partition : record->partition);
    cyx_put16(p + 28, (uint16_t)record->by_len);
    if (record->by_len)
        memcpy(p + 30, record->by, record->by_len);
    cyx_change_seal(record->seq, value, cyx_change_size(key, record));
}

int cyx_change_unpack(const MDB_val *seq_key, const MDB_val *value, cyx_change *change_r)
{
    const uint8_t *p = value->mv_data;
    memset(change_r, 0, sizeof *change_r);
    if (seq_key->mv_size != 8 || value->mv_size < 4 + 2)
        return cyx_fail(CYX_ECORRUPT, "an entry of the change log is too short");
    change_r->seq = cyx_get64_be(seq_key->mv_data);
    change_r->mark = cyx_get32(p);
    if (change_r->mark != checksum(change_r->seq, p, value->mv_size))
        return cyx_fail(CYX_ECORRUPT, "an entry of the change log fails its checksum");
    size_t left = value->mv_size - 4;
    const uint8_t *end = memchr(p + 4, 0, left);
    change_r->key.mv_data = (void *)(uintptr_t)(p + 4);
    change_r->key.mv_size = end ? (size_t)(end - p - 4) : left;
    if (change_r->key.mv_size < 2 || change_r->key.mv_size > CYX_KEY_MAX)
        return cyx_fail(CYX_ECORRUPT, "an entry of the change log makes no sense");
    if (!end)
        return CYX_OK;
    left -= change_r->key.mv_size;
    if (left < DETAILS || end[1] != VERSION)
        return left < DETAILS ? cyx_fail(CYX_ECORRUPT, "an entry of the change log makes no sense") : CYX_OK;
    end += 2;
    cyx_packed *record = &change_r->record;
    record->by_len = cyx_get16(end + 28);
    if (record->by_len != left - DETAILS || end[8] < CYX_RESERVED || end[8] > CYX_DELETED || end[9] > CYX_ACTIVE)
        return cyx_fail(CYX_ECORRUPT, "an entry of the change log makes no sense");
    record->seq = change_r->seq;
    record->changed_at = (int64_t)cyx_get64(end);
    record->state = end[8];
    record->flags = end[11];
    record->server = cyx_get32(end + 12);
    record->partition = cyx_get32(end + 16);
    record->by = end + 30;
    change_r->was = end[9];
    change_r->acl_changed = end[10] != 0;
    change_r->was_server = cyx_get32(end + 20);
    change_r->was_partition = cyx_get32(end + 24);
    change_r->detailed = true;
    return CYX_OK;
}
