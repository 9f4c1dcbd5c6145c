/* failpoint.c - die or stop at a named step (test builds only).
 *
 * CYREXT_FAILPOINT=name[:n]      kill this process with SIGKILL at the n-th (first) time it comes by
 * CYREXT_FAILPOINT_ARM=path      the same while it runs: once a file of this path says "name kill" or "name stop", it is
 *                                removed and the process gets SIGKILL or SIGSTOP at its next time by
 * CYREXT_FAILPOINT_LOG=path      append each name that is passed, one per line, so that a test can tell which exist
 */
#ifdef CYX_FAILPOINTS
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"

static void log_pass(const char *path, const char *name, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    if (write(fd, name, len) < 0 || write(fd, "\n", 1) < 0)
        abort();
    (void)close(fd);
}

/* The signal that the file at path asks for at this point, 0 for none. */
static int armed(const char *path, const char *name, size_t len)
{
    char text[64];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    (void)close(fd);
    if (got < 0)
        return 0;
    text[got] = 0;
    if (strncmp(text, name, len) != 0)
        return 0;
    int number = strcmp(text + len, " kill") == 0 ? SIGKILL : strcmp(text + len, " stop") == 0 ? SIGSTOP : 0;
    return number && unlink(path) == 0 ? number : 0;
}

void cyx_failpoint(const char *name)
{
    static unsigned long hits;
    const char *log = getenv("CYREXT_FAILPOINT_LOG");
    const char *arm = getenv("CYREXT_FAILPOINT_ARM");
    const char *wanted = getenv("CYREXT_FAILPOINT");
    size_t len = strlen(name);
    if (log)
        log_pass(log, name, len);
    int number = arm ? armed(arm, name, len) : 0;
    if (number)
        (void)kill(getpid(), number);
    if (!wanted || strncmp(wanted, name, len) != 0 || (wanted[len] && wanted[len] != ':'))
        return;
    unsigned long turn = wanted[len] ? strtoul(wanted + len + 1, NULL, 10) : 1;
    if (++hits == turn)
        (void)kill(getpid(), SIGKILL);
}
#else
typedef int cyx_no_failpoints; /* an empty translation unit is no C */
#endif
