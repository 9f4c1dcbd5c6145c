/* mupload: the load generator of the MUPDATE benchmarks.
 *
 *     mupload MODE -H ADDRESS [options]
 *
 * Prints one line of JSON.  Exit codes: 0 every answer came and was right; 1 a wrong answer, or a connection was closed;
 * 2 usage; 3 the server went silent (no byte from it for --patience seconds while answers are missing).
 *
 * Modes
 *   fill      ACTIVATE records --first … --first + --count of the large set, -c connections, -d in flight on each
 *   find      FIND random records below -n, --miss percent of which are absent; for -t seconds, or --count commands
 *   activate  ACTIVATE new names from --first on; -t or --count
 *   create    RESERVE, then ACTIVATE, of new names from --first on; one answer is a pair
 *   list      LIST on -c connections at once; --expect records in each, in Cyrus' order
 *   update    the same with UPDATE
 *   paced     one writer ACTIVATEs new names from --first on, --rate a second for -t seconds, answers or not, beside
 *             --subscribers in UPDATE (all must see all; --noop-ms: each sends NOOP that often; --kick: NOOP to all after
 *             each OK) and --readers that read whole lists again and again (--update: by UPDATE instead of LIST)
 *   idle      open -c connections (--login: authenticated), print {"opened": n}, wait for the end of standard input,
 *             print {"open": n}
 *   await     try until FIND of record --first is answered, print the monotonic clock
 *   change    connection, login, RESERVE, ACTIVATE, LOGOUT; --count times, one after the other
 *
 * Options (defaults)
 *   -H, --host ADDRESS      -P, --port (3905)       -u, --user (murder)    -w, --password (murderpw)
 *   -c, --connections (1)   -d, --depth (1)         -n, --records          -t, --seconds (1)
 *   --first (0)  --count  --miss (0)  --rate (200)  --subscribers (0)  --noop-ms  --kick  --readers (0)  --update
 *   --expect  --login  --seed (1)  --patience (30)
 *   --cpu N  run on this CPU only          --stem C  letter of the names (u for find, fill and await, w for the others)
 *
 * Records: number i of the large set is user.uUUUUUUU with UUUUUUU = i / 8, or its folder i % 8 (Archive, Archive.2025, …),
 * ACTIVE at be1.lab!default or be2.lab!default with the user's ACL; new names are user.wIIIIIII.New.  Each answer's tag is
 * compared, each found record's name, location and ACL as well.  Latencies are from a log-linear histogram (1.6 %).
 * One thread; what it costs itself is "cpu_s".
 */
#include <getopt.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "mupload.h"

enum {
    OPT_FIRST = 256, OPT_COUNT, OPT_MISS, OPT_RATE, OPT_SUBSCRIBERS, OPT_NOOP, OPT_KICK, OPT_READERS, OPT_UPDATE,
    OPT_EXPECT, OPT_LOGIN, OPT_SEED, OPT_PATIENCE, OPT_CPU, OPT_STEM
};

static const struct option LONG[] = {
    {"host", required_argument, NULL, 'H'},
    {"port", required_argument, NULL, 'P'},
    {"user", required_argument, NULL, 'u'},
    {"password", required_argument, NULL, 'w'},
    {"connections", required_argument, NULL, 'c'},
    {"depth", required_argument, NULL, 'd'},
    {"records", required_argument, NULL, 'n'},
    {"seconds", required_argument, NULL, 't'},
    {"first", required_argument, NULL, OPT_FIRST},
    {"count", required_argument, NULL, OPT_COUNT},
    {"miss", required_argument, NULL, OPT_MISS},
    {"rate", required_argument, NULL, OPT_RATE},
    {"subscribers", required_argument, NULL, OPT_SUBSCRIBERS},
    {"noop-ms", required_argument, NULL, OPT_NOOP},
    {"kick", no_argument, NULL, OPT_KICK},
    {"readers", required_argument, NULL, OPT_READERS},
    {"update", no_argument, NULL, OPT_UPDATE},
    {"expect", required_argument, NULL, OPT_EXPECT},
    {"login", no_argument, NULL, OPT_LOGIN},
    {"seed", required_argument, NULL, OPT_SEED},
    {"patience", required_argument, NULL, OPT_PATIENCE},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"stem", required_argument, NULL, OPT_STEM},
    {NULL, 0, NULL, 0},
};

