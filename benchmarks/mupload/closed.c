/* Closed loop: each connection keeps a fixed number of commands in flight, as clients that wait for answers do. */
#include <stdio.h>

#include "mupload.h"

static const options *run;
static kind asked;
static bool pairs_only;
static histogram latency;
static uint64_t answered, issued, began, ended, stop_at, random_state;

static uint32_t random_below(uint32_t limit) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(((random_state >> 32) * limit) >> 32);
}

static bool more(uint64_t now) { return run->count ? issued < run->count : now < stop_at; }

static family family_of(uint32_t number) {
    if (asked != FIND) return run->fresh ? NEW : PRESENT;
    return (int)(number * 2654435761u >> 25) * 100 / 128 < run->miss_percent ? ABSENT : PRESENT;
}

static void issue(connection *c, uint64_t now) {
    uint32_t number = asked == FIND ? random_below(run->records) : run->first + (uint32_t)issued;
    if (number > MAX_RECORDS) fail(EXIT_USAGE, "record numbers end at %d", MAX_RECORDS);
    connection_put(c, pairs_only ? RESERVE : asked, family_of(number), number, now);
    issued++;
}

static void take(connection *c, const line *l, uint64_t now) {
    uint32_t number = c->ring[c->head & c->mask].number;
    if (!answer_check(c, l, family_of(number))) return;
    struct pending first = *connection_answered(c);
    if (first.what == RESERVE) {
        connection_put(c, ACTIVATE, family_of(number), number, first.since);
        return;
    }
    histogram_add(&latency, now - first.since);
    answered++;
    ended = now;
    if (more(now)) issue(c, now_ns());
}

static bool done(void) { return answered == issued && !more(now_ns()); }

void mode_closed(const options *o, kind what, bool pairs) {
    run = o;
    asked = what;
    pairs_only = pairs;
    random_state = o->seed * 0x9E3779B97F4A7C15u | 1u;
    connection **all = take_memory((size_t)o->connections, sizeof(connection *));
    for (int index = 0; index < o->connections; index++) {
        all[index] = connection_open(&o->to, true, 1 << 20, (uint32_t)o->depth);
        all[index]->index = index;
        all[index]->take = take;
        loop_add(all[index]);
    }
    began = now_ns();
    stop_at = began + (uint64_t)(o->seconds * 1e9);
    for (int index = 0; index < o->connections; index++) {
        for (int depth = 0; depth < o->depth && more(now_ns()); depth++) issue(all[index], now_ns());
        connection_flush(all[index]);
    }
    loop_run(&o->to, done, NULL);
    double seconds = (double)(ended - began) / 1e9;
    printf("{\"answered\": %llu, \"seconds\": %.6f, \"per_s\": %.1f, \"cpu_s\": %.3f, ", (unsigned long long)answered,
           seconds, (double)answered / seconds, cpu_seconds());
    histogram_print(&latency, "latency");
    puts("}");
}
