/* e_cdb.c - tinycdb: a file that is written once and mapped. */
#include <cdb.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "mlookup.h"

const char engine_name[] = "cdb";
const own_loops engine_loops = {0};
static struct cdb table;

static int open_file(const char *dir, int flags)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/names.cdb", dir);
    int fd = open(path, flags | O_CLOEXEC, 0644);
    if (fd < 0)
        die("%s can not be opened", path);
    return fd;
}

static void put(void *make, uint64_t i)
{
    char name[NAME_MAX_LEN];
    uint64_t place = key_server(i);
    if (cdb_make_add(make, name, (unsigned)key_name(i, 0, name), &place, sizeof place))
        die("cdb_make_add");
}

void engine_build(const char *dir, uint64_t count)
{
    struct cdb_make make;
    int fd = open_file(dir, O_RDWR | O_CREAT | O_TRUNC);
    if (cdb_make_start(&make, fd))
        die("cdb_make_start");
    key_each(count, put, &make);
    if (cdb_make_finish(&make) || close(fd))
        die("cdb_make_finish");
}

void engine_open(const char *dir)
{
    if (cdb_init(&table, open_file(dir, O_RDONLY)))
        die("cdb_init");
}

int engine_get(const char *name, size_t len)
{
    uint64_t place;
    int found = cdb_find(&table, name, (unsigned)len);
    if (found < 0)
        die("cdb_find");
    if (!found)
        return -1;
    memcpy(&place, cdb_getdata(&table), sizeof place);
    return (int)place;
}
