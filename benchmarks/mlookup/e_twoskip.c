/* e_twoskip.c - Cyrus' own database of mailboxes, by its own library, with records as Cyrus 3.6 writes them.
 *
 * Run in a root that has Cyrus: the library is opened by name, and its few functions are declared here.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mlookup.h"

#define CREATE 1
#define NOT_FOUND (-5)

const char engine_name[] = "twoskip";
void (*const engine_many)(const char *const *, const size_t *, size_t, int *) = NULL;

struct db;
struct txn;
static int (*db_open)(const char *, const char *, int, struct db **);
static int (*db_fetch)(struct db *, const char *, size_t, const char **, size_t *, struct txn **);
static int (*db_store)(struct db *, const char *, size_t, const char *, size_t, struct txn **);
static int (*db_commit)(struct db *, struct txn *);
static int (*db_close)(struct db *);
static struct db *db;

/* What Cyrus' libraries call when they can not go on; each of its programs has one. */
_Noreturn void fatal(const char *text, int code);
_Noreturn void fatal(const char *text, int code) { die("libcyrus: %s (%d)", text, code); }

static void *symbol(void *library, const char *name)
{
    void *found = dlsym(library, name);
    if (!found)
        die("libcyrus has no %s", name);
    return found;
}

static void open_db(const char *dir, int flags)
{
    char path[512];
    /* the second needs the first and does not name it */
    void *library = dlopen("libcyrus_min.so.0", RTLD_NOW | RTLD_GLOBAL);
    if (library)
        library = dlopen("libcyrus.so.0", RTLD_NOW | RTLD_GLOBAL);
    if (!library)
        die("no libcyrus: %s", dlerror());
    *(void **)&db_open = symbol(library, "cyrusdb_open");
    *(void **)&db_fetch = symbol(library, "cyrusdb_fetch");
    *(void **)&db_store = symbol(library, "cyrusdb_store");
    *(void **)&db_commit = symbol(library, "cyrusdb_commit");
    *(void **)&db_close = symbol(library, "cyrusdb_close");
    (void)snprintf(path, sizeof path, "%s/mailboxes.db", dir);
    int code = db_open("twoskip", path, flags, &db);
    if (code)
        die("%s can not be opened: %d", path, code);
}

/* Cyrus' key: N, dots as 0x1F, the domain's end as 0x1D. */
static size_t key_of(const char *name, size_t len, char key_r[NAME_MAX_LEN + 1])
{
    const char *domain = memchr(name, '!', len);
    key_r[0] = 'N';
    for (size_t i = 0; i < len; i++)
        key_r[i + 1] = name + i == domain                      ? 0x1D
                       : name[i] == '.' && (!domain || name + i > domain) ? 0x1F
                                                               : name[i];
    return len + 1;
}

void engine_build(const char *dir, uint64_t count)
{
    struct txn *txn = NULL;
    open_db(dir, CREATE);
    for (uint64_t i = 0; i < count; i++) {
        char name[NAME_MAX_LEN], key[NAME_MAX_LEN + 1], acl[NAME_MAX_LEN], value[512];
        size_t len = key_of(name, key_name(i, 0, name), key);
        acl[key_acl(i, acl)] = 0;
        *strchr(acl, '\t') = 0;
        int size = snprintf(value, sizeof value,
                            "%%(A %%(%s lrswipkxtecdan) I 0a1b2c3d4e5f60718293a4b5c6d7e8f9 M 1795000000 P default S "
                            "be%u.example.org T r V 1795000000)",
                            acl, key_server(i));
        if (db_store(db, key, len, value, (size_t)size, &txn))
            die("writing");
        if (i % 100000 == 99999 || i + 1 == count) {
            if (db_commit(db, txn))
                die("committing");
            txn = NULL;
        }
    }
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
