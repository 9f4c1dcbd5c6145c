/* e_gdbm.c - GDBM, which Perdition reads; kept open, which Perdition does not. */
#include <gdbm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mlookup.h"

const char engine_name[] = "gdbm";
const own_loops engine_loops = {0};
static GDBM_FILE file;

static void open_file(const char *dir, int flags)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/names.gdbm", dir);
    file = gdbm_open(path, 0, flags, 0644, NULL);
    if (!file)
        die("%s can not be opened: %s", path, gdbm_strerror(gdbm_errno));
}

static void put(void *context, uint64_t i)
{
    char name[NAME_MAX_LEN];
    uint64_t place = key_server(i);
    datum key = {name, (int)key_name(i, 0, name)}, value = {(char *)&place, sizeof place};
    (void)context;
    if (gdbm_store(file, key, value, GDBM_INSERT))
        die("gdbm_store: %s", gdbm_strerror(gdbm_errno));
}

void engine_build(const char *dir, uint64_t count)
{
    open_file(dir, GDBM_NEWDB | GDBM_FAST);
    key_each(count, put, NULL);
    (void)gdbm_close(file);
}

void engine_open(const char *dir) { open_file(dir, GDBM_READER); }

int engine_get(const char *name, size_t len)
{
    uint64_t place;
    datum key = {(char *)(uintptr_t)name, (int)len}, value = gdbm_fetch(file, key);
    if (!value.dptr)
        return -1;
    memcpy(&place, value.dptr, sizeof place);
    free(value.dptr);
    return (int)place;
}
