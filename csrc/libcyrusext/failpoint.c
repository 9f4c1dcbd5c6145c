/* failpoint.c - die at a named step (test builds only).
 *
 * CYREXT_FAILPOINT=name[:n]      kill this process with SIGKILL at the n-th (first) time it comes by
 * CYREXT_FAILPOINT_LOG=path      append each name that is passed, one per line, so that a test can tell which exist
 */
#ifdef CYX_FAILPOINTS
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"

void cyx_failpoint(const char *name)
{
    static unsigned long hits;
    const char *log = getenv("CYREXT_FAILPOINT_LOG");
    const char *wanted = getenv("CYREXT_FAILPOINT");
    size_t len = strlen(name);
    if (log) {
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd >= 0) {
            if (write(fd, name, len) < 0 || write(fd, "\n", 1) < 0)
                abort();
            (void)close(fd);
        }
    }
    if (!wanted || strncmp(wanted, name, len) != 0 || (wanted[len] && wanted[len] != ':'))
        return;
    unsigned long turn = wanted[len] ? strtoul(wanted + len + 1, NULL, 10) : 1;
    if (++hits == turn)
        (void)kill(getpid(), SIGKILL);
}
#else
typedef int cyx_no_failpoints; /* an empty translation unit is no C */
#endif
