/* SPDX-License-Identifier: MIT */
#include "admin/target.h"

enum { READS = 0, OPEN = 1, POSTS = 2 };

struct row {
    const char *path;
    enum page_id page;
    int how;
    const char *action;
};

static const struct row pages[] = {
    {"/", PAGE_INDEX, READS, NULL},
    {"/live", PAGE_LIVE, OPEN, NULL},
    {"/ready", PAGE_READY, OPEN, NULL},
    {"/metrics", PAGE_METRICS, OPEN, NULL},
    {"/stats", PAGE_STATS, READS, NULL},
    {"/pools", PAGE_POOLS, READS, NULL},
    {"/clients", PAGE_CLIENTS, READS, NULL},
    {"/servers", PAGE_SERVERS, READS, NULL},
    {"/config", PAGE_CONFIG, READS, NULL},
    {"/reload", PAGE_RELOAD, POSTS, "reload"},
    {"/shutdown", PAGE_SHUTDOWN, POSTS, "shutdown"},
};

/* /pools/NAME/... */
static const struct row actions[] = {
    {"pause", PAGE_PAUSE, POSTS, "pause"},       {"resume", PAGE_RESUME, POSTS, "resume"},
    {"recycle", PAGE_RECYCLE, POSTS, "recycle"}, {"drain", PAGE_DRAIN, POSTS, "drain"},
    {"breaker", PAGE_BREAKER, POSTS, "breaker"},
};

static const struct row *find(const struct row *rows, size_t n, struct span path)
{
    for (size_t i = 0; i < n; i++)
        if (span_eq(span_str(rows[i].path), path))
            return &rows[i];
    return NULL;
}

/* Cuts `s` at the first `c`; *rest is what follows it, empty if there is none. */
static struct span cut(struct span s, char c, struct span *rest)
{
    const uint8_t *at = s.n ? memchr(s.p, c, s.n) : NULL;
    size_t n = at ? (size_t)(at - s.p) : s.n;
    *rest = span_skip(s, at ? n + 1 : n);
    return span_of(s.p, n);
}

static const struct row *find_action(struct span path, struct span *pool)
{
    const struct span prefix = SPAN_LIT("/pools/");
    if (path.n < prefix.n || !span_eq(span_of(path.p, prefix.n), prefix))
        return NULL;
    struct span action;
    *pool = cut(span_skip(path, prefix.n), '/', &action);
    return pool->n ? find(actions, ARRAY_LEN(actions), action) : NULL;
}

struct target target_of(enum http_method method, struct span path)
{
    struct target t = {.status = 404};
    path = cut(path, '?', &t.query);
    const struct row *row = find(pages, ARRAY_LEN(pages), path);
    if (!row)
        row = find_action(path, &t.pool);
    if (!row)
        return t;
    t.page = row->page;
    t.open = row->how == OPEN;
    t.changes = row->how == POSTS;
    t.action = t.changes ? row->action : NULL;
    bool fits = t.changes ? method == HTTP_M_POST : method == HTTP_M_GET || method == HTTP_M_HEAD;
    t.status = fits ? 0 : 405;
    t.allow = t.changes ? "Allow: POST\r\n" : "Allow: GET, HEAD\r\n";
    return t;
}

struct span target_param(struct span query, struct span name)
{
    while (query.n) {
        struct span value, pair = cut(query, '&', &query);
        if (span_eq(cut(pair, '=', &value), name))
            return value;
    }
    return (struct span){0};
}
