/* mlmtp-load: the load generator of the LMTP benchmarks.
 *
 *     mlmtp-load --to ADDRESS:PORT --counters FILE [options]
 *
 * Each of its connections sends one message after the other: MAIL, all RCPT and DATA in one write, the body when there is
 * a 354, the next message when there is a reply for every recipient.  Every reply must have the code that is due; then it
 * prints one line of JSON.  Exit codes: 0; 1 a wrong reply, a connection that was closed, or another number of recipients
 * at the sink than were answered 250; 2 usage; 3 silence for --patience seconds.
 *
 * Options (defaults)
 *   -c, --connections (1)   -r, --recipients (1)  of a message, one user after the other
 *   -s, --size (4096)       bytes of the message, header included, dots stuffed
 *   --new                   a connection for each message, its QUIT is answered before the next
 *   --smtp                  EHLO, and one reply for a whole message
 *   -t, --seconds (1)       measure this long, after --warm (0.2) seconds of the same; or
 *   -n, --messages N        send so many, and measure until all of them are at the sink
 *   --usage FILE            "usage_usec N" in it is read at both ends of what is measured
 *   --users (1000)          users u0000000, u0000001, …@example.org
 *   --patience (60)         --cpu N  run on this CPU only
 *
 * What is measured begins and ends while all connections are busy; they then finish their messages.  A message's latency
 * is from its MAIL (--new: from connect) to its last reply; a histogram, 1.6 %.  One thread.
 */
#include <errno.h>
#include <fcntl.h>
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

enum { INPUT_SIZE = 16 * 1024, MAX_EVENTS = 512, LINE_LENGTH = 76, RECIPIENT_SIZE = 40 };
enum { MEGA = 1000000 };

typedef enum { GREETING, HELLO, ENVELOPE, FINAL, QUIT, CLOSED } phase;

typedef struct {
    int fd;
    phase at;
    unsigned due;      /* replies that this phase still wants */
    uint64_t since;    /* when this message began */
    const char *out;   /* what is still to be sent */
    size_t out_length;
    bool waits_for_room;
    char *envelope;
    size_t held;
    char input[INPUT_SIZE];
} connection;

typedef struct {
    uint64_t messages, answered;
} totals;

static struct {
    place to;
    const char *usage;
    long connections, recipients, size, users, patience_s, messages;
    double seconds, warm_s;
    bool fresh, smtp;
} options = {.connections = 1, .recipients = 1, .size = 4096, .users = 1000, .patience_s = 60, .seconds = 1, .warm_s = 0.2};

static int epoll, open_connections;
static const counters *sink;
static char *body;
static size_t body_length;
static uint64_t body_hash, next_user, begun;
static histogram latencies;
static totals so_far;
static bool measuring, ending;

/* -- what is sent ---------------------------------------------------------------------------------------------------- */

static void make_body(void) {
    static const char HEADER[] = "From: <a@example.net>\r\nTo: <u@example.org>\r\nSubject: a load\r\n"
                                 "Message-ID: <load@example.net>\r\nDate: Tue, 24 Nov 2026 05:00:00 +0000\r\n\r\n";
    body_length = (size_t)options.size + 3;
    body = take_memory(1, body_length + LINE_LENGTH + 2);
    size_t at = sizeof HEADER - 1;
    memcpy(body, HEADER, at);
    while (at < (size_t)options.size - 2) {
        size_t rest = (size_t)options.size - 2 - at, text = rest < LINE_LENGTH ? rest : LINE_LENGTH;
        if (rest - text < 4) text = rest; /* the end of the line fits, too */
        for (size_t i = 0; i < text; i++) body[at + i] = (char)('A' + (at + i) % 26);
        at += text;
        if (at < (size_t)options.size - 2) {
            memcpy(body + at, "\r\n", 2);
            at += 2;
        }
    }
    memcpy(body + at, "\r\n.\r\n", 5);
    body_length = at + 5;
    body_hash = hash_add(HASH_START, body + sizeof HEADER - 1, body_length - (sizeof HEADER - 1));
}

