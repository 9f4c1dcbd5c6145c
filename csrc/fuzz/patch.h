/* patch.h - what the targets that damage a whole file make of their input: bytes to be changed in a good one.
 *
 * Three bytes of place and one of value each; the place is taken modulo the size of the file, and every other one is
 * drawn to where a page or the file begins, for that is where its structure stands.
 */
#ifndef CYX_FUZZ_PATCH_H
#define CYX_FUZZ_PATCH_H

#include <stddef.h>
#include <stdint.h>

#define PATCH_BYTES 4u

static inline size_t patch_place(const uint8_t *patch, size_t size)
{
    size_t place = ((size_t)patch[0] | (size_t)patch[1] << 8 | (size_t)(patch[2] & 0x7F) << 16) % size;
    if (patch[2] & 0x80)
        place = (place & ~(size_t)4095) | (place & 127);
    return place < size ? place : 0;
}

#endif
