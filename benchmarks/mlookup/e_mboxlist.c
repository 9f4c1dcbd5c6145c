/* e_mboxlist.c - Cyrus' own look-up, mboxlist_lookup, as each of its daemons calls it; in e_twoskip's database. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cyrus.h"

const char engine_name[] = "mboxlist";
const own_loops engine_loops = {0};

/* The beginning of what it returns, the same from Cyrus 3.2 on. */
struct mboxlist_entry {
    char *name, *ext_name;
    int64_t mtime;
    uint32_t uidvalidity;
    uint64_t created, changed;
    uint32_t type;
    char *partition, *server, *acl;
};

static int (*lookup)(const char *, struct mboxlist_entry **, struct txn **);
static void (*entry_free)(struct mboxlist_entry **);
static int absent_code;

static void write_config(const char *dir, char path_r[512])
{
    (void)snprintf(path_r, 512, "%s/imapd.conf", dir);
    FILE *file = fopen(path_r, "w");
    if (!file || fprintf(file, "configdirectory: %s/conf\npartition-default: %s/spool\ndefaultpartition: default\n"
                               "mboxlist_db: twoskip\nvirtdomains: userid\n", dir, dir) < 0 || fclose(file))
        die("%s can not be written: %s", path_r, strerror(errno));
}

void engine_build(const char *dir, uint64_t count)
{
    die("%s: the database of %llu names is e_twoskip's", dir, (unsigned long long)count);
}

void engine_open(const char *dir)
{
    char config[512];
    if (lookup)
        return; /* forked; Cyrus' daemons go on with what their parent opened, too */
    write_config(dir, config);
    void *library = cyrus_library("libcyrus_imap.so.0");
    int (*init)(const char *, const char *, unsigned, int) =
        (int (*)(const char *, const char *, unsigned, int))cyrus_function(library, "cyrus_init");
    void (*list_init)(int) = (void (*)(int))cyrus_function(library, "mboxlist_init");
    void (*list_open)(const char *) = (void (*)(const char *))cyrus_function(library, "mboxlist_open");
    *(void **)&lookup = cyrus_function(library, "mboxlist_lookup");
    *(void **)&entry_free = cyrus_function(library, "mboxlist_entry_free");
    if (init(config, "mlookup", 0, 0))
        die("cyrus_init");
    list_init(0);
    list_open(NULL);
    struct mboxlist_entry *entry = NULL;
    absent_code = lookup("user.nobody", &entry, NULL);
    if (!absent_code || entry)
        die("mboxlist_lookup finds a mailbox that is not there");
}

int engine_get(const char *name, size_t len)
{
    char text[NAME_MAX_LEN];
    struct mboxlist_entry *entry = NULL;
    memcpy(text, name, len); /* it takes a string; so it costs what it costs its callers */
    text[len] = 0;
    int code = lookup(text, &entry, NULL);
    if (code == absent_code)
        return -1;
    if (code || !entry->server || strncmp(entry->server, "be", 2) != 0)
        die("looking up: %d", code);
    int server = (int)strtol(entry->server + 2, NULL, 10);
    entry_free(&entry);
    return server;
}
