/* env.c - one LMDB environment per file and process, counted; who may open it; what is checked before.
 *
 * LMDB maps the file and follows what it finds there.  So what would make it divide by zero or read behind the end of
 * the file (a bus error) is checked here first; the writer keeps the file as long as its last page says (writer.c).
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static cyx_env *registry;
static unsigned generation;

static void before_fork(void) { (void)pthread_mutex_lock(&registry_lock); }
static void after_fork_parent(void) { (void)pthread_mutex_unlock(&registry_lock); }

/* The child must not touch the parent's environments, not even to close them: that would free the parent's reader
 * slots.  They are left behind and the handles open the file anew. */
static void after_fork_child(void)
{
    registry = NULL;
    __atomic_add_fetch(&generation, 1, __ATOMIC_RELEASE);
    (void)pthread_mutex_unlock(&registry_lock);
}

static void prepare(void) { (void)pthread_atfork(before_fork, after_fork_parent, after_fork_child); }

void cyx_env_lock_registry(void) { (void)pthread_mutex_lock(&registry_lock); }
void cyx_env_unlock_registry(void) { (void)pthread_mutex_unlock(&registry_lock); }

unsigned cyx_fork_generation(void) { return __atomic_load_n(&generation, __ATOMIC_ACQUIRE); }

typedef struct paths {
    char store[PATH_MAX - 32], data[PATH_MAX], lock[PATH_MAX], writer[PATH_MAX];
} paths;

static int make_paths(const char *state_dir, paths *p)
{
    int n = snprintf(p->store, sizeof p->store, "%s/store", state_dir);
    if (n < 0 || (size_t)n >= sizeof p->store)
        return cyx_fail(CYX_EINVAL, "the path of the store is too long");
    (void)snprintf(p->data, sizeof p->data, "%s/data.mdb", p->store);
    (void)snprintf(p->lock, sizeof p->lock, "%s/lock.mdb", p->store);
    (void)snprintf(p->writer, sizeof p->writer, "%s/writer.lock", p->store);
    return CYX_OK;
}

/* LMDB's meta page as liblmdb 0.9 writes it. */
typedef struct meta_db {
    uint32_t pad; /* of the first one: page size */
    uint16_t flags, depth;
    size_t pages[3], entries, root;
} meta_db;

typedef struct meta_page {
    size_t number;
    uint16_t pad, flags, lower, upper;
    uint32_t magic, version;
    void *address;
    size_t map_size;
    meta_db dbs[2];
    size_t last_page, txn;
} meta_page;

static bool usable_page_size(size_t size) { return size >= 512 && size <= 65536 && (size & (size - 1)) == 0; }

int cyx_check_file(const char *path, bool *empty_r)
{
    meta_page meta[2];
    struct stat st;
    int rc = CYX_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cyx_fail_mdb(errno, path);
    ssize_t got = pread(fd, &meta[0], sizeof meta[0], 0);
    size_t page_size = got == (ssize_t)sizeof meta[0] ? meta[0].dbs[0].pad : 0;
    *empty_r = got == 0;
    if (got == 0)
        goto done;
    if (got != (ssize_t)sizeof meta[0] || meta[0].magic != 0xBEEFC0DEu) {
        rc = cyx_fail(CYX_ECORRUPT, "%s is not an LMDB file", path);
    } else if (meta[0].version != 1) {
        rc = cyx_fail(CYX_EVERSION, "%s has LMDB data version %u, this version opens 1", path, meta[0].version);
    } else if (!usable_page_size(page_size) ||
               pread(fd, &meta[1], sizeof meta[1], (off_t)page_size) != (ssize_t)sizeof meta[1] ||
               meta[1].magic != 0xBEEFC0DEu || meta[1].version != 1 || meta[1].dbs[0].pad != page_size) {
        rc = cyx_fail(CYX_ECORRUPT, "%s: a meta page is damaged", path);
    } else if (fstat(fd, &st) < 0) {
        rc = cyx_fail_mdb(errno, path);
    } else {
        const meta_page *newest = &meta[meta[1].txn > meta[0].txn];
        size_t pages = (size_t)st.st_size / page_size;
        if (newest->last_page >= pages)
            rc = cyx_fail(CYX_ECORRUPT, "%s is cut off: %zu pages of %zu", path, pages, newest->last_page + 1);
        else if (newest->map_size / page_size <= newest->last_page || newest->map_size > CYX_MAP_MAX)
            rc = cyx_fail(CYX_ECORRUPT, "%s: a meta page is damaged", path);
    }
done:
    (void)close(fd);
    return rc;
}

