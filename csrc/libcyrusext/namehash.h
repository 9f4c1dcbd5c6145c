/* namehash.h - the keyed hash of mailbox names, to be compiled into the look-up itself.
 *
 * A name is read as blocks of 16 bytes, the last of which ends where the name ends and may overlap the one before it.
 * Each block is one product, (first word + secret) * (last word + secret), and the products are added up modulo 2^128
 * with the length (NH; Black, Halevi, Krawczyk, Krovetz and Rogaway 1999).  Over the choice of the secret, two different
 * names have the same sum with a chance of at most 2^-63: names of one length differ in a block, and for the difference
 * of its products one value of one secret word is right at most; of two lengths with as many blocks the sums of the same
 * blocks differ by the lengths; and a block more is a product of two words that nothing else knows.  Both halves of
 * the sum go through a multilinear function with 128-bit secrets (Lemire and Kaser 2014), whose values for two
 * different sums are independent and uniform.
 */
#ifndef CYX_NAMEHASH_H
#define CYX_NAMEHASH_H

#include <string.h>

#include "lines.h"

typedef unsigned __int128 cyx_wide;

#define CYX_HASH_BLOCK 16u
#define CYX_HASH_SUM 6u /* words of the secret for the sum; two for each block stand behind them */

static inline cyx_wide cyx_hash_secret(const cyx_secret *secret, size_t i)
{
    return (cyx_wide)secret->words[2 * i] << 64 | secret->words[2 * i + 1];
}

/* The table lives and dies with one machine: its byte order is as good as any. */
static inline uint64_t cyx_hash_word(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline cyx_wide cyx_hash_product(const uint64_t *secret, uint64_t first, uint64_t last)
{
    return (cyx_wide)(first + secret[0]) * (last + secret[1]);
}

static inline cyx_wide cyx_hash_block(const uint64_t *secret, const uint8_t *at)
{
    return cyx_hash_product(secret, cyx_hash_word(at), cyx_hash_word(at + 8));
}

/* Names that count (u1, u2, u3 ...) may have sums that count, too: for some secrets they would crowd into few lines.
 * Mixing takes that regularity away; being reversible, it leaves any two hashes as independent and uniform as they were. */
static inline uint64_t cyx_hash_mixed(uint64_t x)
{
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
    return x ^ x >> 32;
}

/* One block of a name that is shorter than one: what of it is where is told by the length. */
static inline cyx_wide cyx_hash_short(const uint64_t *secret, const uint8_t *at, size_t len)
{
    uint64_t first = 0, last = 0;
    if (len >= 8) {
        first = cyx_hash_word(at);
        last = cyx_hash_word(at + len - 8);
    } else {
        for (size_t i = 0; i < len; i++)
            first |= (uint64_t)at[i] << (8 * i);
    }
    return cyx_hash_product(secret, first, last);
}

/* Inlined wherever it is used: a loop of look-ups overlaps as many as the processor holds instructions of. */
static inline __attribute__((always_inline)) uint64_t cyx_hash_name(const cyx_secret *secret, const void *name, size_t len)
{
    const uint64_t *words = secret->words + CYX_HASH_SUM;
    const uint8_t *at = name;
    cyx_wide sum = len;
    if (__builtin_expect(len < CYX_HASH_BLOCK, false)) {
        sum += cyx_hash_short(words, at, len);
    } else if (__builtin_expect(len <= 4 * CYX_HASH_BLOCK, true)) {
        /* nearly all names: always four blocks, for a branch on how many there are would be a guess, half of them wrong */
        size_t last = len - CYX_HASH_BLOCK;
        sum += cyx_hash_block(words, at);
        sum += cyx_hash_block(words + 2, at + (last < 16 ? last : 16));
        sum += cyx_hash_block(words + 4, at + (last < 32 ? last : 32));
        sum += cyx_hash_block(words + 6, at + last);
    } else {
        const uint8_t *last = at + len - CYX_HASH_BLOCK;
        for (; at < last; at += CYX_HASH_BLOCK, words += 2)
            sum += cyx_hash_block(words, at);
        sum += cyx_hash_block(words, last);
    }
    cyx_wide value = cyx_hash_secret(secret, 0) + cyx_hash_secret(secret, 1) * (uint64_t)sum +
                     cyx_hash_secret(secret, 2) * (uint64_t)(sum >> 64);
    return cyx_hash_mixed((uint64_t)(value >> 64));
}

#endif
