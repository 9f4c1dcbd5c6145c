/* e_twoskip.c - Cyrus' own database of mailboxes by cyrusdb_fetch, with records as Cyrus writes them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cyrus.h"

#define CREATE 1
#define NOT_FOUND (-5)
#define AT_ONCE 100000u

const char engine_name[] = "twoskip";
const own_loops engine_loops = {0};

static int (*db_open)(const char *, const char *, int, struct db **);
static int (*db_fetch)(struct db *, const char *, size_t, const char **, size_t *, struct txn **);
static int (*db_store)(struct db *, const char *, size_t, const char *, size_t, struct txn **);
static int (*db_commit)(struct db *, struct txn *);
static int (*db_close)(struct db *);
static struct db *db;

static void open_db(const char *dir, int flags)
{
    char path[512];
    void *library = cyrus_library("libcyrus.so.0");
    *(void **)&db_open = cyrus_function(library, "cyrusdb_open");
    *(void **)&db_fetch = cyrus_function(library, "cyrusdb_fetch");
    *(void **)&db_store = cyrus_function(library, "cyrusdb_store");
    *(void **)&db_commit = cyrus_function(library, "cyrusdb_commit");
    *(void **)&db_close = cyrus_function(library, "cyrusdb_close");
    (void)snprintf(path, sizeof path, "%s/conf/mailboxes.db", dir);
    int code = db_open("twoskip", path, flags, &db);
    if (code)
        die("%s can not be opened: %d", path, code);
}

/* Cyrus' key: N, dots as 0x1F, the domain's end as 0x1D, ^ as a dot. */
static size_t key_of(const char *name, size_t len, char key_r[NAME_MAX_LEN + 1])
{
    const char *domain = memchr(name, '!', len);
    key_r[0] = 'N';
    for (size_t i = 0; i < len; i++) {
        int local = !domain || name + i > domain;
        key_r[i + 1] = name + i == domain           ? 0x1D
                       : local && name[i] == '.'    ? 0x1F
                       : local && name[i] == '^'    ? '.'
                                                    : name[i];
    }
    return len + 1;
}

typedef struct filling {
    struct txn *txn;
    uint64_t stored;
} filling;

static void commit(filling *f)
{
    if (f->txn && db_commit(db, f->txn))
        die("committing");
    f->txn = NULL;
}

static void put(void *context, uint64_t i)
{
    filling *f = context;
    char name[NAME_MAX_LEN], key[NAME_MAX_LEN + 1], acl[NAME_MAX_LEN], value[512];
    size_t len = key_of(name, key_name(i, 0, name), key);
    acl[key_acl(i, acl)] = 0;
    *strchr(acl, '\t') = 0;
    int size = snprintf(value, sizeof value,
                        "%%(A %%(%s lrswipkxtecdan) I 0a1b2c3d4e5f60718293a4b5c6d7e8f9 M 1795000000 P default S "
                        "be%u.example.org T r V 1795000000)",
                        acl, key_server(i));
    if (db_store(db, key, len, value, (size_t)size, &f->txn))
        die("writing");
    if (++f->stored % AT_ONCE == 0)
        commit(f);
}

void engine_build(const char *dir, uint64_t count)
{
    filling f = {0};
    char conf[512];
    (void)snprintf(conf, sizeof conf, "%s/conf", dir);
    (void)mkdir(conf, 0755);
    open_db(dir, CREATE);
    key_each(count, put, &f);
    commit(&f);
    (void)db_close(db);
}

void engine_open(const char *dir) { open_db(dir, 0); }

int engine_get(const char *name, size_t len)
{
    char key[NAME_MAX_LEN + 1];
    const char *value;
    size_t size;
    int code = db_fetch(db, key, key_of(name, len, key), &value, &size, NULL);
    if (code == NOT_FOUND)
        return -1;
    const char *server = code ? NULL : memmem(value, size, " S be", 5);
    if (!server)
        die("looking up: %d", code);
    return (int)strtol(server + 5, NULL, 10);
}