static int open_databases(cyx_env *env, bool create)
{
    MDB_txn *txn = NULL;
    MDB_stat main_stat;
    int rc = mdb_txn_begin(env->mdb, NULL, create ? 0 : MDB_RDONLY, &txn);
    if (rc)
        return cyx_fail_mdb(rc, "opening the store");
    int code = CYX_OK;
    bool fresh = false;
    rc = mdb_dbi_open(txn, "meta", 0, &env->meta);
    if (rc == MDB_NOTFOUND && create) {
        MDB_dbi main_dbi;
        rc = mdb_dbi_open(txn, NULL, 0, &main_dbi);
        if (!rc)
            rc = mdb_stat(txn, main_dbi, &main_stat);
        if (!rc && main_stat.ms_entries)
            code = cyx_fail(CYX_ECORRUPT, "the LMDB file in the place of the store is something else");
        fresh = true;
    } else if (rc == MDB_NOTFOUND) {
        code = cyx_fail(CYX_EUNAVAIL, "the store is being created");
    } else if (!rc) {
        code = cyx_check_format(txn, env->meta);
        if (code == CYX_ABSENT)
            code = cyx_fail(CYX_ECORRUPT, "the store has no format version");
    }
    if (code == CYX_OK && (!rc || rc == MDB_NOTFOUND)) {
        unsigned flags = fresh ? MDB_CREATE : 0;
        if ((rc = mdb_dbi_open(txn, "meta", flags, &env->meta)) == 0 &&
            (rc = mdb_dbi_open(txn, "mailboxes", flags, &env->mailboxes)) == 0 &&
            (rc = mdb_dbi_open(txn, "by_server", flags, &env->by_server)) == 0 &&
            (rc = mdb_dbi_open(txn, "tombstones", flags, &env->tombstones)) == 0)
            rc = mdb_dbi_open(txn, "changes", flags, &env->changes);
        if (!rc && fresh && (code = cyx_meta_put64(txn, env->meta, "format", CYX_FORMAT)) == CYX_OK)
            code = cyx_meta_put64(txn, env->meta, "seq", 0);
        if (!rc && fresh && code == CYX_OK)
            code = cyx_give_id(txn, env->meta);
    }
    if (!rc && code == CYX_OK) {
        CYX_FAILPOINT("create-before");
        rc = mdb_txn_commit(txn); /* a read transaction too: this is what keeps the handles */
        return rc ? cyx_fail_mdb(rc, "opening the store") : CYX_OK;
    }
    mdb_txn_abort(txn);
    return code != CYX_OK ? code : cyx_fail_mdb(rc, "opening the store");
}

/* Directory setgid and lock file writable for the group: readers of other uids register themselves in it. */
static int set_modes(const paths *p, const char *group_name)
{
    gid_t gid = (gid_t)-1;
    if (group_name && *group_name) {
        struct group group, *found = NULL;
        char buffer[16384];
        int rc = getgrnam_r(group_name, &group, buffer, sizeof buffer, &found);
        if (rc || !found)
            return cyx_fail(CYX_EUNAVAIL, "there is no group %s (reader_group)", group_name);
        gid = found->gr_gid;
    }
    struct stat st;
    if (stat(p->store, &st) < 0)
        return cyx_fail_mdb(errno, p->store);
    if (st.st_uid != geteuid() && geteuid() != 0)
        return CYX_OK; /* not ours to change */
    const struct {
        const char *path;
        mode_t mode;
    } wanted[] = {{p->data, CYX_DATA_MODE}, {p->lock, CYX_LOCK_MODE}, {p->store, CYX_STORE_MODE}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (gid != (gid_t)-1 && chown(wanted[i].path, (uid_t)-1, gid) < 0)
            return cyx_fail(CYX_EUNAVAIL, "can not give %s to group %s", wanted[i].path, group_name);
        if (chmod(wanted[i].path, wanted[i].mode) < 0)
            return cyx_fail_mdb(errno, wanted[i].path);
    }
    return CYX_OK;
}

