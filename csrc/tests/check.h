/* check.h - what every test program counts, and how it ends at the first thing that is not so. */
#ifndef CYX_TESTS_CHECK_H
#define CYX_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "cyrusext.h"

static unsigned long checks;

/* From any thread. */
#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        (void)__atomic_add_fetch(&checks, 1, __ATOMIC_RELAXED);                                              \
        if (!(condition)) {                                                                                  \
            (void)fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #condition, cyx_detail()); \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

#endif
