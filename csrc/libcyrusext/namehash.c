/* namehash.c - the keyed hash of mailbox names. */
#include <string.h>

#include "lines.h"

typedef unsigned __int128 wide;

static inline wide multiplier(const cyx_secret *secret, size_t i)
{
    return (wide)secret->words[2 * i] << 64 | secret->words[2 * i + 1];
}

/* The table lives and dies with one machine: its byte order is as good as any. */
static inline uint64_t word_at(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static uint64_t short_word(const uint8_t *at, size_t len)
{
    uint64_t word = 0;
    for (size_t i = 0; i < len; i++)
        word |= (uint64_t)at[i] << (8 * i);
    return word;
}

/* Names that count (u1, u2, u3 ...) have sums that count, too: for some secrets they would crowd into few lines.  Mixing
 * takes that regularity away; being reversible, it leaves any two hashes as independent and uniform as they were. */
static inline uint64_t mixed(uint64_t x)
{
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
    return x ^ x >> 32;
}

/* The sum of multiplier * word modulo 2^128, the upper half of it.  Word 0 is 1, word 1 the length, then comes the name,
 * padded with zeros; products of padding are zero, so they need not be formed. */
uint64_t cyx_name_hash(const cyx_secret *secret, const void *name, size_t len)
{
    const uint8_t *at = name, *last = at + (len & ~(size_t)7);
    wide sum = multiplier(secret, 0) + multiplier(secret, 1) * len;
    size_t i = 2;
    for (; at < last; at += 8)
        sum += multiplier(secret, i++) * word_at(at);
    /* the rest of a long name as the upper bytes of its last eight: no branch on how many there are */
    uint64_t rest = len < 8 ? short_word(at, len) : word_at(last + (len & 7) - 8) >> (8 * (7 - (len & 7))) >> 8;
    sum += multiplier(secret, i) * rest;
    return mixed((uint64_t)(sum >> 64));
}
