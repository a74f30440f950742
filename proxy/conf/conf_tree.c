/* SPDX-License-Identifier: MIT */
/*
 * YAML to a tree that remembers places. libyaml's events are turned into scalars, lists and maps,
 * all of them bounded; an alias is the very node its anchor names, so the tree is as large as the
 * text. JSON is YAML too.
 *
 * What is YAML but makes no sense here (a key twice, an alias of nothing) is reported and left out,
 * and reading goes on: one run shows every mistake. Only what is no YAML ends it.
 */
#include "proxy/conf/conf_private.h"

#include <string.h>
#include <yaml.h>

#define DEPTH_MAX 16
#define ITEMS_MAX 4096 /* of one list or map */
#define MAP_KEYS_MAX 1024
#define ANCHORS_MAX 64

/*
 * YAML gives braces a meaning inside of { } and [ ], so an unquoted ${NAME} would not be a value
 * there. While YAML looks at the text the braces of variables are two characters that nobody uses;
 * one stands for one, so that columns stay right.
 */
#define OPEN_BRACE "\xee\x80\x80"  /* U+E000 */
#define CLOSE_BRACE "\xee\x80\x81" /* U+E001 */
#define BRACE_BYTES 3

struct reader {
    struct conf_build *b;
    yaml_parser_t yaml;
    struct {
        const char *name;
        const struct conf_node *node;
    } anchors[ANCHORS_MAX];
    size_t n_anchors;
};

static const struct conf_node *read_node(struct reader *r, yaml_event_t *event, unsigned depth);

static struct conf_place place_of(const yaml_mark_t *mark)
{
    return (struct conf_place){(uint32_t)mark->line + 1, (uint32_t)mark->column + 1};
}

static bool yaml_problem(struct reader *r)
{
    const yaml_parser_t *y = &r->yaml;
    if (y->error == YAML_MEMORY_ERROR)
        return conf_no_memory(r->b);
    struct conf_place at = place_of(y->error == YAML_READER_ERROR ? &y->mark : &y->problem_mark);
    return conf_error(r->b, at, "this is not YAML: %s%s%s; compare the indentation and the quotes",
                      y->problem ? y->problem : "it cannot be read", y->context ? " " : "",
                      y->context ? y->context : "");
}

static bool next_event(struct reader *r, yaml_event_t *event)
{
    return yaml_parser_parse(&r->yaml, event) == 1 || yaml_problem(r);
}

