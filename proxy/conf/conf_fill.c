/* SPDX-License-Identifier: MIT */
/* Maps of the tree into structs, driven by rows; and what to say about keys that no row knows. */
#include "proxy/conf/conf_private.h"

#include <string.h>

static void *struct_of(const struct schema_table *table, void *base)
{
    return (char *)base + table->offset;
}

static bool fill_path(struct conf_build *b, const struct schema_row *row, struct conf_place at,
                      void *base)
{
    const char *path = schema_string(row, base);
    if (path && !(path = conf_readable(b, at, path)))
        return false;
    memcpy((char *)base + row->offset, &path, sizeof path);
    return true;
}

bool conf_fill_row(struct conf_build *b, const struct schema_row *row, const struct conf_node *node,
                   void *base)
{
    struct span text;
    struct err err;
    if (!conf_scalar(b, node, row->key, &text))
        return false;
    if (!schema_set(row, base, text, node->text, &b->arena->keep, &err))
        return conf_error(b, node->at, "%s: %s", row->key, err.note);
    return row->type != SCHEMA_PATH || fill_path(b, row, node->at, base);
}

bool conf_fill_defaults(struct conf_build *b, const struct schema_table *tables, size_t n,
                        unsigned variant, void *base)
{
    for (size_t i = 0; i < n; i++)
        if (!schema_defaults(&tables[i], variant, struct_of(&tables[i], base), &b->arena->keep))
            return conf_no_memory(b);
    return true;
}

static bool knows(const struct schema_row *row, unsigned variant)
{
    return variant == CONF_ANY_VARIANT || schema_knows(row, variant);
}

/* ---- keys nobody knows ----------------------------------------------------------------------- */

struct guess {
    struct span typed;
    const char *key;
    unsigned distance;
};

static void consider(struct guess *g, const char *key)
{
    unsigned d = schema_distance(g->typed, span_str(key));
    if (!schema_looks_like(g->typed, span_str(key)) || (g->key && d >= g->distance))
        return;
    g->key = key;
    g->distance = d;
}

/* Another table that has exactly this key: `max` written beside `size` instead of in it. */
static const char *table_with(const struct schema_table *tables, size_t n, struct span key)
{
    for (size_t i = 0; i < n; i++)
        if (tables[i].key && schema_find(&tables[i], key))
            return tables[i].key;
    return NULL;
}

static bool unknown_key(struct conf_build *b, const struct conf_item *item,
                        const struct schema_table *tables, size_t n, unsigned variant,
                        const char *where)
{
    char quoted[CONF_QUOTE + 8];
    struct guess g = {.typed = item->key};
    conf_quote(item->key, quoted);
    for (size_t i = 0; i < tables[0].n_rows; i++)
        if (knows(&tables[0].rows[i], variant))
            consider(&g, tables[0].rows[i].key);
    for (size_t i = 1; i < n; i++)
        consider(&g, tables[i].key);
    const char *table = table_with(tables, n, item->key);
    if (table)
        return conf_error(b, item->at, "unknown key %s in %s: it belongs into %s", quoted, where,
                          table);
    if (g.key)
        return conf_error(b, item->at, "unknown key %s in %s: did you mean %s?", quoted, where,
                          g.key);
    return conf_error(b, item->at, "unknown key %s in %s: see `carpool config` for all keys",
                      quoted, where);
}

static bool wrong_kind(struct conf_build *b, const struct conf_item *item,
                       const struct schema_row *row)
{
    char kinds[32] = "";
    for (unsigned k = 0; conf_kind_words[k]; k++)
        if (row->only & 1u << k)
            snprintf(kinds + strlen(kinds), sizeof kinds - strlen(kinds), "%s%s",
                     *kinds ? " and " : "", conf_kind_words[k]);
    return conf_error(b, item->at, "%s is only for pools of kind %s: leave it out", row->key,
                      kinds);
}

/* ---- maps ------------------------------------------------------------------------------------ */

static bool fill_rows(struct conf_build *b, const struct conf_item *item,
                      const struct schema_table *table, unsigned variant, void *base, bool *known)
{
    const struct schema_row *row = schema_find(table, item->key);
    *known = row != NULL;
    if (!row || row->own)
        return true;
    if (!knows(row, variant))
        return wrong_kind(b, item, row);
    return conf_fill_row(b, row, item->value, struct_of(table, base));
}

static const struct schema_table *table_named(const struct schema_table *tables, size_t n,
                                              struct span key)
{
    for (size_t i = 0; i < n; i++)
        if (tables[i].key && span_eq(span_str(tables[i].key), key))
            return &tables[i];
    return NULL;
}

static bool fill_table(struct conf_build *b, const struct conf_item *item,
                       const struct schema_table *table, unsigned variant, void *base)
{
    const struct conf_node *map = item->value;
    bool good = true, known;
    if (conf_is_null(map))
        return true;
    if (map->type != CONF_MAP)
        return conf_error(b, map->at, "%s is a mapping: write %s: { %s: ... }", table->key,
                          table->key, table->rows[0].key);
    for (const struct conf_item *i = map->items; i; i = i->next) {
        good = fill_rows(b, i, table, variant, base, &known) && good;
        if (!known)
            good = unknown_key(b, i, table, 1, variant, table->key);
    }
    return good;
}

bool conf_fill(struct conf_build *b, const struct conf_node *map, const struct schema_table *tables,
               size_t n, unsigned variant, const char *where, void *base)
{
    bool good = true, known;
    if (map->type != CONF_MAP)
        return conf_error(b, map->at, "%s is a mapping: write `key: value` lines", where);
    for (const struct conf_item *item = map->items; item; item = item->next) {
        const struct schema_table *table = table_named(tables, n, item->key);
        if (table) {
            good = fill_table(b, item, table, variant, base) && good;
            continue;
        }
        good = fill_rows(b, item, &tables[0], variant, base, &known) && good;
        if (!known)
            good = unknown_key(b, item, tables, n, variant, where);
    }
    return good;
}
