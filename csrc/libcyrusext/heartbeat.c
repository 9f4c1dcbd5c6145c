/* heartbeat.c - run_dir/heartbeat: the node's word that the store is up to date.
 *
 * A mapped file of 128 bytes, written in place so that readers keep their mapping over a restart of the node:
 *   0  magic      16  boot id     32  turn (odd while being written)   40  CLOCK_BOOTTIME ns   48  applied seq
 *  56  fresh      64  device of the store's file    72  its inode
 * Boot time, not wall time: it goes on in suspend and nobody can set it.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define MAGIC "CYXBEAT2" /* changes when readers of the format before would not find all names any more */
#define RETRY_NS 50000000u /* look for a new file at most this often */

struct cyx_beat {
    char magic[8];
    uint8_t unused[8];
    uint8_t boot_id[16];
    uint64_t turn, at_ns, seq, fresh, dev, ino;
    uint8_t rest[48];
};
_Static_assert(sizeof(cyx_beat) == 128, "the heartbeat file has 128 bytes");

static uint8_t boot_id[16];
static bool boot_id_known;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void read_boot_id(void)
{
    char text[64];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t got = read(fd, text, sizeof text);
    (void)close(fd);
    size_t digits = 0;
    for (ssize_t i = 0; i < got && digits < 32; i++) {
        char c = text[i];
        int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (value < 0)
            continue;
        boot_id[digits / 2] = (uint8_t)(boot_id[digits / 2] << 4 | value);
        digits++;
    }
    boot_id_known = digits == 32;
}

void cyx_boot_id(uint8_t id_r[16])
{
    (void)pthread_once(&once, read_boot_id);
    memset(id_r, 0, sizeof boot_id);
    if (boot_id_known)
        memcpy(id_r, boot_id, sizeof boot_id);
}

bool cyx_same_boot(const uint8_t id[16])
{
    (void)pthread_once(&once, read_boot_id);
    return boot_id_known && memcmp(id, boot_id, sizeof boot_id) == 0;
}

uint64_t cyx_boot_ns(void)
{
    struct timespec ts;
    if (clock_gettime(CLOCK_BOOTTIME, &ts) < 0)
        return 0;
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int map_file(cyx_heartbeat *beat, int fd, bool writable)
{
    void *at = mmap(NULL, sizeof(cyx_beat), writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return cyx_fail_mdb(errno, "mapping the heartbeat");
    cyx_heartbeat_close(beat);
    beat->map = at;
    return CYX_OK;
}

void cyx_heartbeat_close(cyx_heartbeat *beat)
{
    if (beat->map)
        (void)munmap(beat->map, sizeof *beat->map);
    beat->map = NULL;
}

static int beat_path(const char *run_dir, char path_r[PATH_MAX])
{
    int n = snprintf(path_r, PATH_MAX, "%s/heartbeat", run_dir);
    return n > 0 && n < PATH_MAX ? CYX_OK : cyx_fail(CYX_EINVAL, "the path of the run directory is too long");
}

/* Nobody else's file, nothing that is none: whoever can write it can have misses called "no". */
static bool is_ours(const struct stat *st, uid_t uid) { return S_ISREG(st->st_mode) && (st->st_uid == 0 || st->st_uid == uid); }

/* Whatever else is in its place has to go, but for a directory. */
static int clear_place(const char *path)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? CYX_OK : cyx_fail_mdb(errno, path);
    if (is_ours(&st, geteuid()))
        return CYX_OK;
    if (S_ISDIR(st.st_mode))
        return cyx_fail(CYX_EUNAVAIL, "%s is a directory: remove it", path);
    return unlink(path) == 0 ? CYX_OK : cyx_fail_mdb(errno, path);
}

int cyx_heartbeat_create(cyx_heartbeat *beat, const char *run_dir)
{
    char path[PATH_MAX];
    (void)pthread_once(&once, read_boot_id);
    int rc = beat_path(run_dir, path);
    if (rc)
        return rc;
    if (mkdir(run_dir, 0755) == 0)
        (void)chmod(run_dir, 0755);
    else if (errno != EEXIST)
        return cyx_fail_mdb(errno, run_dir);
    if ((rc = clear_place(path)))
        return rc;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (fd < 0)
        return cyx_fail_mdb(errno, path);
    /* allocate now: a hole filled later by a store to memory ends in a bus error when the disk is full */
    rc = posix_fallocate(fd, 0, sizeof(cyx_beat));
    rc = rc ? cyx_fail_mdb(rc, path) : map_file(beat, fd, true);
    if (rc == CYX_OK)
        (void)fchmod(fd, 0644);
    (void)close(fd);
    return rc;
}

#define STORE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)
#define LOAD(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

void cyx_heartbeat_write(cyx_heartbeat *beat, const cyx_env *env, uint64_t seq, bool fresh)
{
    cyx_beat *map = beat->map;
    uint64_t turn = LOAD(map->turn) | 1;
    STORE(map->turn, turn);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    memcpy(map->magic, MAGIC, sizeof map->magic);
    memcpy(map->boot_id, boot_id, sizeof boot_id);
    STORE(map->at_ns, cyx_boot_ns());
    STORE(map->seq, seq);
    STORE(map->fresh, (uint64_t)(fresh && boot_id_known));
    STORE(map->dev, (uint64_t)env->dev);
    STORE(map->ino, (uint64_t)env->ino);
    __atomic_store_n(&map->turn, turn + 1, __ATOMIC_RELEASE);
}

static bool is_fresh(const cyx_beat *map, const cyx_env *env, uint64_t max_age_ns)
{
    if (!map || !boot_id_known)
        return false;
    for (int attempt = 0; attempt < 100; attempt++) {
        uint64_t turn = __atomic_load_n(&map->turn, __ATOMIC_ACQUIRE);
        bool good = memcmp(map->magic, MAGIC, sizeof map->magic) == 0 &&
                    memcmp(map->boot_id, boot_id, sizeof boot_id) == 0 && LOAD(map->fresh) == 1 &&
                    LOAD(map->dev) == (uint64_t)env->dev && LOAD(map->ino) == (uint64_t)env->ino;
        uint64_t at = LOAD(map->at_ns);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if ((turn & 1) || LOAD(map->turn) != turn)
            continue;
        uint64_t now = cyx_boot_ns();
        return good && at <= now && now - at <= max_age_ns;
    }
    return false;
}

bool cyx_heartbeat_fresh(cyx_heartbeat *beat, const char *run_dir, const cyx_env *env, uint64_t max_age_ns)
{
    (void)pthread_once(&once, read_boot_id);
    if (is_fresh(beat->map, env, max_age_ns))
        return true;
    /* the run directory may be a new one since the node was started again */
    uint64_t now = cyx_boot_ns();
    if (beat->tried_ns && now - beat->tried_ns < RETRY_NS)
        return false;
    beat->tried_ns = now;
    char path[PATH_MAX];
    struct stat st;
    if (beat_path(run_dir, path))
        return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return false;
    bool mapped = fstat(fd, &st) == 0 && is_ours(&st, env->uid) && st.st_size >= (off_t)sizeof(cyx_beat) && map_file(beat, fd, false) == CYX_OK;
    (void)close(fd);
    return mapped && is_fresh(beat->map, env, max_age_ns);
}
