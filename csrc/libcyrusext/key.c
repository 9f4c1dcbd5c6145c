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

/* Loops without a branch in them: the compiler takes many bytes at once. */
static bool forbidden_in(const uint8_t *name, size_t len)
{
    bool found = false;
    for (size_t i = 0; i < len; i++)
        found |= name[i] < 0x20 && (name[i] == 0 || name[i] == '\r' || name[i] == '\n' || name[i] == CYX_KEY_DOMAIN ||
                                    name[i] == KEY_HIERARCHY);
    return found;
}

#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("tree-vectorize", "vect-cost-model=dynamic"))) /* which -O2 of gcc 12 does not do by itself */
#endif
static void encode_local(const uint8_t *name, size_t len, uint8_t *restrict key_r)
{
    for (size_t i = 0; i < len; i++) {
        uint8_t c = name[i];
        c = c == '.' ? KEY_HIERARCHY : c;
        key_r[i] = name[i] == '^' ? KEY_DOT : c;
    }
}

static int encode(const uint8_t *name, size_t len, const uint8_t *domain_end, uint8_t *key_r)
{
    size_t domain = domain_end ? (size_t)(domain_end - name) + 1 : 0;
    if (forbidden_in(name, len))
        return cyx_fail(CYX_EINVAL, "mailbox name has a NUL, CR, LF, 0x1D or 0x1F byte");
    *key_r++ = KEY_TAG;
    if (domain) {
        memcpy(key_r, name, domain);
        key_r[domain - 1] = CYX_KEY_DOMAIN;
    }
    encode_local(name + domain, len - domain, key_r + domain);
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
