/* mlookup.h - one key-value engine under measurement: what each engine's file gives to main.c.
 *
 * A program is main.c, keys.c and one engine.  Each holds the same names, each with a place of eight bytes or, where the
 * engine is a mailbox database, with a whole record of the usual size.
 */
#ifndef MLOOKUP_H
#define MLOOKUP_H

#include <stddef.h>
#include <stdint.h>

#define NAME_MAX_LEN 96

/* keys.c: name `i` of a site with seven mailboxes a user and eight domains; `absent` gives one of a user that is not. */
size_t key_name(uint64_t i, int absent, char name_r[NAME_MAX_LEN]);
static inline uint32_t key_server(uint64_t i) { return (uint32_t)((i / 7) % 200); } /* a user's mailboxes stay together */
size_t key_acl(uint64_t i, char acl_r[NAME_MAX_LEN]);

extern const char engine_name[];
/* Write names 0 to count - 1 below `dir`.  Ends the process with a message when that fails. */
void engine_build(const char *dir, uint64_t count);
void engine_open(const char *dir);
/* The server of a name, -1 where there is none; ends the process when it can not tell. */
int engine_get(const char *name, size_t len);
/* `engine_get` for many names, or NULL where the engine can not do better than one after the other. */
extern void (*const engine_many)(const char *const *names, const size_t *lens, size_t count, int *servers_r);

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
