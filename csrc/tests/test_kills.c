/* test_kills - kill -9 of the writer and of readers, at random and again and again: what is there all the time is found
 * in its place by everybody at every moment, and so is what was acknowledged before; what was never there is not, and
 * store and table agree in the end.
 */
#include <stdio.h>
#include <stdlib.h>

#include "beside.h"
#include "check.h"
#include "writer.h"

#define STAY 400u
#define COME 200u
#define NEVER 200u
#define READERS 2u
#define LIVES_MS 60u /* at most, before somebody is killed */

static char root[] = "/dev/shm/cyx-kills-XXXXXX";
static char state_dir[64], run_dir[64];

static void wrong(const char *name, const char *what)
{
    (void)fprintf(stderr, "%s: %s\n", name, what);
    _exit(1);
}

static uint32_t draw(uint64_t *seed, uint32_t below)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33) % below;
}

static void put(cyx_writer *writer, char kind, uint32_t i, uint32_t state)
{
    char name[32], server[16];
    uint64_t seq;
    int64_t at;
    (void)snprintf(name, sizeof name, "user.%c%u", kind, i);
    (void)snprintf(server, sizeof server, "be%u", i % 9);
    const cyx_put_record record = {.name = name, .name_len = strlen(name), .server = server, .server_len = 3,
                                   .partition = server, .partition_len = 3, .acl = "", .by = "", .state = state};
    CHECK(cyx_writer_put(writer, &record, &seq, &at) == CYX_OK);
}

static void fill(void)
{
    cyx_writer *writer;
    CHECK(cyx_writer_open(state_dir, run_dir, "", (size_t)1 << 30, &writer) == CYX_OK);
    CHECK(cyx_writer_begin(writer) == CYX_OK);
    for (uint32_t i = 0; i < STAY; i++)
        put(writer, 's', i, CYX_ACTIVE);
    CHECK(cyx_writer_commit(writer) == CYX_OK);
    cyx_writer_close(&writer);
}

/* What the writers tell the others; it outlives them. */
#define COMMITS 0
#define FREED 1
#define ACKNOWLEDGED 2 /* names of kind g, from 0 on */
static uint64_t told(unsigned what) { return __atomic_load_n(&beside->bounds[what], __ATOMIC_ACQUIRE); }
static void tell_more(unsigned what, uint64_t more)
{
    __atomic_store_n(&beside->bounds[what], beside->bounds[what] + more, __ATOMIC_RELEASE);
}

/* A node without an end: commits, a table now and then, its heartbeat, dead readers' slots.  It begins beside what the
 * one before has left of a table. */
static void write_on(uint64_t seed)
{
    cyx_writer *writer;
    int dead;
    if (cyx_writer_open(state_dir, run_dir, "", (size_t)1 << 30, &writer) != CYX_OK)
        wrong("writer", cyx_detail());
    for (unsigned round = 0;; round++) {
        if (round % 16 == 5 && cyx_writer_build_hot(writer) != CYX_OK)
            wrong("table", cyx_detail());
        CHECK(cyx_writer_begin(writer) == CYX_OK);
        for (unsigned n = draw(&seed, 8) + 1; n; n--) {
            put(writer, 'c', draw(&seed, COME), draw(&seed, 2) ? CYX_ACTIVE : CYX_DELETED);
            put(writer, 's', draw(&seed, STAY), CYX_ACTIVE); /* nothing that a reader could see */
        }
        put(writer, 'g', (uint32_t)told(ACKNOWLEDGED), CYX_ACTIVE);
        CHECK(cyx_writer_commit(writer) == CYX_OK);
        cyx_writer_beat(writer, true);
        CHECK(cyx_writer_check_readers(writer, &dead) == CYX_OK);
        tell_more(ACKNOWLEDGED, 1);
        tell_more(COMMITS, 1);
        tell_more(FREED, (uint64_t)dead);
    }
}

