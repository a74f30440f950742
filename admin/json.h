/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * JSON pages without a check after every member: out of memory shows as a NULL from some jansson
 * call. json_*_new() take NULL values and then fail, so a hole anywhere makes `good` false, and no
 * page with holes in it is sent.
 */
#include <jansson.h>

#include "proxy/core/base.h"

struct page {
    bool good; /* true at first */
};

/* Notes a NULL; returns value. */
json_t *page_made(struct page *page, json_t *value);
/* Both take the value over. */
void page_put(struct page *page, json_t *object, const char *key, json_t *value);
void page_append(struct page *page, json_t *array, json_t *value);

json_t *page_number(uint64_t value);
/* Of a text that may quote anybody: what is not UTF-8 is not passed on. */
json_t *page_words(const char *text, size_t n);
/* null for NULL. */
json_t *page_string(const char *text);

/* The text with a final line end, to be freed; NULL: memory was out. Takes the value over. */
char *page_finish(struct page *page, json_t *value);
