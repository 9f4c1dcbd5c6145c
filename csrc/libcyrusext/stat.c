/* stat.c - what a store holds, in numbers, and the texts its node left in it. */
#include <stdlib.h>

#include "writer.h"

int cyx_read_stat(cyx_reader *reader, cyx_stat *stat_r)
{
    const uint8_t *value;
    size_t len;
    MDB_envinfo info;
    MDB_cursor *cursor = NULL;
    MDB_val key, change;
    MDB_txn *txn = reader->txn;
    memset(stat_r, 0, sizeof *stat_r);
    int rc = cyx_meta_get64(txn, reader->env->meta, "seq", &stat_r->seq);
    if (rc == CYX_OK)
        rc = cyx_meta_get64(txn, reader->env->meta, "format", &stat_r->format);
    if (rc == CYX_OK)
        rc = cyx_meta_get(txn, reader->env->meta, "counts", strlen("counts"), &value, &len);
    if (rc == CYX_OK && len == 24)
        stat_r->counts = (cyx_counts){cyx_get64(value), cyx_get64(value + 8), cyx_get64(value + 16)};
    if (rc < 0)
        return rc;
    int mdb = mdb_env_info(reader->env->mdb, &info);
    if (!mdb && (mdb = mdb_cursor_open(txn, reader->env->changes, &cursor)) == 0) {
        stat_r->map_size = info.me_mapsize;
        stat_r->bytes_used = (info.me_last_pgno + 1) * reader->env->page_size;
        mdb = mdb_cursor_get(cursor, &key, &change, MDB_FIRST);
        if (!mdb && key.mv_size == 8)
            stat_r->oldest_change = cyx_get64_be(key.mv_data);
        mdb_cursor_close(cursor);
    }
    return mdb && mdb != MDB_NOTFOUND ? cyx_fail_mdb(mdb, "examining the store") : CYX_OK;
}

int cyx_reader_stat(cyx_reader *reader, cyx_stat *stat_r)
{
    int rc = cyx_reader_begin(reader);
    if (rc)
        return rc;
    rc = cyx_read_stat(reader, stat_r);
    cyx_reader_end(reader);
    return rc;
}

int cyx_reader_servers(cyx_reader *reader, cyx_server_cb callback, void *context)
{
    for (uint32_t id = 0; id < CYX_SERVERS_MAX; id++) {
        const uint8_t key[3] = {'c', (uint8_t)(id >> 8), (uint8_t)id};
        const uint8_t *value;
        const char *server = NULL;
        size_t len;
        uint64_t count = 0;
        int rc = cyx_reader_begin(reader);
        if (rc)
            return rc;
        rc = cyx_meta_get(reader->txn, reader->env->meta, key, sizeof key, &value, &len);
        if (rc == CYX_OK && len == 8)
            count = cyx_get64(value);
        if (rc == CYX_OK)
            rc = cyx_intern_text(&reader->servers, reader->txn, reader->env->meta, id, &server);
        cyx_reader_end(reader);
        if (rc == CYX_ABSENT)
            return CYX_OK;
        if (rc)
            return rc;
        if (callback(context, server, count))
            return CYX_STOPPED;
    }
    return CYX_OK;
}

int cyx_reader_text(cyx_reader *reader, const char *key, char **text_r)
{
    const uint8_t *value;
    size_t len;
    *text_r = NULL;
    int rc = cyx_reader_begin(reader);
    if (rc)
        return rc;
    rc = cyx_meta_get(reader->txn, reader->env->meta, key, strlen(key), &value, &len);
    if (rc == CYX_OK) {
        char *text = malloc(len + 1);
        if (text) {
            memcpy(text, value, len);
            text[len] = 0;
        }
        *text_r = text;
        rc = text ? CYX_OK : cyx_fail(CYX_ENOMEM, "out of memory");
    }
    cyx_reader_end(reader);
    return rc;
}
