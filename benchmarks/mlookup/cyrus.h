/* cyrus.h - Cyrus' own libraries, opened by name in a root that has them; their few functions are declared here. */
#ifndef CYRUS_H
#define CYRUS_H

#include "mlookup.h"

struct db;
struct txn;

/* "libcyrus.so.0" or "libcyrus_imap.so.0", after those that it needs and does not name. */
void *cyrus_library(const char *name);
/* One of its functions; ends the process where there is none. */
void *cyrus_function(void *library, const char *name);

#endif