static int make_directory(const char *state_dir, const paths *p)
{
    if (mkdir(state_dir, 0755) == 0)
        (void)chmod(state_dir, 0755); /* whatever the umask */
    else if (errno != EEXIST)
        return cyx_fail_mdb(errno, state_dir);
    if (mkdir(p->store, 0750) < 0 && errno != EEXIST)
        return cyx_fail_mdb(errno, p->store);
    return CYX_OK;
}

/* Give the lock file its blocks before LMDB maps it: LMDB leaves a hole, and storing to one on a full disk ends the
   process, the node's at its start or a reader's when it takes a slot that nobody had before.  Only while this process
   does not have the file open: closing it drops the locks.  A file that is there keeps its size, for others map it so. */
static int reserve_lock(const paths *p)
{
    struct stat st;
    int fd = open(p->lock, O_RDWR | O_CREAT | O_CLOEXEC, CYX_LOCK_MODE);
    if (fd < 0)
        return cyx_fail_mdb(errno, p->lock);
    int rc = fstat(fd, &st) < 0 ? errno : 0;
    if (!rc && (rc = posix_fallocate(fd, 0, st.st_size ? st.st_size : CYX_LOCK_SIZE)) != 0)
        (void)!ftruncate(fd, st.st_size);
    (void)close(fd);
    return rc ? cyx_fail_mdb(rc, p->lock) : CYX_OK;
}

static int open_new(const paths *p, const cyx_env_create *create, cyx_env *env)
{
    struct stat st;
    MDB_envinfo info;
    bool empty = true;
    int code = cyx_check_file(p->data, &empty);
    if (create && code == CYX_EUNAVAIL && errno == ENOENT)
        code = CYX_OK;
    else if (!create && code == CYX_OK && empty)
        code = cyx_fail(CYX_EUNAVAIL, "the store is being created");
    if (code)
        return code;
    env->writable = create || faccessat(AT_FDCWD, p->data, W_OK, AT_EACCESS) == 0;
    bool lock_missing = access(p->lock, F_OK) < 0;
    if (create && (code = reserve_lock(p)) != CYX_OK)
        return code;
    unsigned flags = MDB_NOTLS | (env->writable ? 0u : MDB_RDONLY);
    int rc;
    if ((rc = mdb_env_create(&env->mdb)) || (rc = mdb_env_set_maxdbs(env->mdb, 16)) ||
        (rc = mdb_env_set_maxreaders(env->mdb, CYX_READERS_MAX)) ||
        (create && (rc = mdb_env_set_mapsize(env->mdb, create->map_size))) ||
        (rc = mdb_env_open(env->mdb, p->store, flags, CYX_DATA_MODE)) || (rc = mdb_env_info(env->mdb, &info)))
        return cyx_fail_mdb(rc, p->store);
    if (create && info.me_mapsize < create->map_size)
        return cyx_fail(CYX_EBUSY, "the store was opened with a smaller map by this process");
    MDB_stat stat_of_main;
    if ((rc = mdb_env_stat(env->mdb, &stat_of_main)))
        return cyx_fail_mdb(rc, p->store);
    env->page_size = stat_of_main.ms_psize;
    if (create) {
        code = set_modes(p, create->reader_group);
    } else if (lock_missing && geteuid() == 0 && stat(p->data, &st) == 0) {
        (void)!chown(p->lock, st.st_uid, st.st_gid); /* the node, not root, has to be able to use it */
        (void)chmod(p->lock, CYX_LOCK_MODE);
    }
    return code ? code : open_databases(env, create != NULL);
}

