/* key.c - mailbox names as store keys whose plain byte order is the order of Cyrus' own database.
 *
 * The form is that of Cyrus' mailboxes.db (mboxname_to_dbname in imap/mboxlist.c, the same in 3.6 and 3.10): `N`, then
 * the name with its hierarchy separators `.` as 0x1F, its `^`, which stand for literal dots (user.john^doe), as `.`,
 * and the first `!`, which ends the domain, as 0x1D.  *Inside the domain* all stay what they are.  The database compares keys as plain bytes, and every merging client (ctl_mboxlist -m walks
 * its own mailboxes.db beside the LIST it gets) depends on this order.  So `.` sorts below every other byte of a name
 * (user.a, user.a.b, user.a-b, user.a^b, user.a0) and `^` between `-` and `/`, a domain sorts before the domains it is a dotted prefix of (a!x, a.b!x), and
 * within domains `.` is itself (a-b!x, a.b!x).  Cyrus splits at the first `!` whether or not virtual domains are on,
 * and so do we.  A name has no 0x1D and no 0x1F, which makes the form reversible.
 */
#include "internal.h"

#define KEY_TAG 'N'
#define KEY_HIERARCHY 0x1F
#define KEY_DOT '.'

static bool forbidden(uint8_t c) { return c == 0 || c == '\r' || c == '\n' || c == CYX_KEY_DOMAIN || c == KEY_HIERARCHY; }

static int encode(const uint8_t *name, size_t len, const uint8_t *domain_end, uint8_t *key_r)
{
    *key_r++ = KEY_TAG;
    for (const uint8_t *p = name, *end = name + len; p < end; p++) {
        if (forbidden(*p))
            return cyx_fail(CYX_EINVAL, "mailbox name has a NUL, CR, LF, 0x1D or 0x1F byte");
        if (domain_end && p == domain_end)
            *key_r++ = CYX_KEY_DOMAIN;
        else if (*p == '.' && !(domain_end && p < domain_end))
            *key_r++ = KEY_HIERARCHY;
        else if (*p == '^' && !(domain_end && p < domain_end))
            *key_r++ = KEY_DOT;
        else
            *key_r++ = *p;
    }
    return CYX_OK;
}

int cyx_key_from_name(const void *name, size_t len, uint8_t key_r[CYX_KEY_MAX], size_t *key_len_r)
{
    if (len == 0)
        return cyx_fail(CYX_EINVAL, "mailbox name is empty");
    if (len > CYX_MAX_NAME)
        return cyx_fail(CYX_EINVAL, "mailbox name has %zu bytes, at most %d are possible", len, CYX_MAX_NAME);
    *key_len_r = len + 1;
    return encode(name, len, memchr(name, '!', len), key_r);
}

int cyx_name_check(const void *name, size_t len)
{
    uint8_t key[CYX_KEY_MAX];
    size_t key_len;
    return cyx_key_from_name(name, len, key, &key_len);
}

bool cyx_key_is_name(const uint8_t *key, size_t key_len)
{
    return key_len >= 2 && key_len <= CYX_KEY_MAX && key[0] == KEY_TAG;
}

int cyx_name_from_key(const uint8_t *key, size_t key_len, uint8_t name_r[CYX_MAX_NAME], size_t *len_r)
{
    if (!cyx_key_is_name(key, key_len))
        return cyx_fail(CYX_ECORRUPT, "a key of %zu bytes is not a mailbox's", key_len);
    const uint8_t *domain_end = memchr(key, CYX_KEY_DOMAIN, key_len);
    size_t local = domain_end ? (size_t)(domain_end - key) : 1;
    memcpy(name_r, key + 1, local - 1);
    for (size_t i = local; i < key_len; i++)
        name_r[i - 1] = key[i] == KEY_HIERARCHY ? '.' : key[i] == KEY_DOT ? '^' : key[i] == CYX_KEY_DOMAIN ? '!' : key[i];
    *len_r = key_len - 1;
    return CYX_OK;
}

/* A prefix without `!` may be the beginning of a plain name or of a domain.  If it has a dot or a `^`, these are
 * different keys; 0x1F sorts before the dot, and the dot before `^`, so plain names come first. */
int cyx_key_prefixes(const void *prefix, size_t len, uint8_t keys_r[2][CYX_KEY_MAX], size_t *key_len_r)
{
    const uint8_t *bytes = prefix;
    const uint8_t *domain_end = len ? memchr(bytes, '!', len) : NULL;
    if (len > CYX_MAX_NAME || encode(bytes, len, domain_end, keys_r[0]) != CYX_OK)
        return 0; /* no name can start with it */
    *key_len_r = len + 1;
    if (domain_end || !len || (!memchr(bytes, '.', len) && !memchr(bytes, '^', len)))
        return 1;
    keys_r[1][0] = KEY_TAG;
    memcpy(keys_r[1] + 1, bytes, len);
    return 2;
}
