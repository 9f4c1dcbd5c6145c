/* e_sqlite.c - SQLite in WAL mode with a prepared statement. */
#include <sqlite3.h>
#include <stdio.h>

#include "mlookup.h"

const char engine_name[] = "sqlite";
const own_loops engine_loops = {0};
static sqlite3 *db;
static sqlite3_stmt *statement;

static void checked(int code, const char *what)
{
    if (code != SQLITE_OK)
        die("%s: %s", what, sqlite3_errmsg(db));
}

static void open_file(const char *dir)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/names.sqlite", dir);
    checked(sqlite3_open(path, &db), "opening");
    checked(sqlite3_exec(db, "PRAGMA journal_mode=WAL; PRAGMA mmap_size=17179869184", NULL, NULL, NULL), "opening");
}

static void put(void *context, uint64_t i)
{
    char name[NAME_MAX_LEN];
    (void)context;
    checked(sqlite3_bind_blob(statement, 1, name, (int)key_name(i, 0, name), SQLITE_TRANSIENT), "binding");
    checked(sqlite3_bind_int(statement, 2, (int)key_server(i)), "binding");
    if (sqlite3_step(statement) != SQLITE_DONE)
        die("writing: %s", sqlite3_errmsg(db));
    checked(sqlite3_reset(statement), "writing");
}

void engine_build(const char *dir, uint64_t count)
{
    open_file(dir);
    checked(sqlite3_exec(db, "PRAGMA synchronous=OFF; BEGIN; CREATE TABLE t (name BLOB PRIMARY KEY, place INT) WITHOUT ROWID",
                         NULL, NULL, NULL),
            "creating");
    checked(sqlite3_prepare_v2(db, "INSERT INTO t VALUES (?, ?)", -1, &statement, NULL), "preparing");
    key_each(count, put, NULL);
    checked(sqlite3_finalize(statement), "writing");
    checked(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), "committing");
    checked(sqlite3_close(db), "closing");
}

void engine_open(const char *dir)
{
    open_file(dir);
    checked(sqlite3_prepare_v2(db, "SELECT place FROM t WHERE name = ?", -1, &statement, NULL), "preparing");
}

int engine_get(const char *name, size_t len)
{
    checked(sqlite3_bind_blob(statement, 1, name, (int)len, SQLITE_STATIC), "binding");
    int code = sqlite3_step(statement);
    int server = code == SQLITE_ROW ? sqlite3_column_int(statement, 0) : -1;
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        die("looking up: %s", sqlite3_errmsg(db));
    checked(sqlite3_reset(statement), "looking up");
    return server;
}
