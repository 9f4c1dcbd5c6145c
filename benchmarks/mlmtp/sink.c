/* mlmtp-sink: an LMTP server that takes every message, counts it and forgets it.
 *
 *     mlmtp-sink --counters FILE [--cpu N] ADDRESS:PORT...
 *
 * Says "ready" when it listens; ends with its standard input.  One thread.  It knows what proxies say to a backend: LHLO,
 * EHLO, MAIL, RCPT, DATA, RSET, NOOP, QUIT and AUTH with an initial response, and takes whatever stands behind them.  The
 * counters of the n-th address are the n-th of FILE (mlmtp.h).  A line "check HASH" on standard input is answered with
 * "ready"; from then on everything behind a header is hashed, and a message with another hash is counted as such, until
 * "check 0".  It costs time.
 */
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "mlmtp.h"

enum { READ_SIZE = 256 * 1024, LINE_SIZE = 4096, REPLY_SIZE = 16 * 1024, MAX_EVENTS = 512 };

typedef struct connection {
    int fd, listener;
    bool in_data, gone;
    int matched, header; /* of CRLF.CRLF, of the header's CRLFCRLF */
    unsigned recipients;
    uint64_t bytes, hash;
    size_t held; /* of a line that has not ended */
    char line[LINE_SIZE];
    char *reply; /* what the socket did not take */
    size_t reply_length;
} connection;

static int epoll;
static counters *count;
static uint64_t wanted_hash;
static bool check;
static char input[READ_SIZE], reply[READ_SIZE];
static size_t reply_length;

#define ADD(counter, n) __atomic_store_n(&(counter), (counter) + (n), __ATOMIC_RELAXED)

static void say(const char *text, size_t length) {
    if (reply_length + length > sizeof reply) fail(EXIT_WRONG, "too many commands at once");
    memcpy(reply + reply_length, text, length);
    reply_length += length;
}
#define SAY(text) say(text, sizeof(text) - 1)

static void drop(connection *c) {
    close(c->fd);
    free(c->reply);
    free(c);
}

static int listen_at(const char *text) {
    place at = place_parse(text);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, (struct sockaddr *)&at.at, at.size) != 0 || listen(fd, 1024) != 0)
        fail(EXIT_WRONG, "%s: %s", text, strerror(errno));
    return fd;
}

static void take_clients(int listening, int listener) {
    for (;;) {
        int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
        if (fd < 0) return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connection *c = take_memory(1, sizeof *c);
        c->fd = fd;
        c->listener = listener;
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, c);
        ADD(count[listener].connections, 1);
        static const char GREETING[] = "220 sink LMTP ready\r\n";
        if (send(fd, GREETING, sizeof GREETING - 1, MSG_NOSIGNAL) < 0) continue; /* its end is seen by reading */
    }
}

static bool is(const char *line, const char *verb) { return strncasecmp(line, verb, 4) == 0; }

static void command(connection *c, const char *line, size_t length) {
    if (length < 4) {
        SAY("500 5.5.2 What?\r\n");
    } else if (is(line, "RCPT")) {
        c->recipients++;
        SAY("250 2.1.5 Recipient ok\r\n");
    } else if (is(line, "MAIL")) {
        c->recipients = 0;
        SAY("250 2.1.0 Sender ok\r\n");
    } else if (is(line, "DATA")) {
        if (c->recipients == 0) {
            SAY("503 5.5.1 No recipients\r\n");
            return;
        }
        c->in_data = true;
        c->matched = c->header = AFTER_CRLF;
        c->bytes = 0;
        c->hash = HASH_START;
        SAY("354 Go ahead\r\n");
    } else if (is(line, "LHLO") || is(line, "EHLO")) {
        SAY("250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-AUTH PLAIN\r\n250 SIZE\r\n");
    } else if (is(line, "RSET") || is(line, "NOOP")) {
        SAY("250 2.0.0 Ok\r\n");
    } else if (is(line, "AUTH")) {
        SAY("235 2.7.0 Welcome\r\n");
    } else if (is(line, "QUIT")) {
        c->gone = true;
        SAY("221 2.0.0 Bye\r\n");
    } else {
        SAY("500 5.5.1 No such command\r\n");
    }
}

/* What is told on standard input; false at its end. */
static bool take_order(void) {
    char order[64];
    ssize_t got = read(STDIN_FILENO, order, sizeof order - 1);
    if (got <= 0) return false;
    order[got] = '\0';
    if (strncmp(order, "check ", 6) != 0) fail(EXIT_USAGE, "expected \"check HASH\", got %s", order);
    wanted_hash = strtoull(order + 6, NULL, 16);
    check = wanted_hash != 0;
    puts("ready");
    fflush(stdout);
    return true;
}

