/* SPDX-License-Identifier: MIT */
/*
 * Any text as a configuration file, or (after a first byte of 'u') as CARPOOL_POOLS. Besides not
 * crashing: what loads, prints as something that loads and prints as the same; what does not load
 * has a reason in printable ASCII.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proxy/conf/conf.h"

static char *print(const struct config *config, const struct conf_report *report)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    CHECK(out != NULL);
    if (config)
        conf_print(config, out);
    else
        conf_report_print(report, out);
    fclose(out);
    return text;
}

static void check_reasons(const struct conf_report *report)
{
    char *text = print(NULL, report);
    CHECK(conf_report_errors(report) > 0 && *text);
    for (const char *c = text; *c; c++)
        CHECK(*c == '\n' || (*c >= 0x20 && *c < 0x7f));
    free(text);
}

static void check_round_trip(const struct config *config)
{
    struct conf_report *report = conf_report_new();
    char *first = print(config, NULL), *second = NULL;
    struct config *again = report ? conf_load_text("again", span_str(first), NULL, report) : NULL;
    CHECK(again != NULL);
    second = print(again, NULL);
    CHECK(strcmp(first, second) == 0);
    free(first);
    free(second);
    conf_free(&again);
    conf_report_free(&report);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct conf_report *report = conf_report_new();
    struct config *config = NULL;
    if (!report)
        return 0;
    setenv("WORD", "p@ss/w\xc3\xa9", 1);
    setenv("N", "7", 1);
    if (size > 0 && data[0] == 'u') {
        char *urls = calloc(1, size); /* strndup() of what has no end upsets strict checks */
        if (urls)
            memcpy(urls, data + 1, size - 1);
        setenv("CARPOOL_POOLS", urls ? urls : "", 1);
        free(urls);
        config = conf_load_urls(NULL, 0, NULL, report);
    } else {
        config = conf_load_text("fuzz", span_of(data, size), NULL, report);
    }
    if (config)
        check_round_trip(config);
    else
        check_reasons(report);
    conf_free(&config);
    conf_report_free(&report);
    return 0;
}
