/* check_store.c - the file of a store that nobody writes. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "structure.h"

/* A writer gets its lock when the store is complete. */
static bool was_complete(const char *state_dir)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/store/writer.lock", state_dir);
    return n < 0 || (size_t)n >= sizeof path || access(path, F_OK) == 0;
}

/* A store that died while it was made for the first time: nothing was ever in it. */
static bool never_begun(const cyx_image *image, const char *state_dir)
{
    if (was_complete(state_dir))
        return false;
    for (uint64_t at = 0; at < image->pages; at++) {
        cyx_meta_page meta;
        if (at > 1)
            return false;
        memcpy(&meta, cyx_page(image, at) + CYX_PAGE_HEAD, sizeof meta);
        if (meta.txn)
            return false;
    }
    return image->size == image->pages * image->page_size;
}

int cyx_check_store(const char *state_dir, cyx_finding_cb report, void *context, uint64_t *findings_r)
{
    char path[PATH_MAX];
    cyx_image image;
    cyx_structure structure;
    *findings_r = 0;
    int n = snprintf(path, sizeof path, "%s/store/data.mdb", state_dir);
    if (n < 0 || (size_t)n >= sizeof path)
        return cyx_fail(CYX_EINVAL, "the path of the store is too long");
    int rc = cyx_image_open(&image, path);
    if (rc == CYX_EUNAVAIL && errno == ENOENT)
        return was_complete(state_dir) ? cyx_fail(CYX_EUNAVAIL, "%s is gone: put it back, or move the directory away and begin a "
                                                                "refill (cyrusext refill begin)", path) : CYX_ABSENT;
    if (rc)
        return rc;
    if (never_begun(&image, state_dir)) {
        cyx_image_close(&image);
        return CYX_ABSENT;
    }
    rc = cyx_structure_check(&image, 0, report, context, &structure);
    *findings_r = structure.findings;
    cyx_structure_free(&structure);
    cyx_image_close(&image);
    return rc;
}
