/* One connection: opened and logged in while blocking, then buffers, lines and the commands that wait for an answer. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "mupload.h"

enum { COMMAND_ROOM = 512, LEAST_OUT = 8192 };

bool verb_is(const line *l, const char *verb) {
    size_t length = strlen(verb);
    return l->verb_length == length && memcmp(l->verb, verb, length) == 0;
}

bool tag_is(const line *l, const char *tag) {
    size_t length = strlen(tag);
    return l->tag_length == length && memcmp(l->tag, tag, length) == 0;
}

const char *line_text(const line *l) {
    static char text[200];
    snprintf(text, sizeof text, "\"%.*s %.*s%s%.*s\"", (int)l->tag_length, l->tag, (int)l->verb_length, l->verb,
             l->parts ? " … " : "", l->parts && l->part[0].length < 100 ? (int)l->part[0].length : 0,
             l->parts ? l->part[0].text : "");
    return text;
}

static size_t base64(char *out, const unsigned char *in, size_t length) {
    static const char LETTER[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t used = 0;
    for (size_t at = 0; at < length; at += 3) {
        uint32_t three = (uint32_t)in[at] << 16;
        if (at + 1 < length) three |= (uint32_t)in[at + 1] << 8;
        if (at + 2 < length) three |= in[at + 2];
        for (int sextet = 3; sextet >= 0; sextet--)
            out[used++] = at + (size_t)(3 - sextet) > length ? '=' : LETTER[(three >> (6 * sextet)) & 63u];
    }
    return used;
}

/* Read into the buffer until a line that `wanted` likes was removed from it; false when the connection ends. */
static bool read_until(connection *c, const char *tag, const char *verb) {
    for (;;) {
        char *end;
        while ((end = memchr(c->in, '\n', c->in_used)) != NULL) {
            char head[64] = {0}, want[64];
            size_t length = (size_t)(end - c->in) + 1;
            memcpy(head, c->in, length < sizeof head ? length : sizeof head - 1);
            c->in_used -= length;
            memmove(c->in, end + 1, c->in_used);
            snprintf(want, sizeof want, "%s %s", tag, verb);
            if (strncmp(head, want, strlen(want)) == 0) return true;
            if (strncmp(head, "* BYE", 5) == 0 || (tag[0] != '*' && strncmp(head, tag, strlen(tag)) == 0)) return false;
        }
        if (c->in_used == c->in_size) return false;
        ssize_t got = recv(c->fd, c->in + c->in_used, c->in_size - c->in_used, 0);
        if (got <= 0) return false;
        c->in_used += (size_t)got;
    }
}

bool connection_ask(connection *c, const char *text, size_t length, const char *tag) {
    return send(c->fd, text, length, MSG_NOSIGNAL) == (ssize_t)length && read_until(c, tag, "OK");
}

static bool log_in(connection *c, const peer *to) {
    unsigned char secret[256];
    char encoded[400], text[512];
    int length = snprintf((char *)secret, sizeof secret, "%c%s%c%s", 0, to->user, 0, to->password);
    size_t size = base64(encoded, secret, (size_t)length);
    int used = snprintf(text, sizeof text, "L AUTHENTICATE \"PLAIN\" {%zu+}\r\n%.*s\r\n", size, (int)size, encoded);
    return connection_ask(c, text, (size_t)used, "L");
}

static bool dial(connection *c, const peer *to) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)to->port)};
    if (inet_pton(AF_INET, to->host, &address.sin_addr) != 1) fail(EXIT_USAGE, "%s is no IPv4 address", to->host);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail(EXIT_WRONG, "socket: %s", strerror(errno));
    struct timeval patience = {.tv_sec = to->patience_s};
    int on = 1;
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return connect(c->fd, (struct sockaddr *)&address, sizeof address) == 0;
}

connection *connection_try(const peer *to, bool login, size_t in_size, uint32_t depth) {
    connection *c = take_memory(1, sizeof *c);
    uint32_t ring = 16;
    while (ring < depth) ring *= 2;
    c->in_size = in_size;
    c->out_size = (size_t)depth * COMMAND_ROOM + LEAST_OUT;
    c->in = take_memory(1, c->in_size);
    c->out = take_memory(1, c->out_size);
    c->ring = take_memory(ring, sizeof *c->ring);
    c->mask = ring - 1;
    if (dial(c, to) && read_until(c, "*", "OK") && (!login || log_in(c, to))) return c;
    connection_close(c);
    return NULL;
}

connection *connection_open(const peer *to, bool login, size_t in_size, uint32_t depth) {
    static int opened = 0;
    errno = 0;
    connection *c = connection_try(to, login, in_size, depth);
    if (c == NULL)
        fail(EXIT_SILENT, "no %s on connection %d within %d s%s%s", login ? "login" : "banner", opened + 1,
             to->patience_s, errno && errno != EAGAIN ? ": " : "", errno && errno != EAGAIN ? strerror(errno) : "");
    opened++;
    return c;
}

void connection_close(connection *c) {
    if (c == NULL) return;
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c->ring);
    free(c);
}

uint32_t connection_pending(const connection *c) { return c->tail - c->head; }

struct pending *connection_answered(connection *c) {
    if (c->head == c->tail) fail(EXIT_WRONG, "an answer to nothing");
    return &c->ring[c->head++ & c->mask];
}

void connection_put(connection *c, kind what, family of, uint32_t number, uint64_t since) {
    if (connection_pending(c) > c->mask || c->out_used + COMMAND_ROOM > c->out_size)
        fail(EXIT_SILENT, "%u commands have no answer", connection_pending(c));
    c->out_used += request_write(c->out + c->out_used, what, of, number);
    c->ring[c->tail++ & c->mask] = (struct pending){.since = since, .number = number, .what = what};
}

void connection_text(connection *c, const char *text) {
    size_t length = strlen(text);
    if (c->out_used + length > c->out_size) fail(EXIT_SILENT, "the server takes nothing");
    memcpy(c->out + c->out_used, text, length);
    c->out_used += length;
}

/* Tags are 'T' and the record's number, so that each answer is known to belong to its command. */
static bool tag_matches(const line *l, uint32_t number) {
    if (l->tag_length != 1 + DIGITS || l->tag[0] != 'T') return false;
    uint32_t said = 0;
    for (size_t at = 1; at <= DIGITS; at++) said = said * 10 + (uint32_t)(l->tag[at] - '0');
    return said == number;
}

static bool part_is(const line *l, int which, const char *text, size_t length) {
    return l->parts > which && l->part[which].length == length && memcmp(l->part[which].text, text, length) == 0;
}

bool answer_check(connection *c, const line *l, family of) {
    struct pending *first = &c->ring[c->head & c->mask];
    if (connection_pending(c) == 0 || !tag_matches(l, first->number)) fail(EXIT_WRONG, "not asked for: %s", line_text(l));
    if (verb_is(l, "MAILBOX") && first->what == FIND && of == PRESENT && c->state == NULL) {
        record r;
        record_make(&r, of, first->number);
        if (!part_is(l, 0, r.name, r.name_length) || !part_is(l, 1, r.location, r.location_length) ||
            !part_is(l, 2, r.acl, r.acl_length))
            fail(EXIT_WRONG, "wrong record: %s", line_text(l));
        c->state = c; /* the record was there: only the OK is missing */
        return false;
    }
    bool found = c->state != NULL;
    c->state = NULL;
    if (!verb_is(l, "OK") || (first->what == FIND && found != (of == PRESENT)))
        fail(EXIT_WRONG, "wrong answer for record %u: %s", first->number, line_text(l));
    return true;
}
