/* cyrus.c - open the libraries of the Cyrus that is installed where this runs. */
#include <dlfcn.h>
#include <string.h>

#include "cyrus.h"

/* What Cyrus' libraries expect of each of its programs: a name, what to do when they can not go on, and for SASL, which
 * nobody uses here, locks. */
extern const char *config_ident;
_Noreturn void fatal(const char *text, int code);
void *cyrus_mutex_alloc(void);
int cyrus_mutex_lock(void *mutex);
int cyrus_mutex_unlock(void *mutex);
void cyrus_mutex_free(void *mutex);

const char *config_ident = "mlookup";
_Noreturn void fatal(const char *text, int code) { die("libcyrus: %s (%d)", text, code); }
void *cyrus_mutex_alloc(void) { return &config_ident; }
int cyrus_mutex_lock(void *mutex) { return mutex ? 0 : -1; }
int cyrus_mutex_unlock(void *mutex) { return mutex ? 0 : -1; }
void cyrus_mutex_free(void *mutex) { (void)mutex; }

void *cyrus_library(const char *name)
{
    static const char *const all[] = {"libcyrus_min.so.0", "libcyrus.so.0", "libcyrus_sieve.so.0",
                                      "libcyrus_imap.so.0"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        void *library = dlopen(all[i], RTLD_NOW | RTLD_GLOBAL);
        if (!library)
            die("no %s: %s", all[i], dlerror());
        if (strcmp(all[i], name) == 0)
            return library;
    }
    die("%s is not one of Cyrus' libraries", name);
}

void *cyrus_function(void *library, const char *name)
{
    void *found = dlsym(library, name);
    if (!found)
        die("Cyrus' library has no %s", name);
    return found;
}
