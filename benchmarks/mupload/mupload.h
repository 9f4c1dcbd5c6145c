/* What the files of mupload share; mupload.c says what the program does. */
#ifndef MUPLOAD_H
#define MUPLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "support.h"

/* -- records.c --------------------------------------------------------------------------------------------------- */

enum { DIGITS = 7, MAX_RECORDS = 9999999, MAX_TEXT = 256 };

typedef enum { FIND, RESERVE, ACTIVATE, KINDS } kind;

typedef enum { PRESENT, ABSENT, NEW } family;

/* A record by its number: see mupload.c for the names. */
typedef struct {
    char name[MAX_TEXT], location[MAX_TEXT], acl[MAX_TEXT];
    size_t name_length, location_length, acl_length;
} record;

void records_prepare(char stem);
/* Write the command for record `number` to `out`; returns its length, at most 4 * MAX_TEXT. */
size_t request_write(char *out, kind what, family of, uint32_t number);
void record_make(record *r, family of, uint32_t number);
/* The number of a NEW record from its name, or -1. */
int64_t new_number(const char *name, size_t length);

/* -- connection.c ------------------------------------------------------------------------------------------------ */

enum { MAX_PARTS = 4 };

/* One response: tag, verb, literals. */
typedef struct {
    const char *tag, *verb;
    size_t tag_length, verb_length;
    struct {
        const char *text;
        size_t length;
    } part[MAX_PARTS];
    int parts;
} line;

bool verb_is(const line *l, const char *verb);
bool tag_is(const line *l, const char *tag);
/* Show a line in a failure. */
const char *line_text(const line *l);

typedef struct connection connection;
typedef void on_line(connection *c, const line *l, uint64_t now);

struct pending {
    uint64_t since;
    uint32_t number;
    kind what;
};

struct connection {
    int fd;
    int index;
    on_line *take;
    char *in, *out;
    size_t in_used, in_size, out_sent, out_used, out_size;
    bool waits_to_write;
    struct pending *ring; /* commands without an answer, in order */
    uint32_t head, tail, mask;
    uint64_t bytes;
    void *state; /* the mode's own */
};

typedef struct {
    const char *host, *user, *password;
    int port;
    int patience_s;
} peer;

/* Connect, read the banner and (with `login`) authenticate with PLAIN, all of it blocking. */
connection *connection_open(const peer *to, bool login, size_t in_size, uint32_t depth);
/* As connection_open, but NULL instead of a failure. */
connection *connection_try(const peer *to, bool login, size_t in_size, uint32_t depth);
void connection_close(connection *c);
/* Send a text and wait for the answer with this tag; false when it is not OK or nothing comes. */
bool connection_ask(connection *c, const char *text, size_t length, const char *tag);

/* Put a command into the buffer; connection_flush sends it. */
void connection_put(connection *c, kind what, family of, uint32_t number, uint64_t since);
void connection_text(connection *c, const char *text);
uint32_t connection_pending(const connection *c);
struct pending *connection_answered(connection *c);

/* -- loop.c ------------------------------------------------------------------------------------------------------ */

void loop_add(connection *c);
void loop_remove(connection *c);
void connection_flush(connection *c);
/* Serve until `done` says so; `tick` is called when the time it returned last has come (0: not again). */
void loop_run(const peer *to, bool (*done)(void), uint64_t (*tick)(uint64_t now));

/* -- the modes --------------------------------------------------------------------------------------------------- */

typedef struct {
    peer to;
    int connections, depth, miss_percent, rate, subscribers, readers, noop_ms;
    uint32_t records, first, count;
    double seconds;
    bool kick, login, update;
    int64_t expect;
    uint64_t seed;
    bool fresh; /* new names instead of the large set */
} options;

/* Is the answer to the first pending command of `c` complete and right?  Fails when it is wrong. */
bool answer_check(connection *c, const line *l, family of);

void mode_closed(const options *o, kind what, bool pairs); /* closed.c */
void mode_dump(const options *o);                           /* dump.c */
/* Count a line of LIST or UPDATE, and check the order; true at the final OK. */
typedef struct {
    char last[MAX_TEXT * 2];
    size_t last_length;
    uint64_t records;
    bool ended;
} dump_state;
bool dump_line(dump_state *d, const line *l, const char *tag);
void mode_paced(const options *o);  /* paced.c */
void mode_idle(const options *o);   /* single.c */
void mode_await(const options *o);  /* single.c */
void mode_change(const options *o); /* single.c */

#endif
