/* Modes without an event loop: connections that say nothing, the first answer after a start, changes as Cyrus' backends
 * make them (a connection each). */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "mupload.h"

enum { SMALL = 4096 };

static int still_open(connection **all, int count) {
    int open = 0;
    char byte;
    for (int index = 0; index < count; index++)
        open += recv(all[index]->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
    return open;
}

/* Open, say so, and wait for the end of standard input; a server may refuse some. */
void mode_idle(const options *o) {
    connection **all = take_memory((size_t)o->connections, sizeof(connection *));
    int count = 0;
    while (count < o->connections && (all[count] = connection_try(&o->to, o->login, SMALL, 1)) != NULL) count++;
    printf("{\"opened\": %d}\n", count);
    fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0) continue;
    printf("{\"open\": %d}\n", still_open(all, count));
}

static bool find_one(const options *o) {
    char text[4 * MAX_TEXT];
    connection *c = connection_try(&o->to, true, SMALL, 1);
    if (c == NULL) return false;
    size_t length = request_write(text, FIND, PRESENT, o->first);
    send(c->fd, text, length, MSG_NOSIGNAL);
    ssize_t got = 1;
    size_t used = 0;
    char reply[SMALL];
    while (got > 0 && memmem(reply, used, " OK ", 4) == NULL) {
        got = recv(c->fd, reply + used, sizeof reply - used, 0);
        if (got > 0) used += (size_t)got;
    }
    record r;
    record_make(&r, PRESENT, o->first);
    bool right = memmem(reply, used, r.name, r.name_length) != NULL;
    connection_close(c);
    return right;
}

/* Try until a FIND of the first record is answered; prints the monotonic clock at that moment. */
void mode_await(const options *o) {
    uint64_t deadline = now_ns() + (uint64_t)o->to.patience_s * 1000000000u;
    struct timespec pause = {.tv_nsec = 2000000};
    while (!find_one(o)) {
        if (now_ns() > deadline) fail(EXIT_SILENT, "no answer within %d s", o->to.patience_s);
        nanosleep(&pause, NULL);
    }
    printf("{\"at_s\": %.6f}\n", (double)now_ns() / 1e9);
}

/* RESERVE, ACTIVATE, LOGOUT on a connection of their own, one after the other. */
void mode_change(const options *o) {
    static histogram latency;
    char text[4 * MAX_TEXT], tag[16];
    uint64_t began = now_ns();
    for (uint32_t number = o->first; number < o->first + o->count; number++) {
        uint64_t since = now_ns();
        connection *c = connection_open(&o->to, true, SMALL, 1);
        snprintf(tag, sizeof tag, "T%0*u", DIGITS, number);
        for (kind what = RESERVE; what <= ACTIVATE; what++)
            if (!connection_ask(c, text, request_write(text, what, NEW, number), tag))
                fail(EXIT_WRONG, "no OK for record %u", number);
        connection_ask(c, "Q LOGOUT\r\n", 10, "Q");
        connection_close(c);
        histogram_add(&latency, now_ns() - since);
    }
    double seconds = (double)(now_ns() - began) / 1e9;
    printf("{\"answered\": %u, \"seconds\": %.6f, \"per_s\": %.1f, ", o->count, seconds, o->count / seconds);
    histogram_print(&latency, "latency");
    puts("}");
}