static long number(const char *text, long least, long most) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value < least || value > most)
        fail(EXIT_USAGE, "%s is not between %ld and %ld", text, least, most);
    return value;
}

static void run_on(long cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) fail(EXIT_USAGE, "there is no CPU %ld", cpu);
}

static void read_option(options *o, int option, const char *text, char *stem) {
    switch (option) {
    case 'H': o->to.host = text; break;
    case 'P': o->to.port = (int)number(text, 1, 65535); break;
    case 'u': o->to.user = text; break;
    case 'w': o->to.password = text; break;
    case 'c': o->connections = (int)number(text, 1, 100000); break;
    case 'd': o->depth = (int)number(text, 1, 4096); break;
    case 'n': o->records = (uint32_t)number(text, 1, MAX_RECORDS); break;
    case 't': o->seconds = strtod(text, NULL); break;
    case OPT_FIRST: o->first = (uint32_t)number(text, 0, MAX_RECORDS); break;
    case OPT_COUNT: o->count = (uint32_t)number(text, 1, MAX_RECORDS); break;
    case OPT_MISS: o->miss_percent = (int)number(text, 0, 100); break;
    case OPT_RATE: o->rate = (int)number(text, 1, 1000000); break;
    case OPT_SUBSCRIBERS: o->subscribers = (int)number(text, 0, 100000); break;
    case OPT_NOOP: o->noop_ms = (int)number(text, 1, 100000); break;
    case OPT_KICK: o->kick = true; break;
    case OPT_READERS: o->readers = (int)number(text, 0, 16); break;
    case OPT_UPDATE: o->update = true; break;
    case OPT_EXPECT: o->expect = number(text, 0, MAX_RECORDS); break;
    case OPT_LOGIN: o->login = true; break;
    case OPT_SEED: o->seed = (uint64_t)number(text, 1, 1L << 40); break;
    case OPT_PATIENCE: o->to.patience_s = (int)number(text, 1, 3600); break;
    case OPT_CPU: run_on(number(text, 0, CPU_SETSIZE - 1)); break;
    case OPT_STEM: *stem = text[0]; break;
    default: exit(EXIT_USAGE);
    }
}

static void run_mode(const char *mode, options *o) {
    if (strcmp(mode, "find") == 0) {
        if (o->records == 0) fail(EXIT_USAGE, "find needs --records");
        mode_closed(o, FIND, false);
    } else if (strcmp(mode, "fill") == 0) {
        mode_closed(o, ACTIVATE, false);
    } else if (strcmp(mode, "activate") == 0 || strcmp(mode, "create") == 0) {
        o->fresh = true;
        mode_closed(o, ACTIVATE, mode[0] == 'c');
    } else if (strcmp(mode, "list") == 0 || strcmp(mode, "update") == 0) {
        o->update = mode[0] == 'u';
        mode_dump(o);
    } else if (strcmp(mode, "paced") == 0) {
        mode_paced(o);
    } else if (strcmp(mode, "idle") == 0) {
        mode_idle(o);
    } else if (strcmp(mode, "await") == 0) {
        mode_await(o);
    } else if (strcmp(mode, "change") == 0) {
        mode_change(o);
    } else {
        fail(EXIT_USAGE, "there is no mode %s", mode);
    }
}

int main(int argc, char **argv) {
    options o = {
        .to = {.user = "murder", .password = "murderpw", .port = 3905, .patience_s = 30},
        .connections = 1, .depth = 1, .rate = 200, .seconds = 1, .expect = -1, .seed = 1,
    };
    char stem = '\0';
    int option;
    while ((option = getopt_long(argc, argv, "H:P:u:w:c:d:n:t:", LONG, NULL)) != -1) read_option(&o, option, optarg, &stem);
    if (optind + 1 != argc || o.to.host == NULL) fail(EXIT_USAGE, "usage: mupload MODE -H ADDRESS [options]");
    const char *mode = argv[optind];
    bool of_the_set = strcmp(mode, "find") == 0 || strcmp(mode, "fill") == 0 || strcmp(mode, "await") == 0;
    records_prepare(stem != '\0' ? stem : of_the_set ? 'u' : 'w');
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    run_mode(mode, &o);
    return 0;
}
