/* SPDX-License-Identifier: MIT */
#include "admin/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct row {
    struct row *next;
    char *cells[TABLE_COLUMNS];
    char *note;
};

struct table {
    unsigned columns, right;
    unsigned at; /* the next cell's column */
    size_t width[TABLE_COLUMNS];
    struct row *first, *last;
    bool failed;
};

struct table *table_new(unsigned columns, unsigned right)
{
    CHECK(columns >= 1 && columns <= TABLE_COLUMNS);
    struct table *t = calloc(1, sizeof *t);
    if (t) {
        t->columns = columns;
        t->right = right;
    }
    return t;
}

void table_free(struct table *t)
{
    if (!t)
        return;
    while (t->first) {
        struct row *row = t->first;
        t->first = row->next;
        for (unsigned i = 0; i < t->columns; i++)
            free(row->cells[i]);
        free(row->note);
        free(row);
    }
    free(t);
}

static struct row *row_for_cell(struct table *t)
{
    if (t->at > 0)
        return t->last;
    struct row *row = calloc(1, sizeof *row);
    if (!row)
        return NULL;
    if (t->last)
        t->last->next = row;
    else
        t->first = row;
    t->last = row;
    return row;
}

void table_cell(struct table *t, const char *fmt, ...)
{
    struct row *row = t->failed ? NULL : row_for_cell(t);
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (!row || vasprintf(&text, fmt, ap) < 0)
        t->failed = true;
    va_end(ap);
    if (t->failed)
        return;
    size_t n = strlen(text);
    if (n > t->width[t->at])
        t->width[t->at] = n;
    row->cells[t->at] = text;
    t->at = (t->at + 1) % t->columns;
}

void table_note(struct table *t, const char *text)
{
    CHECK(t->failed || (t->last && t->at == 0 && !t->last->note));
    if (t->failed)
        return;
    t->last->note = strdup(text);
    t->failed = !t->last->note;
}

static void print_row(const struct table *t, const struct row *row, FILE *out)
{
    for (unsigned i = 0; i < t->columns; i++) {
        const char *cell = row->cells[i] ? row->cells[i] : "";
        int width = (int)t->width[i];
        if (t->right >> i & 1)
            fprintf(out, "%s%*s", i ? "  " : "", width, cell);
        else if (i + 1 < t->columns)
            fprintf(out, "%s%-*s", i ? "  " : "", width, cell);
        else
            fprintf(out, "%s%s", i ? "  " : "", cell);
    }
    fputc('\n', out);
}

bool table_print(const struct table *t, FILE *out)
{
    if (t->failed)
        return false;
    for (const struct row *row = t->first; row; row = row->next) {
        print_row(t, row, out);
        if (row->note)
            fprintf(out, "    %s\n", row->note);
    }
    return true;
}
