/* cyx - look into the index from a shell.
 *
 * Exit status: 0 done; 1 absent, or findings; 2 wrong usage, or a name that no mailbox can have; 69 no store that this
 * version can open; 75 damaged, or another error.  Documented in docs/operations/cyx.md.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "structure.h"
#include "writer.h"

static int usage(void)
{
    (void)fputs("usage: cyx get STATE_DIR NAME...\n"
                "       cyx many STATE_DIR <NAMES\n"
                "       cyx walk STATE_DIR [PREFIX [SERVER]]\n"
                "       cyx stat STATE_DIR\n"
                "       cyx verify STATE_DIR\n",
                stderr);
    return 2;
}

static const char *remedy(int code)
{
    switch (code) {
    case CYX_EUNAVAIL:
        return " (STATE_DIR is state_dir of the node on this machine; its store is readable by its owner and reader_group)";
    case CYX_EVERSION:
        return " (use the cyx that came with the node)";
    case CYX_ECORRUPT:
        return " (cyx verify says more; the node replaces a damaged store when it is restarted)";
    case CYX_ELIMIT:
        return " (the node clears the slots of dead readers every minute)";
    default:
        return "";
    }
}

static int complain(int code)
{
    (void)fprintf(stderr, "cyx: %s: %s%s\n", cyx_strerror(code), cyx_detail(), remedy(code));
    return code == CYX_EINVAL ? 2 : code == CYX_EUNAVAIL || code == CYX_EVERSION ? 69 : 75;
}

static const char *state_name(uint32_t state)
{
    return state == CYX_ACTIVE ? "ACTIVE" : state == CYX_RESERVED ? "RESERVED" : "DELETED";
}

static int show(void *context, const cyx_entry *entry)
{
    (void)context;
    const cyx_location *at = &entry->location;
    (void)printf("%.*s\t%s\t%s!%s\t%" PRIu32 "\t%" PRIu64 "\t", (int)entry->name_len, entry->name,
                 state_name(at->state), at->server, at->partition, at->flags, at->seq);
    (void)fwrite(entry->acl, 1, entry->acl_len, stdout);
    return putchar('\n') == EOF; /* a closed pipe ends the walk */
}

/* A name that no mailbox can have is a mistake of who asks, not one that is absent. */
static bool is_name(const char *name, size_t len)
{
    uint8_t key[CYX_KEY_MAX];
    size_t key_len;
    return cyx_key_from_name(name, len, key, &key_len) == CYX_OK;
}

static int get(cyx_reader *reader, char **names, int count)
{
    int status = 0;
    for (int i = 0; i < count; i++) {
        if (!is_name(names[i], strlen(names[i]))) {
            (void)fprintf(stderr, "cyx: argument %d: %s\n", i + 1, cyx_detail());
            return 2;
        }
        cyx_entry entry = {.name = names[i], .name_len = strlen(names[i])};
        char *acl = malloc(CYX_ACL_MAX);
        int rc = acl ? cyx_inspect(reader, names[i], entry.name_len, &entry.location) : CYX_ENOMEM;
        if (rc == CYX_OK)
            rc = cyx_acl(reader, names[i], entry.name_len, acl, CYX_ACL_MAX, &entry.acl_len);
        entry.acl = acl;
        if (rc == CYX_OK) {
            (void)show(NULL, &entry);
        } else if (rc == CYX_ABSENT) {
            int fresh = cyx_fresh(reader, 0);
            (void)fprintf(stderr, "cyx: %s: %s%s\n", names[i], cyx_strerror(rc),
                          fresh == CYX_OK ? "" : " (but the index is not known to be up to date)");
            status = 1;
        }
        free(acl);
        if (rc < 0)
            return complain(rc);
    }
    return status;
}

#define MANY 1024u

static int show_many(cyx_reader *reader, const cyx_name *names, size_t count, int *status)
{
    static cyx_location at[MANY];
    int rc = cyx_lookup_many(reader, names, count, at);
    for (size_t i = 0; i < count && rc == CYX_OK; i++) {
        (void)fwrite(names[i].data, 1, names[i].len, stdout);
        if (at[i].state)
            (void)printf("\t%s\t%s!%s\t%" PRIu32 "\n", state_name(at[i].state), at[i].server, at[i].partition,
                         at[i].flags);
        else
            (void)puts("\t-");
        if (!at[i].state)
            *status = 1;
    }
    return rc;
}

