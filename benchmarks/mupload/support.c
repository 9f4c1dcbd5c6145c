/* Failure, time, memory and the histogram. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "support.h"

void fail(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(code);
}

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

void *take_memory(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL) fail(EXIT_WRONG, "no memory");
    return memory;
}

/* Values below 64 have a bucket each; above, the leading six bits below the top one choose among 64. */
static unsigned bucket_of(uint64_t ns) {
    if (ns < 64) return (unsigned)ns;
    unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - 6u;
    return (shift + 1u) * 64u + (unsigned)((ns >> shift) & 63u);
}

static uint64_t bucket_value(unsigned bucket) {
    if (bucket < 64) return bucket;
    unsigned shift = bucket / 64u - 1u;
    return ((uint64_t)(64u + bucket % 64u) << shift) + ((UINT64_C(1) << shift) >> 1);
}

void histogram_add(histogram *h, uint64_t ns) {
    h->count[bucket_of(ns)]++;
    h->total++;
    if (ns > h->max) h->max = ns;
}

static double percentile_us(const histogram *h, double part) {
    uint64_t wanted = (uint64_t)((double)h->total * part), seen = 0;
    for (unsigned bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
        seen += h->count[bucket];
        if (seen > wanted) {
            uint64_t value = bucket_value(bucket);
            return (double)(value < h->max ? value : h->max) / 1e3;
        }
    }
    return (double)h->max / 1e3;
}

void histogram_print(const histogram *h, const char *name) {
    printf("\"%s\": {\"count\": %llu, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}", name,
           (unsigned long long)h->total, percentile_us(h, 0.5), percentile_us(h, 0.9), percentile_us(h, 0.99),
           (double)h->max / 1e3);
}
