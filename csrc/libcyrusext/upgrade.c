/* upgrade.c - a store of the format before this one becomes one of this format, in place.
 *
 * All steps and the new number are one transaction: a process that dies in it leaves the old store, and the next start
 * upgrades it.  Whoever reads meanwhile sees the old format or the new one.  So a step may only add what readers of the
 * format before do not look at, or must see to it that they know nothing of a miss (the heartbeat's magic); a format
 * that they can not read any more has to go into a new file in the place of the old one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/random.h>

#include "writer_state.h"

int cyx_give_id(MDB_txn *txn, MDB_dbi meta)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t raw[8];
    char id[16];
    const uint8_t *present;
    size_t len;
    int rc = cyx_meta_get(txn, meta, "store_id", strlen("store_id"), &present, &len);
    if (rc != CYX_ABSENT)
        return rc; /* an empty one too: the copy of another store */
    if (getrandom(raw, sizeof raw, 0) != (ssize_t)sizeof raw)
        return cyx_fail_mdb(errno, "giving the store its identity");
    for (size_t i = 0; i < sizeof raw; i++) {
        id[2 * i] = digits[raw[i] >> 4];
        id[2 * i + 1] = digits[raw[i] & 15];
    }
    return cyx_meta_put(txn, meta, "store_id", strlen("store_id"), id, sizeof id);
}

static int to_format_2(cyx_writer *writer)
{
    int rc = cyx_give_id(writer->txn, writer->env->meta);
    return rc ? rc : cyx_rekey(writer);
}

/* Each step leads from the format of its place, counted from CYX_FORMAT_OLDEST, to the next. */
static int (*const steps[])(cyx_writer *writer) = {to_format_2};
_Static_assert(sizeof steps / sizeof *steps == CYX_FORMAT - CYX_FORMAT_OLDEST, "a step for each format");

static int run_steps(cyx_writer *writer, uint64_t format)
{
    MDB_dbi meta = writer->env->meta;
    char from[24];
    int rc = CYX_OK;
    int len = snprintf(from, sizeof from, "%" PRIu64, format);
    CYX_FAILPOINT("upgrade-start");
    for (uint64_t at = format; rc == CYX_OK && at < CYX_FORMAT; at++) {
        rc = steps[at - CYX_FORMAT_OLDEST](writer);
        CYX_FAILPOINT("upgrade-step");
    }
    if (rc == CYX_OK)
        rc = cyx_meta_put(writer->txn, meta, "upgraded_from", strlen("upgraded_from"), from, (size_t)len);
    if (rc == CYX_OK)
        rc = cyx_meta_put64(writer->txn, meta, "format", CYX_FORMAT);
    CYX_FAILPOINT("upgrade-numbered");
    return rc;
}

int cyx_upgrade(cyx_writer *writer)
{
    uint64_t format = 0;
    int rc = cyx_writer_begin(writer);
    if (rc)
        return rc;
    rc = cyx_check_format(writer->txn, writer->env->meta);
    if (rc == CYX_OK)
        rc = cyx_meta_get64(writer->txn, writer->env->meta, "format", &format);
    if (rc == CYX_OK && format < CYX_FORMAT) {
        rc = run_steps(writer, format);
        if (rc == CYX_OK) {
            rc = cyx_writer_commit(writer);
            CYX_FAILPOINT("upgrade-done");
            return rc;
        }
    }
    cyx_writer_abort(writer);
    return rc;
}
