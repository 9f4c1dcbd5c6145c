/* Whole lists: LIST or UPDATE on some connections at once, each record counted and in order. */
#include <stdio.h>
#include <string.h>

#include "mupload.h"

static const options *run;
static int unfinished;
static uint64_t began, ended;

/* Cyrus' order: '.' below every other byte. */
static bool in_order(const char *a, size_t a_length, const char *b, size_t b_length) {
    size_t common = a_length < b_length ? a_length : b_length, at = 0;
    while (at < common && a[at] == b[at]) at++;
    if (at == common) return a_length < b_length;
    unsigned char left = a[at] == '.' ? 0 : (unsigned char)a[at], right = b[at] == '.' ? 0 : (unsigned char)b[at];
    return left < right;
}

bool dump_line(dump_state *d, const line *l, const char *tag) {
    if (!tag_is(l, tag)) fail(EXIT_WRONG, "not asked for: %s", line_text(l));
    if (verb_is(l, "OK")) {
        d->ended = true;
        return true;
    }
    bool whole = (verb_is(l, "MAILBOX") && l->parts == 3) || (verb_is(l, "RESERVE") && l->parts == 2);
    if (!whole || l->part[0].length > sizeof d->last) fail(EXIT_WRONG, "no record: %s", line_text(l));
    if (d->records > 0 && !in_order(d->last, d->last_length, l->part[0].text, l->part[0].length))
        fail(EXIT_WRONG, "out of order: %s", line_text(l));
    d->last_length = l->part[0].length;
    memcpy(d->last, l->part[0].text, d->last_length);
    d->records++;
    return false;
}

static void take(connection *c, const line *l, uint64_t now) {
    dump_state *d = c->state;
    if (d->ended || !dump_line(d, l, "D")) return;
    if (run->expect >= 0 && d->records != (uint64_t)run->expect)
        fail(EXIT_WRONG, "%llu records instead of %lld", (unsigned long long)d->records, (long long)run->expect);
    unfinished--;
    ended = now;
}

static bool done(void) { return unfinished == 0; }

void mode_dump(const options *o) {
    run = o;
    dump_state *states = take_memory((size_t)o->connections, sizeof *states);
    connection **all = take_memory((size_t)o->connections, sizeof(connection *));
    for (int index = 0; index < o->connections; index++) {
        all[index] = connection_open(&o->to, true, 1 << 20, 1);
        all[index]->index = index;
        all[index]->take = take;
        all[index]->state = &states[index];
        all[index]->bytes = 0;
        loop_add(all[index]);
    }
    unfinished = o->connections;
    began = now_ns();
    for (int index = 0; index < o->connections; index++) {
        connection_text(all[index], o->update ? "D UPDATE\r\n" : "D LIST\r\n");
        connection_flush(all[index]);
    }
    loop_run(&o->to, done, NULL);
    uint64_t records = 0, bytes = 0;
    for (int index = 0; index < o->connections; index++) {
        records += states[index].records;
        bytes += all[index]->bytes;
    }
    double seconds = (double)(ended - began) / 1e9;
    printf("{\"records\": %llu, \"bytes\": %llu, \"seconds\": %.6f, \"records_per_s\": %.0f, \"mb_per_s\": %.2f, "
           "\"cpu_s\": %.3f}\n",
           (unsigned long long)records, (unsigned long long)bytes, seconds, (double)records / seconds,
           (double)bytes / seconds / 1e6, cpu_seconds());
}
