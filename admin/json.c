/* SPDX-License-Identifier: MIT */
#include "admin/json.h"

#include <stdlib.h>
#include <string.h>

json_t *page_made(struct page *page, json_t *value)
{
    page->good = page->good && value;
    return value;
}

void page_put(struct page *page, json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, page_made(page, value)) != 0)
        page->good = false;
}

void page_append(struct page *page, json_t *array, json_t *value)
{
    if (json_array_append_new(array, page_made(page, value)) != 0)
        page->good = false;
}

json_t *page_number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

json_t *page_words(const char *text, size_t n)
{
    json_t *value = json_stringn(text, n);
    if (value)
        return value;
    char *copy = malloc(n + 1);
    if (!copy)
        return NULL;
    for (size_t i = 0; i < n; i++)
        copy[i] = text[i] & (char)0x80 ? '?' : text[i];
    value = json_stringn(copy, n);
    free(copy);
    return value;
}

json_t *page_string(const char *text)
{
    return text ? page_words(text, strlen(text)) : json_null();
}

char *page_finish(struct page *page, json_t *value)
{
    char *text = page->good ? json_dumps(value, JSON_INDENT(2)) : NULL;
    json_decref(value);
    size_t n = text ? strlen(text) : 0;
    char *grown = text ? realloc(text, n + 2) : NULL;
    if (!grown) {
        free(text);
        return NULL;
    }
    memcpy(grown + n, "\n", 2);
    return grown;
}
