/* SPDX-License-Identifier: MIT */
#pragma once
/* What the tests of this room share: load a text, URLs or a file of a throwaway folder. */
#include "proxy/conf/conf.h"

struct loaded {
    struct config *config; /* NULL after errors */
    struct conf_report *report;
    char *said;    /* the report, printed */
    char *printed; /* the effective configuration; NULL without one */
};

struct loaded load_text(const char *text);
struct loaded load_file(const char *path);
struct loaded load_urls(const char *const *urls, size_t n);
/* Loads a text that must be good; fails the test with the report otherwise. */
struct loaded load_good(const char *text);
void unload(struct loaded *l);

/* An endpoint of the pool in { upstream: url }, which must be good. */
const struct endpoint_conf *first_endpoint(const struct loaded *l);

/* A folder for one test, removed with everything in it. */
struct folder {
    char path[64];
};
struct folder folder_new(void);
void folder_remove(const struct folder *folder);
/* Writes a file; returns its path in a static buffer that the next call reuses. */
const char *folder_write(const struct folder *folder, const char *name, const char *text);

/* Prints by a function that wants a FILE; free() it. */
char *printed_by(void (*print)(FILE *out, const void *what), const void *what);