/* Names from standard input, one a line, each answered by a line in its turn; those in front of a wrong one too. */
static int many(cyx_reader *reader)
{
    static char lines[MANY][CYX_MAX_NAME];
    static cyx_name names[MANY];
    char *line = NULL;
    size_t count = 0, room = 0, number = 0;
    int status = 0, rc = CYX_OK;
    ssize_t got;
    bool good = true;
    while (rc == CYX_OK && good && (got = getline(&line, &room, stdin)) > 0) {
        size_t len = (size_t)got - (line[got - 1] == '\n');
        number++;
        if (!(good = is_name(line, len))) {
            (void)fprintf(stderr, "cyx: line %zu: %s\n", number, cyx_detail());
            break;
        }
        memcpy(lines[count], line, len);
        names[count] = (cyx_name){lines[count], len};
        if (++count == MANY) {
            rc = show_many(reader, names, count, &status);
            count = 0;
        }
    }
    free(line);
    if (rc == CYX_OK && count)
        rc = show_many(reader, names, count, &status);
    return rc < 0 ? complain(rc) : good ? status : 2;
}

static int show_server(void *context, const char *server, uint64_t count)
{
    (void)context;
    return printf("server %s\t%" PRIu64 "\n", server, count) < 0;
}

static int stat_store(cyx_reader *reader)
{
    cyx_stat stat;
    int rc = cyx_reader_stat(reader, &stat);
    if (rc < 0)
        return complain(rc);
    int fresh = cyx_fresh(reader, 0);
    char *id = NULL;
    rc = cyx_reader_text(reader, "store_id", &id);
    if (rc < 0)
        return complain(rc);
    (void)printf("format\t%" PRIu64 "\nstore\t%s\n", stat.format, id ? id : "");
    free(id);
    (void)printf("active\t%" PRIu64 "\nreserved\t%" PRIu64 "\ntombstones\t%" PRIu64 "\nseq\t%" PRIu64
                 "\noldest change\t%" PRIu64 "\nbytes used\t%" PRIu64 "\nmap size\t%" PRIu64 "\nfresh\t%s\n",
                 stat.counts.active, stat.counts.reserved, stat.counts.tombstones, stat.seq, stat.oldest_change,
                 stat.bytes_used, stat.map_size, fresh == CYX_OK ? "yes" : "no");
    cyx_hot_stat hot;
    rc = cyx_reader_hot_stat(reader, &hot);
    if (rc == CYX_OK)
        (void)printf("hot table\t%" PRIu64 "\nhot bytes\t%" PRIu64 "\nhot slots\t%" PRIu64 "\nhot slots used\t%" PRIu64
                     "\nhot alike\t%" PRIu64 "\nhot seq\t%" PRIu64 "\nhot age\t%" PRIu64 "\n",
                     hot.generation, hot.bytes, hot.slots, hot.placed, hot.alike + hot.homeless, hot.applied_seq,
                     hot.age_ns / 1000000000u);
    else if (rc == CYX_ABSENT)
        (void)puts("hot table\tnone");
    if (rc >= 0)
        rc = cyx_reader_servers(reader, show_server, NULL);
    return rc < 0 ? complain(rc) : 0;
}

static void show_finding(void *context, const char *text)
{
    (void)context;
    (void)puts(text);
}

/* The pages first: LMDB, through which everything else is read, can die of what is wrong with them. */
static int verify_pages(const char *state_dir)
{
    uint64_t findings = 0;
    int rc = cyx_check_live_store(state_dir, show_finding, NULL, &findings);
    if (findings)
        (void)puts("the store is damaged and must not be opened: start the node, which builds it anew from what can be read,"
                   " or restore a backup");
    return rc < 0 ? complain(rc) : findings ? 1 : 0;
}

static int verify(cyx_reader *reader)
{
    uint64_t findings = 0, of_table = 0;
    int rc = cyx_verify(reader, show_finding, NULL, &findings);
    if (rc == CYX_OK)
        rc = cyx_hot_verify(reader, show_finding, NULL, &of_table);
    return rc < 0 ? complain(rc) : findings || of_table ? 1 : 0;
}

int main(int argc, char **argv)
{
    cyx_reader *reader;
    if (argc < 3)
        return usage();
    const char *verb = argv[1];
    int arguments = argc - 3;
    bool known = (strcmp(verb, "get") == 0 && arguments > 0) || (strcmp(verb, "walk") == 0 && arguments < 3) ||
                 ((strcmp(verb, "many") == 0 || strcmp(verb, "stat") == 0 || strcmp(verb, "verify") == 0) && arguments == 0);
    if (!known)
        return usage();
    int status = *verb == 'v' ? verify_pages(argv[2]) : 0;
    if (status)
        return status;
    int rc = cyx_open(argv[2], &reader);
    if (rc < 0)
        return complain(rc);
    if (*verb == 'g') {
        status = get(reader, argv + 3, arguments);
    } else if (*verb == 'w') {
        const char *prefix = arguments > 0 ? argv[3] : "";
        rc = cyx_walk(reader, prefix, strlen(prefix), arguments > 1 ? argv[4] : NULL, show, NULL);
        status = rc < 0 ? complain(rc) : 0;
    } else if (*verb == 'm') {
        status = many(reader);
    } else {
        status = *verb == 's' ? stat_store(reader) : verify(reader);
    }
    cyx_close(&reader);
    return status;
}