int cyx_env_open(const char *state_dir, const cyx_env_create *create, cyx_env **env_r)
{
    struct stat st;
    paths p;
    int code = make_paths(state_dir, &p);
    if (code)
        return code;
    (void)pthread_once(&once, prepare);
    (void)pthread_mutex_lock(&registry_lock);
    if (create)
        code = make_directory(state_dir, &p);
    if (code == CYX_OK && stat(p.data, &st) == 0) {
        for (cyx_env *env = registry; env; env = env->next) {
            if (env->dev != st.st_dev || env->ino != st.st_ino)
                continue;
            if (create && !env->writable) {
                code = cyx_fail(CYX_EUNAVAIL, "this process has the store open for reading and may not write it");
            } else if (!create || (code = set_modes(&p, create->reader_group)) == CYX_OK) {
                env->refs++;
                *env_r = env;
            }
            goto done;
        }
    }
    if (code)
        goto done;
    cyx_env *env = calloc(1, sizeof *env);
    if (!env) {
        code = cyx_fail(CYX_ENOMEM, "out of memory");
        goto done;
    }
    code = open_new(&p, create, env);
    int fd = -1;
    if (code == CYX_OK && (mdb_env_get_fd(env->mdb, &fd) || fstat(fd, &st) < 0))
        code = cyx_fail(CYX_EIO, "can not examine the open store");
    if (code) {
        if (env->mdb)
            mdb_env_close(env->mdb);
        free(env);
        goto done;
    }
    env->dev = st.st_dev;
    env->ino = st.st_ino;
    env->uid = st.st_uid;
    env->refs = 1;
    env->next = registry;
    registry = env;
    *env_r = env;
done:
    (void)pthread_mutex_unlock(&registry_lock);
    return code;
}

cyx_env *cyx_env_retain(cyx_env *env)
{
    (void)pthread_mutex_lock(&registry_lock);
    env->refs++;
    (void)pthread_mutex_unlock(&registry_lock);
    return env;
}

void cyx_env_release(cyx_env *env)
{
    (void)pthread_mutex_lock(&registry_lock);
    if (--env->refs == 0) {
        cyx_env **link = &registry;
        while (*link != env)
            link = &(*link)->next;
        *link = env->next;
        mdb_env_close(env->mdb);
        free(env);
    }
    (void)pthread_mutex_unlock(&registry_lock);
}

/* The node was started again with a larger map.  LMDB can follow when nothing else in this process uses the old one. */
bool cyx_env_follow_size(cyx_env *env)
{
    (void)pthread_mutex_lock(&registry_lock);
    bool followed = env->refs == 1 && mdb_env_set_mapsize(env->mdb, 0) == 0;
    (void)pthread_mutex_unlock(&registry_lock);
    return followed;
}

bool cyx_env_current(const cyx_env *env, const char *state_dir)
{
    struct stat st;
    paths p;
    return make_paths(state_dir, &p) == CYX_OK && stat(p.data, &st) == 0 && st.st_dev == env->dev &&
           st.st_ino == env->ino;
}

/* A lock of its own file: released by the kernel however the process ends, and not inherited by its children. */
int cyx_env_claim_writer(cyx_env *env, const char *state_dir, int *fd_r)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    paths p;
    int code = make_paths(state_dir, &p);
    if (code)
        return code;
    (void)pthread_mutex_lock(&registry_lock);
    int fd = -1;
    if (env->has_writer) {
        code = cyx_fail(CYX_EBUSY, "this process has already opened %s for writing", p.store);
    } else if ((fd = open(p.writer, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0) {
        code = cyx_fail_mdb(errno, p.writer);
    } else if (fcntl(fd, F_SETLK, &lock) < 0) {
        code = errno == EAGAIN || errno == EACCES
                   ? cyx_fail(CYX_EBUSY, "another process has %s open for writing", p.store)
                   : cyx_fail_mdb(errno, p.writer);
        (void)close(fd);
    } else {
        env->has_writer = true;
        *fd_r = fd;
    }
    (void)pthread_mutex_unlock(&registry_lock);
    return code;
}

void cyx_env_release_writer(cyx_env *env, int fd)
{
    (void)pthread_mutex_lock(&registry_lock);
    env->has_writer = false;
    (void)close(fd);
    (void)pthread_mutex_unlock(&registry_lock);
}