static void look_once(cyx_reader *reader, uint64_t *seed)
{
    static const char kinds[] = "scng";
    const uint32_t counts[] = {STAY, COME, NEVER, (uint32_t)told(ACKNOWLEDGED)};
    char name[32], server[16];
    cyx_location at;
    uint32_t kind = draw(seed, counts[3] ? 4 : 3);
    uint32_t last = draw(seed, 2) && kind == 3 ? 1 : counts[kind]; /* the youngest as often as all others */
    uint32_t i = counts[kind] - 1 - draw(seed, last);
    (void)snprintf(name, sizeof name, "user.%c%u", kinds[kind], i);
    (void)snprintf(server, sizeof server, "be%u", i % 9);
    int rc = draw(seed, 8) ? cyx_lookup(reader, name, strlen(name), &at) : cyx_inspect(reader, name, strlen(name), &at);
    if (rc < 0)
        wrong(name, cyx_detail());
    if (rc == CYX_OK ? kinds[kind] == 'n' : kinds[kind] == 's' || kinds[kind] == 'g')
        wrong(name, rc == CYX_OK ? "was never there, and is found" : "is there all the time, and is not found");
    if (rc == CYX_OK && (strcmp(at.server, server) != 0 || strcmp(at.partition, server) != 0 || at.state != CYX_ACTIVE))
        wrong(name, "is where it never was");
}

static void look_on(unsigned me, uint64_t seed)
{
    cyx_reader *reader;
    for (;;) {
        if (cyx_open(state_dir, &reader) != CYX_OK)
            wrong("reader", cyx_detail());
        for (unsigned n = draw(&seed, 20000) + 1; n; n--) {
            look_once(reader, &seed);
            if (n % 64 == 0)
                beside_count(me, 64);
        }
        cyx_close(&reader);
    }
}

static pid_t start(unsigned who, uint64_t seed)
{
    pid_t parent = getpid(), child = fork();
    CHECK(child >= 0);
    if (child)
        return child;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    if (who == READERS)
        write_on(seed);
    look_on(who, seed);
    _exit(1);
}

static void end(pid_t pid)
{
    int status;
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* or it had found something, and said it */
}

static void tell(void *context, const char *text)
{
    (void)context;
    (void)fprintf(stderr, "%s\n", text);
}

static void check_all(void)
{
    cyx_writer *writer;
    cyx_reader *reader;
    uint64_t findings = 0;
    CHECK(cyx_writer_open(state_dir, run_dir, "", (size_t)1 << 30, &writer) == CYX_OK);
    CHECK(cyx_writer_build_hot(writer) == CYX_OK);
    CHECK(cyx_open(state_dir, &reader) == CYX_OK);
    CHECK(cyx_verify(reader, tell, NULL, &findings) == CYX_OK && findings == 0);
    CHECK(cyx_hot_verify(reader, tell, NULL, &findings) == CYX_OK && findings == 0);
    cyx_close(&reader);
    cyx_writer_close(&writer);
}

int main(void)
{
    pid_t pids[READERS + 1];
    unsigned killed[READERS + 1] = {0};
    uint64_t seed = 20261130, writers_killed = 0;
    beside_prepare();
    CHECK(mkdtemp(root));
    (void)snprintf(state_dir, sizeof state_dir, "%s/state", root);
    (void)snprintf(run_dir, sizeof run_dir, "%s/run", root);
    fill();
    for (unsigned who = 0; who <= READERS; who++)
        pids[who] = start(who, ++seed);
    for (double until = beside_now() + beside_seconds(4); beside_now() < until || writers_killed < 15;) {
        unsigned who = draw(&seed, READERS + 2) % (READERS + 1); /* the first reader twice as often */
        (void)usleep(1000 + draw(&seed, LIVES_MS * 1000));
        end(pids[who]);
        killed[who]++;
        writers_killed = killed[READERS];
        pids[who] = start(who, ++seed);
        if (writers_killed % 8 == 7 && who == READERS) {
            end(pids[READERS]);
            check_all();
            pids[READERS] = start(READERS, ++seed);
        }
    }
    uint64_t looked = beside->looked[0] + beside->looked[1];
    for (unsigned who = 0; who <= READERS; who++)
        end(pids[who]);
    check_all();
    CHECK(killed[0] > 5 && killed[1] > 5 && looked > 10000 && told(COMMITS) > 50);
    char command[64];
    (void)snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0);
    (void)printf("%u and %u readers and %u writers killed beside %lu look-ups and %lu commits, %lu slots freed, %lu checks\n",
                 killed[0], killed[1], killed[READERS], (unsigned long)looked, (unsigned long)told(COMMITS),
                 (unsigned long)told(FREED), checks);
    return 0;
}
