/* SPDX-License-Identifier: MIT */
#include "tests/unit/conf/loading.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

char *printed_by(void (*print)(FILE *out, const void *what), const void *what)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    assert_non_null(out);
    print(out, what);
    fclose(out);
    return text;
}

static void print_report(FILE *out, const void *what)
{
    conf_report_print(what, out);
}

static void print_config(FILE *out, const void *what)
{
    conf_print(what, out);
}

static struct loaded told(struct config *config, struct conf_report *report)
{
    struct loaded l = {.config = config, .report = report};
    l.said = printed_by(print_report, report);
    l.printed = config ? printed_by(print_config, config) : NULL;
    /* no configuration without a reason, no reason with a configuration */
    assert_int_equal(conf_report_errors(report) == 0, config != NULL);
    return l;
}

struct loaded load_text(const char *text)
{
    struct conf_report *report = conf_report_new();
    assert_non_null(report);
    return told(conf_load_text("t.yaml", span_str(text), NULL, report), report);
}

struct loaded load_file(const char *path)
{
    struct conf_report *report = conf_report_new();
    assert_non_null(report);
    return told(conf_load_file(path, NULL, report), report);
}

struct loaded load_urls(const char *const *urls, size_t n)
{
    struct conf_report *report = conf_report_new();
    assert_non_null(report);
    return told(conf_load_urls(urls, n, NULL, report), report);
}

struct loaded load_good(const char *text)
{
    struct loaded l = load_text(text);
    if (!l.config)
        fail_msg("a good configuration is refused:\n%s\n%s", text, l.said);
    return l;
}

void unload(struct loaded *l)
{
    conf_free(&l->config);
    conf_report_free(&l->report);
    free(l->said);
    free(l->printed);
    assert_null(l->config);
    assert_null(l->report);
}

const struct endpoint_conf *first_endpoint(const struct loaded *l)
{
    assert_true(l->config->n_pools > 0 && l->config->pools[0].pool.n_endpoints > 0);
    return &l->config->pools[0].pool.endpoints[0];
}

struct folder folder_new(void)
{
    struct folder folder = {"/tmp/carpool-conf-XXXXXX"};
    assert_non_null(mkdtemp(folder.path));
    return folder;
}

void folder_remove(const struct folder *folder)
{
    DIR *dir = opendir(folder->path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    assert_int_equal(rmdir(folder->path), 0);
}

const char *folder_write(const struct folder *folder, const char *name, const char *text)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder->path, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}