static void want_room(connection *c, bool wanted) {
    if (c->waits_for_room == wanted) return;
    c->waits_for_room = wanted;
    watch(epoll, EPOLL_CTL_MOD, c->fd, wanted ? EPOLLIN | EPOLLOUT : EPOLLIN, c);
}

static void send_out(connection *c) {
    while (c->out_length > 0) {
        ssize_t sent = send(c->fd, c->out, c->out_length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) break;
        if (sent < 0) fail(EXIT_WRONG, "sending: %s", strerror(errno));
        c->out += sent;
        c->out_length -= (size_t)sent;
    }
    want_room(c, c->out_length > 0);
}

static void start_sending(connection *c, const char *text, size_t length, phase at, unsigned due) {
    c->out = text;
    c->out_length = length;
    c->at = at;
    c->due = due;
    send_out(c);
}

static void send_envelope(connection *c) {
    char *end = c->envelope + sprintf(c->envelope, "MAIL FROM:<a@example.net>\r\n");
    for (long i = 0; i < options.recipients; i++, next_user++)
        end += sprintf(end, "RCPT TO:<u%07u@example.org>\r\n", (unsigned)(next_user % (uint64_t)options.users));
    end += sprintf(end, "DATA\r\n");
    if (!options.fresh) c->since = now_ns();
    start_sending(c, c->envelope, (size_t)(end - c->envelope), ENVELOPE, (unsigned)options.recipients + 2);
}

static bool none_left(void) {
    return ending || (options.messages != 0 && begun >= (uint64_t)options.messages);
}

static void next_message(connection *c) {
    if (none_left()) {
        start_sending(c, "QUIT\r\n", 6, QUIT, 1);
        return;
    }
    begun++;
    send_envelope(c);
}

