/* The records of a run, each made from its number, and the commands about them: texts with holes for digits. */
#include <stdio.h>
#include <string.h>

#include "mupload.h"

enum { FOLDERS = 8, MISSING = FOLDERS, FLAT, FORMS, HOLES = 3 };

static const char *const FOLDER[FORMS] = {
    "",        ".Archive", ".Archive.2025", ".Archive.2026", ".Drafts",
    ".Sent",   ".Spam",    ".Trash",        ".Nowhere",      ".New",
};

/* `hole` are the offsets of user numbers; the tag's number is always at 1. */
typedef struct {
    char text[4 * MAX_TEXT];
    size_t length, hole[HOLES], server;
    int holes;
} form;

static form commands[KINDS][FORMS];
static form names[FORMS], location, acl;
static size_t stem_at = 5;
static char new_stem;

static void put_digits(char *at, uint32_t number) {
    for (int place = DIGITS - 1; place >= 0; place--, number /= 10) at[place] = (char)('0' + number % 10);
}

/* Append `text`; '#' stands for the digits of a user's number, '@' for the digit of a server. */
static void form_add(form *f, const char *text) {
    for (; *text != '\0'; text++) {
        if (*text == '#') {
            f->hole[f->holes++] = f->length;
            memset(f->text + f->length, '0', DIGITS);
            f->length += DIGITS;
        } else {
            if (*text == '@') f->server = f->length;
            f->text[f->length++] = *text;
        }
    }
}

static void form_literal(form *f, const char *text) {
    form measure = {0};
    form_add(&measure, text);
    char head[32];
    snprintf(head, sizeof head, " {%zu+}\r\n", measure.length);
    form_add(f, head);
    form_add(f, text);
}

void records_prepare(char stem) {
    static const char *const VERB[KINDS] = {"FIND", "RESERVE", "ACTIVATE"};
    static const char LOCATION[] = "be@.lab!default";
    char name[MAX_TEXT], right[] = "?#\tlrswipkxtecdan\t";
    right[0] = new_stem = stem;
    form_add(&location, LOCATION);
    form_add(&acl, right);
    for (int which = 0; which < FORMS; which++) {
        snprintf(name, sizeof name, "user.%c#%s", stem, FOLDER[which]);
        form_add(&names[which], name);
        for (int what = 0; what < KINDS; what++) {
            form *f = &commands[what][which];
            snprintf(f->text, sizeof f->text, "T%0*d %s", DIGITS, 0, VERB[what]);
            f->length = strlen(f->text);
            form_literal(f, name);
            if (what != FIND) form_literal(f, LOCATION);
            if (what == ACTIVATE) form_literal(f, right);
            form_add(f, "\r\n");
        }
    }
}

static int form_of(family of, uint32_t number) {
    return of == NEW ? FLAT : of == ABSENT ? MISSING : (int)(number % FOLDERS);
}

static uint32_t user_of(family of, uint32_t number) { return of == NEW ? number : number / FOLDERS; }

static size_t fill(char *out, const form *f, uint32_t user) {
    memcpy(out, f->text, f->length);
    for (int hole = 0; hole < f->holes; hole++) put_digits(out + f->hole[hole], user);
    if (f->server != 0) out[f->server] = (char)('1' + user % 2);
    return f->length;
}

size_t request_write(char *out, kind what, family of, uint32_t number) {
    size_t length = fill(out, &commands[what][form_of(of, number)], user_of(of, number));
    put_digits(out + 1, number);
    return length;
}

void record_make(record *r, family of, uint32_t number) {
    uint32_t user = user_of(of, number);
    r->name_length = fill(r->name, &names[form_of(of, number)], user);
    r->location_length = fill(r->location, &location, user);
    r->acl_length = fill(r->acl, &acl, user);
}

int64_t new_number(const char *name, size_t length) {
    if (length != names[FLAT].length || name[stem_at] != new_stem) return -1;
    if (memcmp(name + stem_at + 1 + DIGITS, FOLDER[FLAT], strlen(FOLDER[FLAT])) != 0) return -1;
    int64_t number = 0;
    for (size_t at = stem_at + 1; at <= stem_at + DIGITS; at++) {
        if (name[at] < '0' || name[at] > '9') return -1;
        number = number * 10 + (name[at] - '0');
    }
    return number;
}
