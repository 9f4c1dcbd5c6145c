/* keys.c - names as a large site has them: 42 bytes on average, most of them alike at their beginning. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "mlookup.h"

static const char *const firsts[] = {"james", "mary", "robert", "patricia", "john", "jennifer", "michael", "linda",
                                     "david", "elizabeth", "william", "barbara", "richard", "susan", "joseph", "jessica"};
static const char *const lasts[] = {"smith", "johnson", "williams", "brown", "jones", "garcia", "miller", "davis",
                                    "rodriguez", "martinez", "hernandez", "lopez", "gonzalez", "wilson", "anderson", "li"};
static const char *const folders[] = {"", ".Sent", ".Drafts", ".Trash", ".Archive.2025", ".Archive.2026", ".Spam"};
static const char *const domains[] = {"example.org", "mail.example.com", "students.example.edu", "example.net",
                                      "uni.example.org", "example.co.uk", "staff.example.edu", "example.io"};

size_t key_name(uint64_t i, int absent, char name_r[NAME_MAX_LEN])
{
    uint64_t user = i / 7;
    int len = snprintf(name_r, NAME_MAX_LEN, "%s!user.%s^%s%s%llu%s", domains[user % 8], firsts[user / 8 % 16],
                       lasts[user / 128 % 16], absent ? "-" : "", (unsigned long long)(user / 2048), folders[i % 7]);
    return (size_t)len;
}

size_t key_acl(uint64_t i, char acl_r[NAME_MAX_LEN])
{
    uint64_t user = i / 7;
    int len = snprintf(acl_r, NAME_MAX_LEN, "%s^%s%llu@%s\tlrswipkxtecdan\t", firsts[user / 8 % 16],
                       lasts[user / 128 % 16], (unsigned long long)(user / 2048), domains[user % 8]);
    return (size_t)len;
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
