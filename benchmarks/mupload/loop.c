/* The event loop: reads what came, cuts it into lines, hands each to its connection, sends what was put. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "mupload.h"

enum { EVENTS = 512 };

static int epoll_fd = -1, timer_fd = -1;
static uint64_t heard_at;

static void watch(int operation, connection *c) {
    struct epoll_event event = {.events = EPOLLIN | (c->waits_to_write ? (uint32_t)EPOLLOUT : 0u), .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &event) != 0) fail(EXIT_WRONG, "epoll_ctl: %s", strerror(errno));
}

static void prepare(void) {
    if (epoll_fd >= 0) return;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_fd < 0 || timer_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &event) != 0)
        fail(EXIT_WRONG, "epoll: %s", strerror(errno));
}

void loop_add(connection *c) {
    prepare();
    if (fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK) != 0) fail(EXIT_WRONG, "fcntl: %s", strerror(errno));
    watch(EPOLL_CTL_ADD, c);
}

void loop_remove(connection *c) { watch(EPOLL_CTL_DEL, c); }

void connection_flush(connection *c) {
    bool waited = c->waits_to_write;
    while (c->out_sent < c->out_used) {
        ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_used - c->out_sent, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) fail(EXIT_WRONG, "connection %d: %s", c->index, strerror(errno));
        if (sent < 0) break;
        c->out_sent += (size_t)sent;
    }
    memmove(c->out, c->out + c->out_sent, c->out_used - c->out_sent);
    c->out_used -= c->out_sent;
    c->out_sent = 0;
    c->waits_to_write = c->out_used > 0;
    if (c->waits_to_write != waited) watch(EPOLL_CTL_MOD, c);
}

/* The size of a literal announced at the end of [start, end), or -1. */
static int64_t announced(const char *start, const char *end) {
    if (end - start < 4 || end[-1] != '}' || end[-2] != '+') return -1;
    int64_t size = 0, unit = 1;
    const char *at = end - 3;
    for (; at > start && *at >= '0' && *at <= '9'; at--, unit *= 10) size += (*at - '0') * unit;
    return *at == '{' ? size : -1;
}

/* Cut one response out of [start, end); returns where the next one begins, or NULL when it is not all there. */
static const char *cut_line(const char *start, const char *end, line *l) {
    const char *at = start, *newline, *stop;
    l->parts = 0;
    for (bool first = true;; first = false) {
        newline = memchr(at, '\n', (size_t)(end - at));
        if (newline == NULL) return NULL;
        stop = newline > at && newline[-1] == '\r' ? newline - 1 : newline;
        if (first) {
            const char *blank = memchr(start, ' ', (size_t)(stop - start));
            l->tag = start;
            l->tag_length = (size_t)((blank ? blank : stop) - start);
            l->verb = blank ? blank + 1 : stop;
            const char *next = memchr(l->verb, ' ', (size_t)(stop - l->verb));
            l->verb_length = (size_t)((next ? next : stop) - l->verb);
        }
        int64_t size = announced(at, stop);
        if (size < 0) return newline + 1;
        if (end - (newline + 1) < size) return NULL;
        if (l->parts < MAX_PARTS) {
            l->part[l->parts].text = newline + 1;
            l->part[l->parts].length = (size_t)size;
            l->parts++;
        }
        at = newline + 1 + size;
    }
}

static void take_input(connection *c) {
    ssize_t got = recv(c->fd, c->in + c->in_used, c->in_size - c->in_used, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail(EXIT_WRONG, "connection %d: %s", c->index, got ? strerror(errno) : "closed by the server");
    c->in_used += (size_t)got;
    c->bytes += (uint64_t)got;
    heard_at = now_ns();
    const char *at = c->in, *end = c->in + c->in_used, *next;
    line l;
    while (at < end && (next = cut_line(at, end, &l)) != NULL) {
        if (tag_is(&l, "*")) fail(EXIT_WRONG, "connection %d: %s", c->index, line_text(&l));
        c->take(c, &l, heard_at);
        at = next;
    }
    c->in_used = (size_t)(end - at);
    memmove(c->in, at, c->in_used);
    if (c->in_used == c->in_size) fail(EXIT_WRONG, "connection %d: an endless line", c->index);
}

static void set_timer(uint64_t at) {
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at / 1000000000u), .tv_nsec = (long)(at % 1000000000u)}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

void loop_run(const peer *to, bool (*done)(void), uint64_t (*tick)(uint64_t now)) {
    struct epoll_event events[EVENTS];
    uint64_t patience = (uint64_t)to->patience_s * 1000000000u;
    prepare();
    heard_at = now_ns();
    if (tick != NULL) set_timer(tick(heard_at));
    while (!done()) {
        int count = epoll_wait(epoll_fd, events, EVENTS, 1000);
        if (count < 0 && errno != EINTR) fail(EXIT_WRONG, "epoll_wait: %s", strerror(errno));
        for (int which = 0; which < count; which++) {
            connection *c = events[which].data.ptr;
            if (c == NULL) {
                uint64_t ticks, next;
                if (read(timer_fd, &ticks, sizeof ticks) < 0) continue;
                if ((next = tick(now_ns())) != 0) set_timer(next);
                continue;
            }
            if (events[which].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) take_input(c);
            if (c->out_used > 0) connection_flush(c);
        }
        if (now_ns() - heard_at > patience)
            fail(EXIT_SILENT, "the server has said nothing for %d s, and answers are missing", to->patience_s);
    }
}
