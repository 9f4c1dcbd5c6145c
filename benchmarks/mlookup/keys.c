/* keys.c - names as a large site has them: 42 bytes on average, most of them alike at their beginning. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "mlookup.h"

/* Each list is sorted, and none has a word that another begins with: key_each relies on it. */
static const char *const firsts[] = {"barbara", "david", "elizabeth", "james", "jennifer", "jessica", "john", "joseph",
                                     "linda", "mary", "michael", "patricia", "richard", "robert", "susan", "william"};
static const char *const lasts[] = {"anderson", "brown", "davis", "garcia", "gonzalez", "hernandez", "johnson", "jones",
                                    "li", "lopez", "martinez", "miller", "rodriguez", "smith", "williams", "wilson"};
static const char *const folders[] = {"", ".Archive.2025", ".Archive.2026", ".Drafts", ".Sent", ".Spam", ".Trash"};
static const char *const domains[] = {"example.co.uk", "example.io", "example.net", "example.org",
                                      "mail.example.com", "staff.example.edu", "students.example.edu",
                                      "uni.example.org"};
#define DOMAINS 8u
#define FIRSTS 16u
#define LASTS 16u
#define FOLDERS 7u
#define PEOPLE (DOMAINS * FIRSTS * LASTS) /* users with the same number */

size_t key_name(uint64_t i, int absent, char name_r[NAME_MAX_LEN])
{
    uint64_t user = i / FOLDERS;
    int len = snprintf(name_r, NAME_MAX_LEN, "%s!user.%s^%s%s%llu%s", domains[user % DOMAINS],
                       firsts[user / DOMAINS % FIRSTS], lasts[user / (DOMAINS * FIRSTS) % LASTS], absent ? "-" : "",
                       (unsigned long long)(user / PEOPLE), folders[i % FOLDERS]);
    return (size_t)len;
}

size_t key_acl(uint64_t i, char acl_r[NAME_MAX_LEN])
{
    uint64_t user = i / FOLDERS;
    int len = snprintf(acl_r, NAME_MAX_LEN, "%s^%s%llu@%s\tlrswipkxtecdan\t", firsts[user / DOMAINS % FIRSTS],
                       lasts[user / (DOMAINS * FIRSTS) % LASTS], (unsigned long long)(user / PEOPLE),
                       domains[user % DOMAINS]);
    return (size_t)len;
}

/* The number from 1 to `last` whose digits come next in the order of text; 0 behind the last one. */
static uint64_t next_as_text(uint64_t number, uint64_t last)
{
    if (number <= last / 10)
        return number * 10;
    while (number && (number % 10 == 9 || number >= last))
        number /= 10;
    return number ? number + 1 : 0;
}

void key_each(uint64_t count, key_put *put, void *context)
{
    uint64_t last = count / FOLDERS / PEOPLE + 1;
    for (uint64_t who = 0; who < PEOPLE; who++) {
        uint64_t domain = who / (FIRSTS * LASTS), first = who / LASTS % FIRSTS, family = who % LASTS, number = 0;
        do {
            uint64_t user = domain + DOMAINS * first + DOMAINS * FIRSTS * family + PEOPLE * number;
            for (uint64_t i = user * FOLDERS; i < (user + 1) * FOLDERS && i < count; i++)
                put(context, i);
            number = number ? next_as_text(number, last) : 1;
        } while (number);
    }
}

_Noreturn void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    exit(1);
}
