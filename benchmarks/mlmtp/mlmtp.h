/* What the load generator and the sink share: the counters between them, the hash, the end of a message. */
#ifndef MLMTP_H
#define MLMTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "../mupload/support.h"

enum { MAX_LISTENERS = 8 };

/* One per address of the sink, in a file that both have mapped; the sink is the only writer. */
typedef struct {
    uint64_t connections; /* accepted */
    uint64_t messages;    /* ended by CRLF.CRLF and answered */
    uint64_t recipients;  /* of these messages */
    uint64_t bytes;       /* of these messages, on the wire */
    uint64_t other;       /* messages, while told to check, whose body had another hash */
} counters;

typedef struct {
    struct sockaddr_storage at;
    socklen_t size;
} place;

/* ADDRESS:PORT; ends the program when it is no such thing. */
place place_parse(const char *text);
/* The counters of MAX_LISTENERS addresses in the file at `path`; `create`: made, and empty. */
counters *counters_map(const char *path, bool create);
/* Run on one CPU from now on. */
void stay_on(long cpu);
long number_between(const char *text, long least, long most);
void watch(int epoll, int how, int fd, uint32_t events, void *of);

#define HASH_START UINT64_C(0xcbf29ce484222325)
/* FNV-1a, byte by byte. */
uint64_t hash_add(uint64_t hash, const char *data, size_t length);

enum { WHOLE = 5, AFTER_CRLF = 2 };
/* Look for CRLF.CRLF.  `matched` is how much of it the bytes before `data` have ended with, and is kept up to date;
 * WHOLE: it is there.  Returns how many bytes belong to the message, the terminator included. */
size_t message_end(const char *data, size_t length, int *matched);

#endif