static void hash_body(connection *c, const char *data, size_t length) {
    static const char END[] = "\r\n\r\n";
    size_t at = 0;
    for (; at < length && c->header < 4; at++)
        c->header = data[at] == END[c->header] ? c->header + 1 : data[at] == '\r' ? 1 : 0;
    c->hash = hash_add(c->hash, data + at, length - at);
}

static size_t take_body(connection *c, const char *data, size_t length) {
    size_t took = message_end(data, length, &c->matched);
    if (check) hash_body(c, data, took);
    c->bytes += took;
    if (c->matched == WHOLE) {
        counters *mine = &count[c->listener];
        if (check && c->hash != wanted_hash) ADD(mine->other, 1);
        ADD(mine->messages, 1);
        ADD(mine->bytes, c->bytes);
        for (; c->recipients > 0; c->recipients--) {
            ADD(mine->recipients, 1);
            SAY("250 2.1.5 Delivered\r\n");
        }
        c->in_data = false;
    }
    return took;
}

static size_t take_line(connection *c, const char *data, size_t length) {
    const char *end = memchr(data, '\n', length);
    size_t took = end == NULL ? length : (size_t)(end - data) + 1;
    if (c->held == 0 && end != NULL) {
        command(c, data, took);
        return took;
    }
    if (c->held + took > sizeof c->line) fail(EXIT_WRONG, "a line of more than %d bytes", LINE_SIZE);
    memcpy(c->line + c->held, data, took);
    c->held += took;
    if (end != NULL) {
        command(c, c->line, c->held);
        c->held = 0;
    }
    return took;
}

static void answer(connection *c) {
    if (reply_length == 0 || c->reply_length != 0) return;
    ssize_t sent = send(c->fd, reply, reply_length, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        c->gone = true;
        return;
    }
    size_t went = sent < 0 ? 0 : (size_t)sent;
    if (went == reply_length) return;
    c->reply_length = reply_length - went;
    c->reply = take_memory(1, c->reply_length);
    memcpy(c->reply, reply + went, c->reply_length);
    watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLOUT, c);
}

/* The client reads again: nothing more is read from it before it has taken all replies. */
static void answer_rest(connection *c) {
    ssize_t sent = send(c->fd, c->reply, c->reply_length, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) {
        drop(c);
        return;
    }
    c->reply_length -= (size_t)sent;
    memmove(c->reply, c->reply + sent, c->reply_length);
    if (c->reply_length != 0) return;
    free(c->reply);
    c->reply = NULL;
    watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
}

static void take_input(connection *c) {
    ssize_t got = recv(c->fd, input, sizeof input, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        drop(c);
        return;
    }
    reply_length = 0;
    for (size_t at = 0; at < (size_t)got && !c->gone;)
        at += c->in_data ? take_body(c, input + at, (size_t)got - at) : take_line(c, input + at, (size_t)got - at);
    answer(c);
    if (c->gone) drop(c);
}

static void serve(const connection *listeners, const int *sockets, int how_many) {
    struct epoll_event events[MAX_EVENTS];
    for (;;) {
        int ready = epoll_wait(epoll, events, MAX_EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            connection *c = events[i].data.ptr;
            if (c == NULL) {
                if (!take_order()) return;
            } else if (c >= listeners && c < listeners + how_many) take_clients(sockets[c - listeners], c->listener);
            else if (c->reply_length != 0) answer_rest(c);
            else take_input(c);
        }
    }
}

int main(int argc, char **argv) {
    static const struct option LONG[] = {{"counters", required_argument, NULL, 'f'},
                                         {"cpu", required_argument, NULL, 'c'},
                                         {NULL, 0, NULL, 0}};
    static connection listeners[MAX_LISTENERS];
    int sockets[MAX_LISTENERS], how_many = 0;
    for (int option; (option = getopt_long(argc, argv, "", LONG, NULL)) != -1;) switch (option) {
        case 'f': count = counters_map(optarg, true); break;
        case 'c': stay_on(number_between(optarg, 0, CPU_SETSIZE - 1)); break;
        default: return EXIT_USAGE;
        }
    if (count == NULL || optind == argc || argc - optind > MAX_LISTENERS)
        fail(EXIT_USAGE, "expected --counters FILE and 1 to %d times ADDRESS:PORT", MAX_LISTENERS);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    for (; optind < argc; optind++, how_many++) {
        sockets[how_many] = listen_at(argv[optind]);
        listeners[how_many].listener = how_many;
        watch(epoll, EPOLL_CTL_ADD, sockets[how_many], EPOLLIN, &listeners[how_many]);
    }
    watch(epoll, EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN, NULL);
    puts("ready");
    fflush(stdout);
    serve(listeners, sockets, how_many);
    return 0;
}
