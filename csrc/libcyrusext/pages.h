/* pages.h - the pages of an LMDB file as bytes that nobody vouches for: what liblmdb 0.9 writes, read without it.
 *
 * LMDB follows whatever it finds in its file, so a flipped bit there can end the process that maps it.  These functions
 * believe nothing: every number is compared with what there is before it is used.
 */
#ifndef CYX_PAGES_H
#define CYX_PAGES_H

#include "internal.h"

#define CYX_PAGE_HEAD 16u
#define CYX_PAGE_BRANCH 1u
#define CYX_PAGE_LEAF 2u
#define CYX_PAGE_OVERFLOW 4u
#define CYX_PAGE_META 8u
#define CYX_NODE_HEAD 8u
#define CYX_NODE_BIG 1u      /* the value stands in pages of its own */
#define CYX_NODE_DATABASE 2u /* the value describes a database */
#define CYX_PAGE_NONE UINT64_MAX

/* The file, mapped or in memory. */
typedef struct cyx_image {
    const uint8_t *at;
    size_t size;
    size_t page_size;
    uint64_t pages; /* how many whole pages there are */
} cyx_image;

/* A database as its parent describes it. */
typedef struct cyx_tree {
    uint32_t pad; /* of the first one in a meta page: the page size */
    uint16_t flags, depth;
    uint64_t branch_pages, leaf_pages, overflow_pages, entries, root;
} cyx_tree;

typedef struct cyx_meta_page {
    uint32_t magic, version;
    uint64_t address, map_size;
    cyx_tree spare, main; /* the free pages; the databases by name */
    uint64_t last_page, txn;
} cyx_meta_page;

_Static_assert(sizeof(cyx_tree) == 48 && sizeof(cyx_meta_page) == 136, "as liblmdb has them");

typedef struct cyx_node {
    const uint8_t *key;
    const uint8_t *value; /* in the page; of a branch nothing */
    size_t key_len, size; /* size: of the value, or of what a big one has in its own pages */
    uint64_t child;       /* of a branch, or of a big value: the page */
    unsigned flags;
} cyx_node;

/* The size of a page, from whichever meta page tells it; 4096 where none does. */
size_t cyx_image_page_size(const uint8_t *at, size_t size);
/* Map `path`, which must not get shorter while it is mapped.  CYX_EUNAVAIL, CYX_EIO. */
CYX_MUST_CHECK int cyx_image_open(cyx_image *image, const char *path);
void cyx_image_close(cyx_image *image);
cyx_image cyx_image_of(const uint8_t *at, size_t size);

static inline const uint8_t *cyx_page(const cyx_image *image, uint64_t number)
{
    return number < image->pages ? image->at + number * image->page_size : NULL;
}
static inline unsigned cyx_page_flags(const uint8_t *page) { return cyx_get16(page + 10); }
static inline size_t cyx_page_lower(const uint8_t *page) { return cyx_get16(page + 12); }

/* How much of the page a node takes. */
static inline size_t cyx_node_room(const cyx_node *node, bool branch)
{
    size_t value = branch ? 0 : node->flags & CYX_NODE_BIG ? sizeof(uint64_t) : node->size;
    return (CYX_NODE_HEAD + node->key_len + value + 1) & ~(size_t)1;
}

/* The node at `offset` of a page; false when it does not lie in the page as a whole, behind `floor`.  In line: this is
 * most of the work of a check. */
static inline bool cyx_page_node(const cyx_image *image, const uint8_t *page, size_t offset, size_t floor, bool branch,
                                 cyx_node *node_r)
{
    if (offset < floor || (offset & 1) || offset > image->page_size - CYX_NODE_HEAD)
        return false;
    const uint8_t *at = page + offset;
    uint64_t low = cyx_get32(at);
    node_r->flags = cyx_get16(at + 4);
    node_r->key_len = cyx_get16(at + 6);
    node_r->key = at + CYX_NODE_HEAD;
    node_r->value = node_r->key + node_r->key_len;
    node_r->size = branch ? 0 : (size_t)low;
    node_r->child = branch ? low | (uint64_t)node_r->flags << 32 : 0;
    if (cyx_node_room(node_r, branch) > image->page_size - offset)
        return false;
    if (!branch && node_r->flags & CYX_NODE_BIG)
        node_r->child = cyx_get64(node_r->value);
    return true;
}

/* How many pages a big value of this size needs. */
static inline uint64_t cyx_big_pages(const cyx_image *image, size_t size)
{
    return (CYX_PAGE_HEAD - 1 + size) / image->page_size + 1;
}
/* Say what is wrong with the nodes of a branch or leaf page, NULL if they fill it without a gap, none over another.
 * `marks` has room for half as many numbers as a page has bytes, all 0 before the first call. */
const char *cyx_page_problem(const cyx_image *image, const uint8_t *page, bool branch, uint32_t *marks, uint32_t turn);

#endif
