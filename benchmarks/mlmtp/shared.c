#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "mlmtp.h"

long number_between(const char *text, long least, long most) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value < least || value > most)
        fail(EXIT_USAGE, "%s is not between %ld and %ld", text, least, most);
    return value;
}

place place_parse(const char *text) {
    place found = {.size = sizeof(struct sockaddr_in)};
    char host[64];
    const char *colon = strrchr(text, ':');
    size_t length = colon == NULL ? 0 : (size_t)(colon - text);
    if (length == 0 || length >= sizeof host) fail(EXIT_USAGE, "%s is not ADDRESS:PORT", text);
    memcpy(host, text, length);
    host[length] = '\0';
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number_between(colon + 1, 1, 65535))};
    if (inet_pton(AF_INET, host, &in.sin_addr) != 1) fail(EXIT_USAGE, "%s is no IPv4 address", host);
    memcpy(&found.at, &in, sizeof in);
    return found;
}

counters *counters_map(const char *path, bool create) {
    size_t size = MAX_LISTENERS * sizeof(counters);
    int file = open(path, create ? O_RDWR | O_CREAT | O_TRUNC : O_RDONLY, 0600);
    if (file < 0 || (create && ftruncate(file, (off_t)size) != 0)) fail(EXIT_USAGE, "%s: %s", path, strerror(errno));
    void *memory = mmap(NULL, size, create ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) fail(EXIT_USAGE, "%s: %s", path, strerror(errno));
    close(file);
    return memory;
}

void stay_on(long cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) fail(EXIT_USAGE, "there is no CPU %ld", cpu);
}

void watch(int epoll, int how, int fd, uint32_t events, void *of) {
    struct epoll_event event = {.events = events, .data.ptr = of};
    if (epoll_ctl(epoll, how, fd, &event) != 0) fail(EXIT_WRONG, "epoll_ctl: %s", strerror(errno));
}

uint64_t hash_add(uint64_t hash, const char *data, size_t length) {
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)data[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* The offset of the first LF with a dot behind it, or `length`. */
static size_t lf_dot(const char *data, size_t length) {
    size_t at = 0;
#ifdef __SSE2__
    const __m128i lf = _mm_set1_epi8('\n'), dot = _mm_set1_epi8('.');
    for (; at + 17 <= length; at += 16) {
        __m128i here = _mm_loadu_si128((const __m128i *)(const void *)(data + at));
        __m128i next = _mm_loadu_si128((const __m128i *)(const void *)(data + at + 1));
        int both = _mm_movemask_epi8(_mm_and_si128(_mm_cmpeq_epi8(here, lf), _mm_cmpeq_epi8(next, dot)));
        if (both != 0) return at + (size_t)__builtin_ctz((unsigned)both);
    }
#endif
    for (; at + 1 < length; at++)
        if (data[at] == '\n' && data[at + 1] == '.') return at;
    return length;
}

static int step(int matched, char byte) {
    static const char TERMINATOR[] = "\r\n.\r\n";
    return byte == TERMINATOR[matched] ? matched + 1 : byte == '\r' ? 1 : 0;
}

size_t message_end(const char *data, size_t length, int *matched) {
    int so_far = *matched;
    size_t at = 0;
    while (at < length && so_far != WHOLE) {
        if (so_far != 0) {
            so_far = step(so_far, data[at++]);
            continue;
        }
        size_t found = at + lf_dot(data + at, length - at);
        if (found == length) { /* what the chunk ends with decides how the next one begins */
            size_t last = length - at > 2 ? length - 2 : at;
            for (at = last; at < length; at++) so_far = step(so_far, data[at]);
        } else {
            so_far = found > at && data[found - 1] == '\r' ? AFTER_CRLF + 1 : 0;
            at = found + 2;
        }
    }
    *matched = so_far;
    return at;
}