static struct span yaml_span(const yaml_char_t *p, size_t n)
{
    return span_of(p, n);
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static struct conf_node *new_node(struct reader *r, enum conf_node_type type,
                                  const yaml_event_t *event)
{
    struct conf_node *node = conf_alloc(&r->b->scratch, 1, sizeof *node);
    if (!node) {
        conf_no_memory(r->b);
        return NULL;
    }
    node->type = type;
    node->at = place_of(&event->start_mark);
    return node;
}

/* Tags other than YAML's own would change the meaning of a value, so they are not just ignored. */
static void check_tag(struct reader *r, const yaml_char_t *tag, const yaml_event_t *event)
{
    static const char own[] = "tag:yaml.org,2002:";
    if (tag && strcmp((const char *)tag, "!") != 0 &&
        strncmp((const char *)tag, own, sizeof own - 1) != 0)
        conf_error(r->b, place_of(&event->start_mark),
                   "tags have no meaning here: write the value without one");
}

static bool remember_anchor(struct reader *r, const char *name, const struct conf_node *node)
{
    if (!name)
        return true;
    if (r->n_anchors == ANCHORS_MAX)
        return conf_error(r->b, node->at, "there are more than %d anchors: use fewer", ANCHORS_MAX);
    r->anchors[r->n_anchors].name = name;
    r->anchors[r->n_anchors++].node = node;
    return true;
}

static const struct conf_node *find_anchor(struct reader *r, const yaml_event_t *event)
{
    static const struct conf_node nothing = {.left_out = true};
    char quoted[CONF_QUOTE + 8];
    const char *name = (const char *)event->data.alias.anchor;
    for (size_t i = r->n_anchors; i > 0; i--)
        if (strcmp(r->anchors[i - 1].name, name) == 0)
            return r->anchors[i - 1].node;
    conf_error(r->b, place_of(&event->start_mark),
               "no anchor %s is complete above this alias: write &%s at the value it stands for",
               conf_quote(span_str(name), quoted), name);
    return &nothing;
}

/* ---- braces of variables --------------------------------------------------------------------- */

/* Length of the ${...} at raw.p[i], on one line; 0 if none starts there. */
static size_t variable_at(struct span raw, size_t i)
{
    size_t n =
        raw.p[i] == '$' && i + 1 < raw.n && raw.p[i + 1] == '{' ? conf_var_length(raw, i) : 0;
    return n > 0 && memchr(raw.p + i, '\n', n) ? 0 : n;
}

static struct span hide_braces(struct conf_build *b, struct span text)
{
    size_t n = 0, variables = 0;
    for (size_t i = 0; i < text.n; i++)
        variables += text.p[i] == '$';
    char *p = conf_alloc(&b->scratch, text.n + variables * 2 * (BRACE_BYTES - 1) + 1, 1);
    for (size_t i = 0; p && i < text.n;) {
        size_t var = variable_at(text, i);
        size_t inner = var ? var - 3 : 0;
        if (var == 0) {
            p[n++] = (char)text.p[i++];
            continue;
        }
        memcpy(p + n, "$" OPEN_BRACE, 1 + BRACE_BYTES);
        memcpy(p + n + 1 + BRACE_BYTES, text.p + i + 2, inner);
        memcpy(p + n + 1 + BRACE_BYTES + inner, CLOSE_BRACE, BRACE_BYTES);
        n += 1 + 2 * BRACE_BYTES + inner;
        i += var;
    }
    return span_of(p, n);
}

static size_t show_braces(char *p, size_t n)
{
    size_t to = 0;
    for (size_t i = 0; i < n;) {
        bool open = n - i >= BRACE_BYTES && memcmp(p + i, OPEN_BRACE, BRACE_BYTES) == 0;
        bool close = n - i >= BRACE_BYTES && memcmp(p + i, CLOSE_BRACE, BRACE_BYTES) == 0;
        p[to++] = open ? '{' : close ? '}' : p[i];
        i += open || close ? BRACE_BYTES : 1;
    }
    p[to] = 0;
    return to;
}

static const struct conf_node *read_scalar(struct reader *r, const yaml_event_t *event)
{
    struct conf_node *node = new_node(r, CONF_SCALAR, event);
    if (!node)
        return NULL;
    check_tag(r, event->data.scalar.tag, event);
    struct span text = yaml_span(event->data.scalar.value, event->data.scalar.length);
    char *copy = conf_keep(&r->b->scratch, text);
    if (!copy) {
        conf_no_memory(r->b);
        return NULL;
    }
    node->text = span_of(copy, show_braces(copy, text.n));
    node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return node;
}

/* One value; `end` is the event that closes the collection it stands in: then *value is NULL. */
static bool read_value(struct reader *r, yaml_event_type_t end, unsigned depth,
                       const struct conf_node **value)
{
    yaml_event_t event;
    *value = NULL;
    if (!next_event(r, &event))
        return false;
    bool ended = event.type == end;
    if (!ended)
        *value = read_node(r, &event, depth);
    yaml_event_delete(&event);
    return ended || *value != NULL;
}

static bool append(struct reader *r, struct conf_node *parent, struct conf_item ***tail,
                   struct conf_item item)
{
    if (item.value->left_out)
        return true;
    struct conf_item *copy = conf_alloc(&r->b->scratch, 1, sizeof *copy);
    if (!copy)
        return conf_no_memory(r->b);
    if (++parent->n_items > (parent->type == CONF_MAP ? MAP_KEYS_MAX : ITEMS_MAX))
        return conf_error(r->b, item.at, "there are too many entries here: write fewer");
    *copy = item;
    **tail = copy;
    *tail = &copy->next;
    return true;
}

static bool read_list(struct reader *r, struct conf_node *list, unsigned depth)
{
    struct conf_item **tail = &list->items;
    for (;;) {
        const struct conf_node *value;
        if (!read_value(r, YAML_SEQUENCE_END_EVENT, depth, &value))
            return false;
        if (!value)
            return true;
        if (!append(r, list, &tail, (struct conf_item){.at = value->at, .value = value}))
            return false;
    }
}

static bool key_is_good(struct reader *r, const struct conf_node *map, const struct conf_node *key)
{
    char quoted[CONF_QUOTE + 8];
    if (key->left_out)
        return false;
    if (key->type != CONF_SCALAR)
        return conf_error(r->b, key->at, "a key is a word: write `key: value`");
    if (span_eq(key->text, SPAN_LIT("<<")))
        return conf_error(r->b, key->at,
                          "merge keys are not supported: write the keys, or alias a whole mapping");
    for (const struct conf_item *item = map->items; item; item = item->next)
        if (span_eq(item->key, key->text))
            return conf_error(r->b, key->at, "%s is here twice, first at line %u: keep one",
                              conf_quote(key->text, quoted), item->at.line);
    return true;
}

static bool read_map(struct reader *r, struct conf_node *map, unsigned depth)
{
    struct conf_item **tail = &map->items;
    for (;;) {
        const struct conf_node *key, *value;
        if (!read_value(r, YAML_MAPPING_END_EVENT, depth, &key))
            return false;
        if (!key)
            return true;
        bool key_good = key_is_good(r, map, key);
        if (!read_value(r, YAML_NO_EVENT, depth, &value))
            return false;
        struct conf_item item = {.key = key->text, .at = key->at, .value = value};
        if (key_good && !append(r, map, &tail, item))
            return false;
    }
}

static const struct conf_node *read_collection(struct reader *r, const yaml_event_t *event,
                                               unsigned depth)
{
    bool map = event->type == YAML_MAPPING_START_EVENT;
    struct conf_node *node = new_node(r, map ? CONF_MAP : CONF_LIST, event);
    if (!node)
        return NULL;
    check_tag(r, map ? event->data.mapping_start.tag : event->data.sequence_start.tag, event);
    if (depth == DEPTH_MAX) {
        conf_error(r->b, node->at, "this is nested more than %d deep: write it flatter", DEPTH_MAX);
        return NULL;
    }
    bool good = map ? read_map(r, node, depth + 1) : read_list(r, node, depth + 1);
    return good ? node : NULL;
}

static const struct conf_node *read_node(struct reader *r, yaml_event_t *event, unsigned depth)
{
    const struct conf_node *node;
    const yaml_char_t *anchor;
    if (event->type == YAML_ALIAS_EVENT)
        return find_anchor(r, event);
    if (event->type == YAML_SCALAR_EVENT) {
        node = read_scalar(r, event);
        anchor = event->data.scalar.anchor;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        node = read_collection(r, event, depth);
        anchor = event->data.sequence_start.anchor;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        node = read_collection(r, event, depth);
        anchor = event->data.mapping_start.anchor;
    } else {
        conf_error(r->b, place_of(&event->start_mark), "a value is missing here: write one");
        return NULL;
    }
    const char *name =
        node && anchor ? conf_keep(&r->b->scratch, span_str((const char *)anchor)) : NULL;
    if (node && anchor && !name)
        conf_no_memory(r->b);
    return node && (!anchor || name) && remember_anchor(r, name, node) ? node : NULL;
}

/* ---- documents ------------------------------------------------------------------------------- */

/* Stream start, at most one document, stream end. */
static const struct conf_node *read_stream(struct reader *r)
{
    const struct conf_node *root = NULL;
    bool ended = false;
    while (!ended) {
        yaml_event_t event;
        if (!next_event(r, &event))
            return NULL;
        ended = event.type == YAML_STREAM_END_EVENT;
        bool second = event.type == YAML_DOCUMENT_START_EVENT && root;
        bool good = true;
        if (second)
            conf_error(r->b, place_of(&event.start_mark),
                       "a second document starts here: keep one");
        else if (event.type == YAML_DOCUMENT_START_EVENT)
            good = read_value(r, YAML_NO_EVENT, 0, &root);
        else if (ended && !root)
            root = new_node(r, CONF_MAP, &event);
        yaml_event_delete(&event);
        if (!good)
            return NULL;
        if (second)
            break; /* what it says is not meant for anybody */
    }
    return root && root->left_out ? NULL : root;
}

const struct conf_node *conf_tree(struct conf_build *b, struct span text)
{
    struct reader r = {.b = b};
    if (text.n > CONF_TEXT_MAX) {
        conf_error(b, (struct conf_place){1, 1},
                   "the text is larger than %llu bytes: make it smaller",
                   (unsigned long long)CONF_TEXT_MAX);
        return NULL;
    }
    text = hide_braces(b, text);
    if (!text.p || !yaml_parser_initialize(&r.yaml)) {
        conf_no_memory(b);
        return NULL;
    }
    yaml_parser_set_input_string(&r.yaml, text.p, text.n);
    const struct conf_node *root = read_stream(&r);
    yaml_parser_delete(&r.yaml);
    return root;
}

bool conf_is_null(const struct conf_node *node)
{
    static const char *const words[] = {"", "~", "null", "Null", "NULL"};
    for (size_t i = 0; node->type == CONF_SCALAR && node->plain && i < ARRAY_LEN(words); i++)
        if (span_eq(node->text, span_str(words[i])))
            return true;
    return false;
}

const struct conf_item *conf_find(const struct conf_node *map, const char *key)
{
    if (!map || map->type != CONF_MAP)
        return NULL;
    for (const struct conf_item *item = map->items; item; item = item->next)
        if (span_eq(item->key, span_str(key)))
            return item;
    return NULL;
}

struct conf_place conf_at(const struct conf_node *map, const char *table, const char *key)
{
    struct conf_place at = map ? map->at : (struct conf_place){1, 1};
    const struct conf_item *item = NULL;
    if (map && table) {
        item = conf_find(map, table);
        at = item ? item->value->at : at;
        map = item ? item->value : NULL;
    }
    item = key ? conf_find(map, key) : NULL;
    return item ? item->value->at : at;
}
