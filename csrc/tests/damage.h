/* damage.h - a small store with one of everything, and its file as bytes that can be damaged. */
#ifndef CYX_TESTS_DAMAGE_H
#define CYX_TESTS_DAMAGE_H

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "salvage.h"

#define DAMAGE_NAMES 700u
#define DAMAGE_BIG_ACL 9000u

typedef struct sample {
    char root[32], state[64], run[64], data[96];
    uint8_t *bytes; /* the file up to its last page */
    size_t size;
    struct {
        char name[64];
        uint32_t state, server;
        uint64_t seq;
        size_t acl_len;
    } model[DAMAGE_NAMES];
} sample;

static uint64_t damage_seed = 0x9E3779B97F4A7C15u;
static inline uint64_t damage_draw(uint64_t below)
{
    damage_seed ^= damage_seed << 13;
    damage_seed ^= damage_seed >> 7;
    damage_seed ^= damage_seed << 17;
    return (damage_seed * 2685821657736338717u >> 16) % below;
}

static char damage_acl[DAMAGE_BIG_ACL];
static const char *const damage_servers[] = {"be1.example.org", "be2.example.org", "be3"};

static inline void sample_put(sample *s, cyx_writer *writer, uint32_t i, uint32_t state, uint32_t server, size_t acl_len)
{
    int64_t at;
    const cyx_put_record record = {.name = s->model[i].name, .name_len = strlen(s->model[i].name),
                                   .server = damage_servers[server], .server_len = strlen(damage_servers[server]),
                                   .partition = "default", .partition_len = 7, .acl = damage_acl, .acl_len = acl_len,
                                   .by = "tester@be1", .by_len = 10, .changed_at = 1700000000000000 + (int64_t)i,
                                   .state = state};
    CHECK(cyx_writer_put(writer, &record, &s->model[i].seq, &at) == CYX_OK);
    s->model[i].state = state;
    s->model[i].server = server;
    s->model[i].acl_len = acl_len;
}

static inline void sample_read(sample *s)
{
    cyx_image image;
    cyx_structure structure;
    CHECK(cyx_image_open(&image, s->data) == CYX_OK);
    CHECK(cyx_structure_check(&image, 0, NULL, NULL, &structure) == CYX_OK && structure.findings == 0);
    CHECK(structure.spare_sound && structure.records == DAMAGE_NAMES);
    s->size = structure.pages * image.page_size;
    CHECK((s->bytes = malloc(s->size)) != NULL);
    memcpy(s->bytes, image.at, s->size);
    cyx_structure_free(&structure);
    cyx_image_close(&image);
}

static inline void sample_make(sample *s)
{
    cyx_writer *writer;
    (void)snprintf(s->root, sizeof s->root, "/tmp/cyx-damage-XXXXXX");
    CHECK(mkdtemp(s->root));
    (void)snprintf(s->state, sizeof s->state, "%s/state", s->root);
    (void)snprintf(s->run, sizeof s->run, "%s/run", s->root);
    (void)snprintf(s->data, sizeof s->data, "%s/store/data.mdb", s->state);
    memset(damage_acl, 'x', sizeof damage_acl);
    CHECK(cyx_writer_open(s->state, s->run, "", (size_t)1 << 30, &writer) == CYX_OK);
    for (uint32_t i = 0; i < DAMAGE_NAMES; i++)
        (void)snprintf(s->model[i].name, sizeof s->model[i].name, i % 3 ? "user.u%04u" : "example.org!user.u%04u.Sent", i);
    for (uint32_t round = 0; round < 12; round++) {
        CHECK(cyx_writer_begin(writer) == CYX_OK);
        for (uint32_t i = 0; i < DAMAGE_NAMES; i++)
            if (round == 0 || damage_draw(9) == 0)
                sample_put(s, writer, i, round && damage_draw(4) == 0 ? CYX_DELETED : 1 + (uint32_t)damage_draw(2),
                           (uint32_t)damage_draw(3), i % 50 == 7 ? DAMAGE_BIG_ACL - i : 20 + i % 90);
        CHECK(cyx_writer_commit(writer) == CYX_OK);
    }
    cyx_writer_close(&writer);
    sample_read(s);
}

static inline void sample_remove(sample *s)
{
    char command[64];
    free(s->bytes);
    (void)snprintf(command, sizeof command, "rm -r %s", s->root);
    CHECK(system(command) == 0);
}

#endif
