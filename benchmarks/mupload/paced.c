/* Open loop: one writer sends ACTIVATE of new names at a fixed rate, whatever the answers do, while others subscribe
 * or read whole lists.  Latencies are counted from when a change was due, so that a stall is seen by all it delays. */
#include <stdio.h>
#include <string.h>

#include "mupload.h"

typedef struct {
    dump_state dump; /* its first list */
    uint8_t *seen;
    uint32_t count;
    bool asked_noop, again;
    uint64_t noop_at;
} subscriber;

enum { SPARE_READERS = 64, WRITER_DEPTH = 1 << 15 };

static const options *run;
static connection *writer, **subscribers, **readers;
static subscriber *states;
static dump_state *reading;
static int listening, reader_count, reader_next, reader_active;
static histogram answer, each, last_of;
static uint64_t *due;
static uint32_t *unseen, total, sent, answered;
static uint64_t began, dumps, dump_records, stop_at, arrivals;
static histogram dump_time;

/* -- subscribers ------------------------------------------------------------------------------------------------- */

static void ask_noop(connection *c, uint64_t now) {
    subscriber *s = c->state;
    if (s->asked_noop) {
        s->again = true;
        return;
    }
    s->asked_noop = true;
    s->noop_at = now;
    connection_text(c, "N NOOP\r\n");
    connection_flush(c);
}

static void see(subscriber *s, int64_t number, uint64_t now) {
    int64_t which = number - (int64_t)run->first;
    if (which < 0 || which >= total) return;
    uint8_t *byte = &s->seen[which / 8], bit = (uint8_t)(1u << (which % 8));
    if (*byte & bit) return; /* a stream may repeat a state */
    *byte |= bit;
    s->count++;
    arrivals++;
    histogram_add(&each, now - due[which]);
    if (--unseen[which] == 0) histogram_add(&last_of, now - due[which]);
}

static void take_update(connection *c, const line *l, uint64_t now) {
    subscriber *s = c->state;
    if (!s->dump.ended) {
        if (dump_line(&s->dump, l, "U")) listening++;
        return;
    }
    if (tag_is(l, "N") && verb_is(l, "OK")) {
        s->asked_noop = false;
        if (s->again) {
            s->again = false;
            ask_noop(c, now);
        }
    } else if (tag_is(l, "U") && (verb_is(l, "MAILBOX") || verb_is(l, "RESERVE")) && l->parts >= 2) {
        if (verb_is(l, "MAILBOX")) see(s, new_number(l->part[0].text, l->part[0].length), now);
    } else {
        fail(EXIT_WRONG, "subscriber %d: %s", c->index, line_text(l));
    }
}

static bool all_listen(void) { return listening == run->subscribers; }

static void subscribe(void) {
    subscribers = take_memory((size_t)run->subscribers + 1, sizeof(connection *));
    states = take_memory((size_t)run->subscribers + 1, sizeof *states);
    for (int index = 0; index < run->subscribers; index++) {
        connection *c = subscribers[index] = connection_open(&run->to, true, 1 << 16, 1);
        states[index].seen = take_memory(total / 8 + 1, 1);
        c->index = index;
        c->take = take_update;
        c->state = &states[index];
        loop_add(c);
        connection_text(c, "U UPDATE\r\n");
        connection_flush(c);
    }
    loop_run(&run->to, all_listen, NULL);
}

/* -- readers of whole lists -------------------------------------------------------------------------------------- */

static uint64_t read_since[SPARE_READERS];

/* Connection `index` asks for a list; LIST is asked again and again on it, UPDATE can be asked once. */
static void read_list(int index, uint64_t now) {
    reading[index] = (dump_state){0};
    read_since[index] = now;
    connection_text(readers[index], run->update ? "D UPDATE\r\n" : "D LIST\r\n");
    connection_flush(readers[index]);
    reader_active++;
}

static void take_list(connection *c, const line *l, uint64_t now) {
    if (reading[c->index].ended) return; /* changes, after an UPDATE */
    if (!dump_line(&reading[c->index], l, "D")) return;
    reader_active--;
    dumps++;
    dump_records += reading[c->index].records;
    histogram_add(&dump_time, now - read_since[c->index]);
    if (now >= stop_at) return;
    if (!run->update) read_list(c->index, now);
    else if (reader_next < reader_count) read_list(reader_next++, now);
    else total = sent; /* no connection is left to read on: what comes now would not be beside readers */
}

static void prepare_readers(void) {
    reader_count = run->readers == 0 ? 0 : run->update ? SPARE_READERS : run->readers;
    readers = take_memory(SPARE_READERS, sizeof(connection *));
    reading = take_memory(SPARE_READERS, sizeof *reading);
    for (int index = 0; index < reader_count; index++) {
        connection *c = readers[index] = connection_open(&run->to, true, 1 << 20, 1);
        c->index = index;
        c->take = take_list;
        loop_add(c);
    }
}

/* -- the writer -------------------------------------------------------------------------------------------------- */

static void take_answer(connection *c, const line *l, uint64_t now) {
    if (!answer_check(c, l, NEW)) return;
    struct pending *first = connection_answered(c);
    histogram_add(&answer, now - first->since);
    answered++;
    if (run->kick)
        for (int index = 0; index < run->subscribers; index++) ask_noop(subscribers[index], now);
}

static uint64_t tick(uint64_t now) {
    uint64_t interval = 1000000000u / (uint64_t)run->rate;
    while (sent < total && began + sent * interval <= now) {
        due[sent] = began + sent * interval;
        connection_put(writer, ACTIVATE, NEW, run->first + sent, due[sent]);
        sent++;
    }
    connection_flush(writer);
    uint64_t next = sent < total ? began + sent * interval : 0;
    if (run->noop_ms > 0) {
        uint64_t every = (uint64_t)run->noop_ms * 1000000u;
        for (int index = 0; index < run->subscribers; index++)
            if (!states[index].asked_noop && now - states[index].noop_at >= every) ask_noop(subscribers[index], now);
        if (next == 0) next = now + every;
    }
    return next;
}

static bool done(void) {
    return answered == total && arrivals == (uint64_t)total * (uint64_t)run->subscribers && reader_active == 0;
}

void mode_paced(const options *o) {
    run = o;
    total = (uint32_t)((double)o->rate * o->seconds);
    if (o->first + total > MAX_RECORDS || total == 0) fail(EXIT_USAGE, "%u changes from %u", total, o->first);
    due = take_memory(total, sizeof *due);
    unseen = take_memory(total, sizeof *unseen);
    for (uint32_t which = 0; which < total; which++) unseen[which] = (uint32_t)o->subscribers;
    subscribe();
    prepare_readers();
    writer = connection_open(&o->to, true, 1 << 16, WRITER_DEPTH);
    writer->index = -1;
    writer->take = take_answer;
    loop_add(writer);
    began = now_ns();
    stop_at = began + (uint64_t)(o->seconds * 1e9);
    reader_next = o->readers;
    for (int index = 0; index < o->readers; index++) read_list(index, began);
    loop_run(&o->to, done, tick);
    printf("{\"changes\": %u, \"seconds\": %.3f, ", total, (double)(now_ns() - began) / 1e9);
    histogram_print(&answer, "answer");
    if (o->subscribers) {
        fputs(", ", stdout);
        histogram_print(&each, "each");
        fputs(", ", stdout);
        histogram_print(&last_of, "last");
    }
    if (o->readers) {
        printf(", \"lists\": %llu, \"list_records\": %llu, ", (unsigned long long)dumps, (unsigned long long)dump_records);
        histogram_print(&dump_time, "list");
    }
    puts("}");
}
