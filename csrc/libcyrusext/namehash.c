/* namehash.c - the keyed hash of mailbox names, for those who call it. */
#include "namehash.h"

uint64_t cyx_name_hash(const cyx_secret *secret, const void *name, size_t len) { return cyx_hash_name(secret, name, len); }
