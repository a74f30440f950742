/* SPDX-License-Identifier: MIT */
/*
 * The row that auth.query gives: from a server, but by a statement of somebody's own. Input: a byte
 * of options, then the row as it stands; or its columns (name, secret, seconds) with newlines
 * between them. Nobody is found but who was asked for, with a secret that fits and time left.
 */
#include "proxy/front/postgres_auth_talk.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NAME "app"
#define BODY_MAX 8192

struct row {
    uint8_t body[BODY_MAX];
    size_t n;
};

static void put_column(struct row *row, struct span text, bool null)
{
    uint32_t n = null ? UINT32_MAX : (uint32_t)text.n;
    for (int shift = 24; shift >= 0; shift -= 8)
        row->body[row->n++] = (uint8_t)(n >> shift);
    if (null || text.n == 0)
        return;
    memcpy(row->body + row->n, text.p, text.n);
    row->n += text.n;
}

/* The option's upper bits: which columns are null. */
static struct row row_of(uint8_t option, struct span in)
{
    struct row row = {.n = 2};
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *end = in.n ? memchr(in.p, '\n', in.n) : NULL;
        struct span text = span_of(in.p, end ? (size_t)(end - in.p) : in.n);
        put_column(&row, text, option >> (4 + i) & 1);
        row.body[1]++;
        if (!end)
            break;
        in = span_skip(in, text.n + 1);
    }
    return row;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pg_talk t = {.name_n = strlen(NAME), .name = NAME, .completed = 1};
    if (size == 0 || size > BODY_MAX - 64)
        return 0;
    struct span in = span_of(data + 1, size - 1);
    struct row row = {0};
    if (data[0] & 1) {
        row = row_of(data[0], in);
        in = span_of(row.body, row.n);
    }
    struct pg_msg m = {.type = 'D', .body = in, .len = (uint32_t)in.n};
    take_row(&t, &m);
    CHECK(t.answered);
    bool read = t.err.cause == CAUSE_NONE;
    CHECK(!t.found.exists || t.found.secret_n <= sizeof t.found.secret);
    CHECK(read || !t.found.exists);
    if (t.found.exists)
        CHECK(t.seconds > 0 && memmem(in.p, in.n, NAME, strlen(NAME)));
    else
        CHECK(t.found.secret_n == 0);
    take_row(&t, &m); /* one more than there may be */
    CHECK(t.err.cause != CAUSE_NONE);
    return 0;
}