static void open_connection(connection *c) {
    int on = 1;
    c->since = now_ns();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail(EXIT_WRONG, "socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&options.to.at, options.to.size) != 0 && errno != EINPROGRESS)
        fail(EXIT_WRONG, "connect: %s", strerror(errno));
    c->at = GREETING;
    c->due = 1;
    c->held = 0;
    c->waits_for_room = false;
    watch(epoll, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
    open_connections++;
}

/* -- what is answered ------------------------------------------------------------------------------------------------ */

static void message_done(connection *c) {
    so_far.messages++;
    so_far.answered += (uint64_t)options.recipients;
    if (measuring) histogram_add(&latencies, now_ns() - c->since);
    if (options.fresh) start_sending(c, "QUIT\r\n", 6, QUIT, 1);
    else next_message(c);
}

static void phase_done(connection *c) {
    switch (c->at) {
    case GREETING:
        if (options.smtp) start_sending(c, "EHLO load.lab\r\n", 15, HELLO, 1);
        else start_sending(c, "LHLO load.lab\r\n", 15, HELLO, 1);
        break;
    case HELLO: next_message(c); break;
    case ENVELOPE: start_sending(c, body, body_length, FINAL, options.smtp ? 1 : (unsigned)options.recipients); break;
    case FINAL: message_done(c); break;
    case QUIT: c->at = CLOSED; break;
    case CLOSED: break;
    }
}

static const char *code_due(const connection *c) {
    switch (c->at) {
    case GREETING: return "220";
    case ENVELOPE: return c->due == 1 ? "354" : "250";
    case QUIT: return "221";
    default: return "250";
    }
}

static void take_reply_line(connection *c, const char *line, size_t length) {
    if (length < 5 || memcmp(line, code_due(c), 3) != 0 || c->due == 0)
        fail(EXIT_WRONG, "%s was due and not %.*s", code_due(c), (int)length, line);
    if (line[3] == '-') return;
    if (--c->due == 0) phase_done(c);
}

static void close_connection(connection *c) {
    close(c->fd);
    open_connections--;
    if (options.fresh && !none_left()) open_connection(c);
}

static void take_input(connection *c) {
    ssize_t got = recv(c->fd, c->input + c->held, sizeof c->input - c->held, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail(EXIT_WRONG, "the connection was closed: %s", got < 0 ? strerror(errno) : "end of input");
    size_t length = c->held + (size_t)got, at = 0;
    for (const char *end; (end = memchr(c->input + at, '\n', length - at)) != NULL;) {
        size_t line = (size_t)(end - (c->input + at)) + 1;
        take_reply_line(c, c->input + at, line);
        at += line;
    }
    c->held = length - at;
    if (c->held == sizeof c->input) fail(EXIT_WRONG, "a reply without an end");
    memmove(c->input, c->input + at, c->held);
    if (c->at == CLOSED) close_connection(c);
}

/* -- what is measured ------------------------------------------------------------------------------------------------ */

typedef struct {
    uint64_t at, usage_usec, messages, connections, delivered, bytes, other;
} reading;

static uint64_t usage(void) {
    static int file = -1;
    char text[512];
    if (options.usage == NULL) return 0;
    if (file < 0) file = open(options.usage, O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? -1 : pread(file, text, sizeof text - 1, 0);
    if (got <= 0) fail(EXIT_WRONG, "%s: %s", options.usage, strerror(errno));
    text[got] = '\0';
    const char *found = strstr(text, "usage_usec ");
    if (found == NULL) fail(EXIT_WRONG, "%s: no usage_usec", options.usage);
    return strtoull(found + strlen("usage_usec "), NULL, 10);
}

static reading read_all(void) {
    reading r = {.at = now_ns(), .messages = so_far.messages, .usage_usec = usage()};
    for (int i = 0; i < MAX_LISTENERS; i++) {
        r.connections += __atomic_load_n(&sink[i].connections, __ATOMIC_RELAXED);
        r.delivered += __atomic_load_n(&sink[i].recipients, __ATOMIC_RELAXED);
        r.bytes += __atomic_load_n(&sink[i].bytes, __ATOMIC_RELAXED);
        r.other += __atomic_load_n(&sink[i].other, __ATOMIC_RELAXED);
    }
    return r;
}

static void turn(int wait_ms) {
    static uint64_t last_event;
    struct epoll_event events[MAX_EVENTS];
    int ready = epoll_wait(epoll, events, MAX_EVENTS, wait_ms);
    uint64_t now = now_ns();
    if (ready > 0 || last_event == 0) last_event = now;
    if (now - last_event > (uint64_t)options.patience_s * 1000 * MEGA) fail(EXIT_SILENT, "silence");
    for (int i = 0; i < ready; i++) {
        connection *c = events[i].data.ptr;
        if ((events[i].events & EPOLLOUT) != 0 && c->out_length > 0) send_out(c);
        if ((events[i].events & ~(uint32_t)EPOLLOUT) != 0) take_input(c);
    }
}

static void run_for(double seconds) {
    uint64_t until = now_ns() + (uint64_t)(seconds * 1e9);
    for (uint64_t now; (now = now_ns()) < until;) {
        uint64_t rest_ms = (until - now) / MEGA;
        turn(rest_ms > 100 ? 100 : (int)rest_ms);
    }
}

static void wait_for_sink(uint64_t delivered) {
    uint64_t until = now_ns() + (uint64_t)options.patience_s * 1000 * MEGA;
    while (read_all().delivered < delivered) {
        if (now_ns() > until) fail(EXIT_WRONG, "recipients are missing at the sink");
        usleep(500);
    }
}

static void print(const reading *first, const reading *last, const reading *after) {
    double seconds = (double)(last->at - first->at) / 1e9;
    uint64_t messages = last->messages - first->messages;
    printf("{\"messages\": %llu, \"seconds\": %.4f, \"per_s\": %.2f, \"usage_us\": %llu, \"backend_connections\": %llu, "
           "\"bytes\": %llu, \"all\": %llu, \"other\": %llu, \"hash\": \"%llx\", \"own_cpu_s\": %.3f, ",
           (unsigned long long)messages, seconds, (double)messages / seconds,
           (unsigned long long)(last->usage_usec - first->usage_usec),
           (unsigned long long)(last->connections - first->connections),
           (unsigned long long)(last->bytes - first->bytes), (unsigned long long)so_far.messages,
           (unsigned long long)after->other, (unsigned long long)body_hash, cpu_seconds());
    histogram_print(&latencies, "latency");
    puts("}");
}

static void measure(void) {
    reading before = read_all(), first = before, last;
    if (options.messages != 0) {
        measuring = true;
        while (open_connections > 0) turn(100);
        wait_for_sink(before.delivered + so_far.answered);
        last = read_all();
    } else {
        run_for(options.warm_s);
        first = read_all();
        measuring = true;
        run_for(options.seconds);
        last = read_all();
        measuring = false;
        ending = true;
        while (open_connections > 0) turn(100);
    }
    reading after = read_all();
    after.other -= before.other;
    uint64_t delivered = after.delivered - before.delivered;
    if (delivered != so_far.answered)
        fail(EXIT_WRONG, "%llu recipients were answered 250 and %llu are at the sink", (unsigned long long)so_far.answered,
             (unsigned long long)delivered);
    if (last.messages == first.messages) fail(EXIT_WRONG, "not one message was done in the time that is measured");
    print(&first, &last, &after);
}

static void read_options(int argc, char **argv) {
    enum { TO = 256, COUNTERS, NEW, SMTP, WARM, USAGE, USERS, PATIENCE, CPU };
    static const struct option LONG[] = {
        {"to", required_argument, NULL, TO},
        {"counters", required_argument, NULL, COUNTERS},
        {"connections", required_argument, NULL, 'c'},
        {"recipients", required_argument, NULL, 'r'},
        {"size", required_argument, NULL, 's'},
        {"seconds", required_argument, NULL, 't'},
        {"messages", required_argument, NULL, 'n'},
        {"new", no_argument, NULL, NEW},
        {"smtp", no_argument, NULL, SMTP},
        {"warm", required_argument, NULL, WARM},
        {"usage", required_argument, NULL, USAGE},
        {"users", required_argument, NULL, USERS},
        {"patience", required_argument, NULL, PATIENCE},
        {"cpu", required_argument, NULL, CPU},
        {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "c:r:s:t:n:", LONG, NULL)) != -1;) switch (option) {
        case TO: options.to = place_parse(optarg); break;
        case COUNTERS: sink = counters_map(optarg, false); break;
        case 'c': options.connections = number_between(optarg, 1, 20000); break;
        case 'r': options.recipients = number_between(optarg, 1, 1000); break;
        case 's': options.size = number_between(optarg, 512, 1L << 30); break;
        case 't': options.seconds = strtod(optarg, NULL); break;
        case 'n': options.messages = number_between(optarg, 1, 1L << 30); break;
        case NEW: options.fresh = true; break;
        case SMTP: options.smtp = true; break;
        case WARM: options.warm_s = strtod(optarg, NULL); break;
        case USAGE: options.usage = optarg; break;
        case USERS: options.users = number_between(optarg, 1, 9999999); break;
        case PATIENCE: options.patience_s = number_between(optarg, 1, 3600); break;
        case CPU: stay_on(number_between(optarg, 0, CPU_SETSIZE - 1)); break;
        default: exit(EXIT_USAGE);
        }
    if (options.to.size == 0 || sink == NULL) fail(EXIT_USAGE, "expected --to and --counters");
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    make_body();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    connection *all = take_memory((size_t)options.connections, sizeof *all);
    for (long i = 0; i < options.connections; i++) {
        all[i].envelope = take_memory(1, (size_t)(options.recipients + 2) * RECIPIENT_SIZE);
        open_connection(&all[i]);
    }
    measure();
    return 0;
}
