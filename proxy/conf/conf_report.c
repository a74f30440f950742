/* SPDX-License-Identifier: MIT */
/* What is wrong with a configuration: a bounded list in order of place. */
#include "proxy/conf/conf_private.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define ISSUES_MAX 200
#define TEXT_MAX 400

struct conf_report {
    struct conf_issue *issues[ISSUES_MAX]; /* one allocation each, texts behind the struct */
    size_t count, errors;                  /* errors counts dropped ones too */
};

struct conf_report *conf_report_new(void)
{
    return calloc(1, sizeof(struct conf_report));
}

void conf_report_free(struct conf_report **report)
{
    struct conf_report *r = *report;
    *report = NULL;
    for (size_t i = 0; r && i < r->count; i++)
        free(r->issues[i]);
    free(r);
}

size_t conf_report_errors(const struct conf_report *report)
{
    return report->errors;
}

size_t conf_report_count(const struct conf_report *report)
{
    return report->count;
}

const struct conf_issue *conf_report_at(const struct conf_report *report, size_t i)
{
    CHECK(i < report->count);
    return report->issues[i];
}

void conf_report_print(const struct conf_report *report, FILE *out)
{
    size_t shown = 0;
    for (size_t i = 0; i < report->count; i++) {
        const struct conf_issue *issue = report->issues[i];
        fprintf(out, "%s:%u:%u: %s: %s\n", issue->file, issue->line, issue->column,
                issue->warning ? "warning" : "error", issue->text);
        shown += !issue->warning;
    }
    if (shown < report->errors)
        fprintf(out, "and %zu more errors\n", report->errors - shown);
}

static bool comes_later(const struct conf_issue *a, const char *file, struct conf_place at)
{
    return strcmp(a->file, file) == 0 &&
           (a->line > at.line || (a->line == at.line && a->column > at.column));
}

/* Said already, of the same place: twice helps nobody. */
static bool is_known(const struct conf_report *r, const char *file, struct conf_place at,
                     const char *text)
{
    for (size_t i = 0; i < r->count; i++) {
        const struct conf_issue *is = r->issues[i];
        if (is->line == at.line && is->column == at.column && strcmp(is->file, file) == 0 &&
            strcmp(is->text, text) == 0)
            return true;
    }
    return false;
}

static void add_issue(struct conf_report *r, const char *file, struct conf_place at, bool warning,
                      const char *text)
{
    if (is_known(r, file, at, text))
        return;
    r->errors += !warning;
    size_t file_size = strlen(file) + 1, text_size = strlen(text) + 1;
    struct conf_issue *issue =
        r->count < ISSUES_MAX ? malloc(sizeof *issue + file_size + text_size) : NULL;
    if (!issue)
        return;
    char *copy = (char *)(issue + 1);
    memcpy(copy, file, file_size);
    memcpy(copy + file_size, text, text_size);
    *issue = (struct conf_issue){warning, copy, at.line, at.column, copy + file_size};
    size_t i = r->count++;
    for (; i > 0 && comes_later(r->issues[i - 1], file, at); i--)
        r->issues[i] = r->issues[i - 1];
    r->issues[i] = issue;
}

PRINTF_LIKE(4, 0)
static void add_formatted(struct conf_build *b, struct conf_place at, bool warning, const char *fmt,
                          va_list ap)
{
    char text[TEXT_MAX];
    vsnprintf(text, sizeof text, fmt, ap);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
    if (at.line == 0)
        at = (struct conf_place){1, 1};
    add_issue(b->report, b->file, at, warning, text);
}

bool conf_error(struct conf_build *b, struct conf_place at, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    add_formatted(b, at, false, fmt, ap);
    va_end(ap);
    return false;
}

void conf_warn(struct conf_build *b, struct conf_place at, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    add_formatted(b, at, true, fmt, ap);
    va_end(ap);
}

bool conf_no_memory(struct conf_build *b)
{
    if (!b->failed_memory)
        conf_error(b, (struct conf_place){1, 1},
                   "the configuration does not fit into memory: make it smaller");
    b->failed_memory = true;
    return false;
}

const char *conf_quote(struct span text, char *buf)
{
    size_t n = text.n > CONF_QUOTE ? CONF_QUOTE : text.n;
    snprintf(buf, CONF_QUOTE + 8, "'%.*s%s'", (int)n, n ? (const char *)text.p : "",
             text.n > n ? "..." : "");
    return buf;
}
