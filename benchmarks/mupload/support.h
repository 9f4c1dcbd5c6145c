/* Failure, time, memory and the histogram: what the load generators share. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <stddef.h>
#include <stdint.h>

enum { EXIT_WRONG = 1, EXIT_USAGE = 2, EXIT_SILENT = 3 };

/* Say what is wrong on standard error and exit with `code`: a run with a wrong answer has no figures. */
_Noreturn void fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

uint64_t now_ns(void);
/* What this program has used itself. */
double cpu_seconds(void);
void *take_memory(size_t count, size_t size);

enum { HISTOGRAM_BUCKETS = 64 * 64 };

/* Log-linear: 64 buckets for each power of two, so that a percentile is good to 1.6 %. */
typedef struct {
    uint64_t count[HISTOGRAM_BUCKETS];
    uint64_t total, max;
} histogram;

void histogram_add(histogram *h, uint64_t ns);
/* Print `"NAME": {"count": …, "p50_us": …, …}`. */
void histogram_print(const histogram *h, const char *name);

#endif
