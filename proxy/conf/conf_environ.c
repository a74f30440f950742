/* SPDX-License-Identifier: MIT */
/*
 * CARPOOL_* variables: which key each stands for, and a word about those that nobody reads. That is
 * a warning and no error: Kubernetes puts variables of its own into every container, and a service
 * that happens to be called carpool must not keep one from starting.
 */
#include "proxy/conf/conf_private.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "CARPOOL_"
#define NAME_MAX_BYTES 64

/* Beside the keys; the last three are also the command line's. */
static const char *const others[] = {"CARPOOL_POOLS", "CARPOOL_LISTEN", "CARPOOL_ADMIN",
                                     "CARPOOL_ADMIN_SOCKET", "CARPOOL_ADMIN_TOKEN"};
#define OTHERS_OF_CLI 2 /* where those begin */

void conf_variable_name(const struct schema_table *table, const struct schema_row *row, char *buf,
                        size_t cap)
{
    snprintf(buf, cap, PREFIX "%s%s%s", table->key ? table->key : "", table->key ? "_" : "",
             row->key);
    for (char *c = buf; *c; c++)
        *c = (char)toupper((unsigned char)*c);
}

/* What Kubernetes makes of a service's name. */
static bool is_service_link(struct span name)
{
    static const char *const starts[] = {PREFIX "SERVICE_", PREFIX "PORT_"};
    for (size_t i = 0; i < ARRAY_LEN(starts); i++)
        if (name.n > strlen(starts[i]) && memcmp(name.p, starts[i], strlen(starts[i])) == 0)
            return true;
    return span_eq(name, SPAN_LIT(PREFIX "PORT"));
}

struct guess {
    struct span typed;
    char name[NAME_MAX_BYTES]; /* the nearest so far; empty: none is near */
    char key[NAME_MAX_BYTES];  /* exact: which key it stands for, empty if for none */
    unsigned distance;
    bool exact, cli;
};

static void consider(struct guess *g, const char *name, const char *key, bool cli)
{
    struct span typed = span_skip(g->typed, sizeof PREFIX - 1);
    struct span word = span_str(name + sizeof PREFIX - 1);
    if (span_eq(typed, word)) {
        g->exact = true;
        g->cli = g->cli || cli;
        snprintf(g->key, sizeof g->key, "%s", key);
        return;
    }
    unsigned d = schema_distance(typed, word);
    if (!schema_looks_like(typed, word) || (*g->name && d >= g->distance))
        return;
    snprintf(g->name, sizeof g->name, "%s", name);
    g->distance = d;
}

static void look_up(struct guess *g)
{
    char name[NAME_MAX_BYTES], key[NAME_MAX_BYTES];
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        consider(g, others[i], "", i >= OTHERS_OF_CLI);
    for (size_t i = 0; i < conf_n_top_tables; i++) {
        const struct schema_table *table = &conf_top_tables[i];
        for (size_t j = 0; j < table->n_rows; j++) {
            const struct schema_row *row = &table->rows[j];
            if (row->own)
                continue;
            conf_variable_name(table, row, name, sizeof name);
            snprintf(key, sizeof key, "%s%s%s", table->key ? table->key : "", table->key ? "." : "",
                     row->key);
            consider(g, name, key, false);
        }
    }
}

/* Is it put into the text somewhere? */
static bool is_used_by(struct span text, struct span name)
{
    for (struct span rest = text; rest.n > name.n + 2;) {
        const uint8_t *at = memmem(rest.p, rest.n, name.p, name.n);
        if (!at)
            return false;
        if (at >= text.p + 2 && at[-1] == '{' && at[-2] == '$')
            return true;
        rest = span_skip(rest, (size_t)(at - rest.p) + 1);
    }
    return false;
}

static void judge(struct conf_build *b, struct span name, const struct span *text)
{
    struct guess g = {.typed = name};
    const struct conf_place at = {1, 1};
    look_up(&g);
    if (g.exact && (!text || g.cli))
        return;
    if (g.exact && *g.key)
        conf_warn(b, at, "nobody reads it, since there is a file: write %s there", g.key);
    else if (g.exact)
        conf_warn(b, at, "nobody reads it, since there is a file: write it there");
    else if (*g.name)
        conf_warn(b, at, "nobody reads it: did you mean %s?", g.name);
    else
        conf_warn(b, at, "nobody reads it: see docs/configuration.md for the names");
}

void conf_check_environment(struct conf_build *b, const struct span *text)
{
    extern char **environ;
    const char *file = b->file;
    for (char **e = environ; *e; e++) {
        char copy[NAME_MAX_BYTES];
        struct span name = span_of(*e, strcspn(*e, "="));
        if (name.n < sizeof PREFIX || name.n >= sizeof copy ||
            memcmp(name.p, PREFIX, sizeof PREFIX - 1) != 0 || is_service_link(name) ||
            (text && is_used_by(*text, name)))
            continue;
        memcpy(copy, name.p, name.n);
        copy[name.n] = '\0';
        b->file = copy;
        judge(b, name, text);
    }
    b->file = file;
}
